#!/usr/bin/env python3
"""Write five training cases of a built-in site as a raw dataset: images.py NUMBER SITE."""

import os
import sys
from pathlib import Path

from nnunet_gml.phantom import write_dataset

number, site = sys.argv[1:]
write_dataset(Path(os.environ["nnUNet_raw"]), int(number), site, seed=3, training_cases=5, test_cases=1)

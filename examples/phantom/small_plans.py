#!/usr/bin/env python3
"""Add a configuration that a CPU trains in seconds: small_plans.py NUMBER CONFIGURATION."""

import json
import os
import sys
from pathlib import Path

from nnunet_gml.simulation.recipe import Recipe
from nnunet_gml.simulation.shared_plans import small_configuration

number, configuration = sys.argv[1:]
(path,) = Path(os.environ["nnUNet_preprocessed"]).glob(f"Dataset{int(number):03d}_*/nnUNetPlans.json")
plans = json.loads(path.read_text())
recipe = Recipe(
    datasets=(), trainers=(), epochs=1, iterations=1, seed=1,
    patch_size=(16, 24, 24), features=(4, 8, 8), batch_size=2,
)  # fmt: skip
plans["configurations"][configuration] = small_configuration(plans, recipe)
path.write_text(json.dumps(plans, indent=4))

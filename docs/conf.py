"""How the documentation is built: `make docs`."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from nnunet_gml import __version__  # noqa: E402

project = "nnunet-gml"
copyright = "the authors of nnunet-gml, Apache-2.0"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_argparse_cli"]
myst_enable_extensions = ["deflist", "dollarmath"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header"]
autodoc_member_order = "bysource"
autodoc_mock_imports = []
napoleon_google_docstring = True

html_theme = "furo"
html_title = f"nnunet-gml {__version__}"
exclude_patterns = ["_build"]
linkcheck_ignore = [r"https?://.*"]

"""Lets the tests of this folder find it as the package `clouds`, wherever they are started from."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

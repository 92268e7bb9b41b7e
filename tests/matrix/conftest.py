"""The matrix runs the command line as its own tests do."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "cli")]  # walk.py, running.py

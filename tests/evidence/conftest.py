"""Rows that several files of tests read."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # rows_of_tables.py

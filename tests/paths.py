"""Where tests find things, wherever they stand themselves."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PICTURES = ROOT / "fixtures" / "pictures"
# Steps that misbehave, by reference `FILE:NAME`.
FAULTS = ROOT / "tests" / "fixtures" / "faults.py"
RANK_FAULTS = ROOT / "tests" / "fixtures" / "rank_faults.py"
PACED = ROOT / "tests" / "fixtures" / "paced.py"

"""Paths that tests use."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PICTURES = ROOT / "fixtures" / "pictures"
# Files with steps, for references `FILE:NAME`.
FAULTS = ROOT / "tests" / "fixtures" / "faults.py"
RANK_FAULTS = ROOT / "tests" / "fixtures" / "rank_faults.py"
CONFIGURABLE_STEP = ROOT / "tests" / "fixtures" / "configurable_step.py"

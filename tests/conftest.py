"""What all tests need."""

import os

# The suite's own runs that tests start are no part of a distributed run: pytest-benchmark would switch itself off.
os.environ.pop("PYTEST_XDIST_WORKER", None)

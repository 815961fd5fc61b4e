"""What all tests need."""

import os

import pytest

from tests.starting import PytestServer

# The suite's own runs that tests start are no part of a distributed run: pytest-benchmark would switch itself off.
os.environ.pop("PYTEST_XDIST_WORKER", None)


@pytest.fixture(scope="session")
def forked_pytest():
    server = PytestServer()
    yield server
    server.close()

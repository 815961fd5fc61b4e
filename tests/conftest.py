"""Fixtures for all tests."""

import os

import pytest

from tests.subprocesses import PytestServer

# Runs of the suite that tests start would inherit it, and pytest-benchmark would switch itself off.
os.environ.pop("PYTEST_XDIST_WORKER", None)


@pytest.fixture(scope="session")
def forked_pytest():
    server = PytestServer()
    yield server
    server.close()

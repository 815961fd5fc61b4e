"""Runs of the suite with two devices of the fake accelerator, which torch finds on the import path by itself.

The fake accelerator is C++: without a compiler these tests are skipped. `.ci/run` demands one.
"""

import os

import pytest

from tests.fake_accelerator import fake_accelerator_backend
from tests.paths import ROOT
from tests.subprocesses import PytestServer
from tests.suite import PLUGINS, Suite

FOLDERS = (ROOT / "tests" / "fake_accelerator", ROOT / "tests" / "accelerator", PLUGINS)
IMPORT_PATH = {"PYTHONPATH": os.pathsep.join(map(str, FOLDERS))}


@pytest.fixture(scope="session")
def library():
    """Path of the compiled fake accelerator."""
    if fake_accelerator_backend.compiler() is None:
        pytest.skip("the fake accelerator is written in C++, and there is no compiler: install g++, or name one by CXX")
    import torch

    return fake_accelerator_backend.library(torch)


@pytest.fixture(scope="session")
def server(library):
    server = PytestServer(IMPORT_PATH)
    yield server
    server.close()


@pytest.fixture(scope="module")
def suite(server, tmp_path_factory):
    """Returns a `Suite` with a record file of its own; keywords are variables of its environment, e.g. FAKE_FAULTS."""
    return lambda **environment: Suite(tmp_path_factory.mktemp("run"), server, IMPORT_PATH | environment)

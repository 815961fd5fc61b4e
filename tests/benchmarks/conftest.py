import pytest

from tests.suite import Suite


@pytest.fixture
def suite(tmp_path, forked_pytest):
    return Suite(tmp_path, forked_pytest)

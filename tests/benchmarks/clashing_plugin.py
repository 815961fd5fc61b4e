"""A user's plugin whose details would overwrite what was measured."""


def pytest_goghmark_details(outcome):
    return {"status": "splendid", "room": outcome.cell.pixels}

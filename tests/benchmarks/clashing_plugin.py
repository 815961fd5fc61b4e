"""A user's plugin whose details would overwrite a measured value."""


def pytest_goghmark_details(outcome):
    return {"status": "splendid", "room": outcome.cell.pixels}

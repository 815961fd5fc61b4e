"""Loads the suite's plugins, in the order in which data flows through them."""

pytest_plugins = [
    "fixtures.options",
    "fixtures.interruption",
    "fixtures.catalog",
    "fixtures.machine",
    "fixtures.matrix",
    "fixtures.record",
    "fixtures.progress",
    "fixtures.against",
    "fixtures.saved_pictures",
    "fixtures.measuring",
    "fixtures.generating",
    "fixtures.search",
    "fixtures.summary",
    "fixtures.limits",
    "fixtures.ceilings",
    "fixtures.roofline",
    "fixtures.classification",
    "fixtures.scaling",
    "fixtures.input_side",
    "fixtures.compared",
]

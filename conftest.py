"""Loads the suite's plugins, in the order in which data flows through them."""

pytest_plugins = [
    "fixtures.options",
    "fixtures.interruption",
    "fixtures.catalog",
    "fixtures.machine",
    "fixtures.matrix",
    "fixtures.records.record",
    "fixtures.progress.plugin",
    "fixtures.comparing.against",
    "fixtures.records.saved_pictures",
    "fixtures.measuring",
    "fixtures.generating",
    "fixtures.search",
    "fixtures.summaries.summary",
    "fixtures.summaries.limits",
    "fixtures.summaries.ceilings",
    "fixtures.summaries.roofline",
    "fixtures.summaries.classification",
    "fixtures.ranks.scaling",
    "fixtures.summaries.input_side",
    "fixtures.comparing.compared",
]

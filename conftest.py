"""Loads the suite's plugins, in the order in which data flows through them."""

pytest_plugins = [
    "fixtures.options",
    "fixtures.machine",
    "fixtures.model_registry",
    "fixtures.matrix",
    "fixtures.records.recorder",
    "fixtures.progress.plugin",
    "fixtures.comparing.plugin",
    "fixtures.records.images",
    "fixtures.records.tiling_errors",
    "fixtures.measure",
    "fixtures.generate",
    "fixtures.search",
    "fixtures.scaling",
    "fixtures.summaries.roofline",
    "fixtures.summaries.classification",
    "fixtures.summaries.scaling",
    "fixtures.summaries.style",
    "fixtures.summaries.plugin",
]

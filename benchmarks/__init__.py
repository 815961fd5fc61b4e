"""Which questions are asked: one per file. A benchmark's docstring is the protocol of its experiment."""

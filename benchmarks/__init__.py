"""The benchmarks, one question per file; a benchmark's docstring is the protocol of its experiment."""

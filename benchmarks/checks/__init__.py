"""The sections of `benchmarks.selfcheck`, one module for each subject."""

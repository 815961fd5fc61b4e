"""The error that stands for a user's mistake."""


class InputError(ValueError):
    """What the user gave cannot be used: one sentence with what was found, what was wanted and what to do."""


class Unsupported(RuntimeError):
    """What was asked for cannot be had on this machine: one sentence that says why."""

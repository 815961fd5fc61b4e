"""Errors that are reported to the user in one sentence."""


class InputError(ValueError):
    """Unusable input from the user. The message is one sentence: what was found, what is expected, what to do."""


class Unsupported(RuntimeError):
    """This machine does not support what is requested. The message is one sentence that says why."""

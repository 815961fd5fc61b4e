"""Shared by the commands: the argument parser, error messages of options, writing of output, the exit."""

import argparse
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, TypeVar

from fixtures.schema import write_atomically
from models.errors import InputError

T = TypeVar("T")


def parser_of(call: str, text: str | None) -> argparse.ArgumentParser:
    """A parser whose help shows the text unchanged.

    Args:
        call: the command line, e.g. `python -m benchmarks.plan`.
        text: the module's docstring.
    """
    return argparse.ArgumentParser(prog=call, description=text, formatter_class=argparse.RawDescriptionHelpFormatter)


def argument_type(parse: Callable[[str], T]) -> Callable[[str], T]:
    """The parser for argparse, with the message of its ValueError, which argparse would replace by its own."""

    def parse_for_argparse(word: str) -> T:
        try:
            return parse(word)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return parse_for_argparse


def run(main: Callable[[], int]) -> NoReturn:
    """End the process with the exit code of `main`; the reader of its output may stop early, as `head` does."""
    try:
        status = main()
        sys.stdout.flush()
    except BrokenPipeError:
        # Flushing at exit would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 128 + signal.SIGPIPE
    sys.exit(status)


def write_output(path: Path, text: str) -> None:
    """Write the file of `--output`, replacing it in one step.

    Raises:
        InputError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text)
    except OSError as error:
        raise InputError(f"--output={path} cannot be written ({error.strerror}); give another path") from error

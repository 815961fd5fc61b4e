"""What the commands share: a parser with the module's own text, options that keep their sentence, output, an end."""

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
    """A parser whose help shows the text as it stands.

    Args:
        call: what is typed to run it, e.g. `python -m benchmarks.plan`.
        text: the module's docstring.
    """
    return argparse.ArgumentParser(prog=call, description=text, formatter_class=argparse.RawDescriptionHelpFormatter)


def spoken(parse: Callable[[str], T]) -> Callable[[str], T]:
    """The parser with its sentence kept: argparse replaces that of a ValueError by one of its own."""

    def parse_for_argparse(word: str) -> T:
        try:
            return parse(word)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return parse_for_argparse


def run(main: Callable[[], int]) -> NoReturn:
    """End the process with the exit code of `main`. Who reads its output may stop early, as `head` does."""
    try:
        status = main()
        sys.stdout.flush()
    except BrokenPipeError:
        # What is still to be written would fail once more at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 128 + signal.SIGPIPE
    sys.exit(status)


def write_output(path: Path, text: str) -> None:
    """Write what `--output` asked for, in one step.

    Raises:
        InputError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text)
    except OSError as error:
        raise InputError(f"--output={path} cannot be written ({error.strerror}); give another path") from error

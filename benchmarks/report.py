"""A page with plots from record files: one self-contained index.html, summary.md, and the plots as PNG and SVG.

python -m benchmarks.report RECORD.json [MORE.json ...] --output=report/

Files of one machine are its history, in the order given: the last is compared with those before it, and its figures are
shown where several files have a cell. Several machines, from several files or a merged one, are shown side by side.
Needs the extra `report` (matplotlib, jinja2), and no torch.

Exit code: 0 done, 2 a file that cannot be used, or a folder that cannot be written.
"""

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import cli
from fixtures.records.reader import read_records
from models.errors import InputError

_NEEDED = ("matplotlib", "jinja2")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit code."""
    options = _parser().parse_args(arguments)
    try:
        for path in _report(options.files, options.output):
            print(path)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser_of("python -m benchmarks.report", __doc__)
    add = parser.add_argument
    add("files", nargs="+", type=Path, metavar="RECORD.json", help="record files, the oldest first")
    add("--output", type=Path, default=Path("report"), metavar="FOLDER", help="where to write (default: report)")
    return parser


def _report(paths: Sequence[Path], folder: Path) -> list[Path]:
    """Write the report.

    Returns: the files.

    Raises:
        InputError: a package is missing, or a file cannot be read or written.
    """
    files = [record for path in paths for record in read_records(path)]
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"the report needs {' and '.join(missing)}; install them with pip install -e '.[report]'")
    from benchmarks.reporting.data import gather  # noqa: PLC0415 - needs the extra
    from benchmarks.reporting.page import write  # noqa: PLC0415

    try:
        return write(gather(files), folder)
    except OSError as error:
        raise InputError(f"--output={folder} cannot be written ({error.strerror}); give another folder") from error


if __name__ == "__main__":
    cli.run(main)

"""A record file in the formats of other programs. No torch is imported; the file may come from anywhere.

python -m benchmarks.export RECORD.json --format=github-action-benchmark-bigger --output=rates.json
python -m benchmarks.export RECORD.json --format=github-action-benchmark-smaller --output=memory.json
python -m benchmarks.export RECORD.json --format=prometheus --output=/var/lib/node_exporter/goghmark.prom

github-action-benchmark takes one direction a file: `bigger` holds rates and the largest images (for its
`tool: customBiggerIsBetter`), `smaller` peak memory (for `tool: customSmallerIsBetter`). --format=prometheus needs the
extra `export` (prometheus-client). Without --output the text is printed.

Exit code: 0 done, 2 a file that cannot be used, or a package that is missing.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks import cli
from fixtures.records.exporters import Entry, bigger_is_better, exposition, smaller_is_better
from fixtures.records.reader import RecordFile, read_records
from fixtures.schema import strict_json
from models.errors import InputError

Records = Sequence[RecordFile]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit code."""
    options = _parser().parse_args(arguments)
    try:
        records = read_records(options.record)
        text = FORMATS[options.format](records)
        if options.output is None:
            print(text, end="")
        else:
            cli.write_output(options.output, text)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _entries(of: Callable[[Records], list[Entry]]) -> Callable[[Records], str]:
    def text(records: Records) -> str:
        entries = of(records)
        if not entries:  # the action treats an empty list as an error
            raise InputError(f"{str(records[0].path)!r} has no cell with such a figure; give the record of another run")
        return strict_json(entries, indent=1) + "\n"

    return text


FORMATS: Mapping[str, Callable[[Records], str]] = {
    "github-action-benchmark-bigger": _entries(bigger_is_better),
    "github-action-benchmark-smaller": _entries(smaller_is_better),
    "prometheus": exposition,
}


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser_of("python -m benchmarks.export", __doc__)
    add = parser.add_argument
    add("record", type=Path, metavar="RECORD.json", help="a record file, one of many machines, or pytest-benchmark's")
    add("--format", required=True, choices=tuple(FORMATS))
    add("--output", type=Path, metavar="PATH", help="the file to write, replaced in one step (default: print)")
    return parser


if __name__ == "__main__":
    cli.run(main)

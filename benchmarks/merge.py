"""Merge the record files of several machines into one. No torch is imported; the files may come from anywhere.

python -m benchmarks.merge A.json B.json ... -o fleet.json
python -m benchmarks.merge left=A.json right=B.json -o fleet.json      two machines that are alike need names

`fixtures/records/merging.py` describes the file; `benchmarks.report` reads it like any other. Merged files can be
merged again.

Exit code: 0 done, 2 a file that cannot be used, or the same cell of the same machine twice with different values.
"""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import cli
from fixtures.formatting import table
from fixtures.records.merging import different_options, machine_rows, merge
from fixtures.records.reader import RecordFile, read_records
from fixtures.schema import strict_json
from models.errors import InputError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit code."""
    options = _parser().parse_args(arguments)
    try:
        merged = merge([record for word in options.files for record in _read(word)], options.prefer)
        cli.write_output(options.output, strict_json(merged, indent=1) + "\n")
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\n".join(table(machine_rows(merged), words=(0, 1, 3, 4, 5))))
    for line in different_options(merged):
        print(line)
    print(f"{len(merged['cells'])} cells of {len(merged['machines'])} machine(s) in {options.output}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser_of("python -m benchmarks.merge", __doc__)
    add = parser.add_argument
    add("files", nargs="+", metavar="[LABEL=]RECORD.json", help="record files; LABEL names the machine")
    add("-o", "--output", required=True, type=Path, metavar="PATH", help="the file to write")
    add("--prefer", choices=("first", "last"), help="which file's cell to take where two differ (default: neither)")
    return parser


def _read(word: str) -> tuple[RecordFile, ...]:
    """The records in `PATH` or `LABEL=PATH`."""
    label, separator, path = word.partition("=")
    if not separator or Path(word).exists():
        return read_records(Path(word))
    records = read_records(Path(path))
    if not label or len(records) > 1:
        raise InputError(f"{word!r}: a label is one or more letters, and names the one machine of a file")
    return tuple(dataclasses.replace(record, label=label) for record in records)


if __name__ == "__main__":
    cli.run(main)

"""Writes the page of what fits on which card: denoisers and decoders, their memory and their largest images.

python -m benchmarks.what_fits [--output=docs/what-fits.md]

Predicts without running anything, and without a device; the figures depend on the shapes of the networks only. Takes a
minute or two, and needs the extra `diffusers`. For one model, other sizes, batches or training: `benchmarks.plan`.

Short because the page is made in `fixtures/planning/what_fits.py`.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.cli import parser_of, run, write_output
from fixtures.planning.what_fits import page
from models.errors import InputError


def main(arguments: Sequence[str] | None = None) -> int:
    """Print or write the page. Returns the exit status: 0, or 2 after a sentence about bad input."""
    parser = parser_of("python -m benchmarks.what_fits", __doc__)
    parser.add_argument("--output", type=Path, metavar="PATH", help="file to write (default: print)")
    options = parser.parse_args(arguments)
    try:
        text = page()
        if options.output is None:
            print(text, end="")
        else:
            write_output(options.output, text)
    except InputError as error:
        print(f"what_fits: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    run(main)

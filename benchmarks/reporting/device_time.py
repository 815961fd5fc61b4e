"""The device's own time of an iteration, launches and allocator of cells on accelerators, as a table.

Short because the figures are read in `fixtures/records/device_time.py`.
"""

from benchmarks.reporting.data import ReportData, ShownCell
from benchmarks.reporting.sections import (
    IDENTIFIED,
    Row,
    Section,
    Table,
    identified,
    memory,
    number,
    percent,
    row,
    status,
)
from fixtures.records.device_time import explained, is_launch_bound, queueing_share, timed

_HEADER = (
    *IDENTIFIED, "ms/iteration", "device [ms]", "queueing [ms]", "queueing/device", "kernels", "operators", "reserved",
    "allocator retries", "allocator OOMs", "status",
)  # fmt: skip


def device_time(report_data: ReportData) -> Section | None:
    """The section; None if nothing ran on an accelerator, or all files are of versions that did not measure it."""
    cells = timed(report_data.cells)
    if not cells:
        return None
    bound = sum(map(is_launch_bound, cells))
    finding = f"Of {len(cells)} cells on accelerators {bound} are bound by the launches of the host."
    return Section(
        "device-time",
        "Device time",
        finding,
        tables=(Table("Device time of every cell", _HEADER, [_row(cell) for cell in cells]),),
        notes=explained(cells),
    )


def _row(cell: ShownCell) -> Row:
    return row(
        cell,
        *identified(cell),
        number(cell.median_seconds, 1e-3),
        number(cell.number("device_seconds"), 1e-3),
        number(cell.number("queueing_seconds"), 1e-3),
        percent(queueing_share(cell)),
        number(cell.number("kernels_per_iteration")),
        number(cell.number("operators_per_iteration")),
        memory(cell.number("peak_reserved_bytes")),
        number(cell.number("num_alloc_retries")),
        number(cell.number("num_ooms")),
        status(cell),
    )

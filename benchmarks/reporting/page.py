"""Writes the report: one self-contained page, a summary in Markdown, and the plots as files."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from benchmarks.reporting import plotting
from benchmarks.reporting.classification import classification, input_side
from benchmarks.reporting.comparison import comparison, history
from benchmarks.reporting.data import ReportData
from benchmarks.reporting.device_time import device_time
from benchmarks.reporting.gallery import gallery
from benchmarks.reporting.headline import headline
from benchmarks.reporting.machines import all_cells, machines, watched
from benchmarks.reporting.memory import largest, peak_memory
from benchmarks.reporting.roofline import limits, roofline
from benchmarks.reporting.scaling import scaling
from benchmarks.reporting.sections import Chart, Section, Table
from benchmarks.reporting.speed_ups import speed_ups
from benchmarks.reporting.stages import stage_memory, stages
from benchmarks.reporting.strategies import strategies
from benchmarks.reporting.throughput import heat_map, throughput
from benchmarks.reporting.tilers import tilers
from fixtures.formatting import markdown_table
from fixtures.schema import write_atomically

# In the order of the page, the most important first.
SECTIONS: tuple[Callable[[ReportData], Section | None], ...] = (
    comparison,
    throughput,
    heat_map,
    peak_memory,
    stages,
    stage_memory,
    largest,
    speed_ups,
    strategies,
    tilers,
    classification,
    input_side,
    device_time,
    limits,
    roofline,
    scaling,
    history,
    gallery,
    watched,
    machines,
    all_cells,
)
# A summary is read in a comment or a terminal: longer tables are cut.
_MARKDOWN_ROWS = 40


def write(report_data: ReportData, folder: Path) -> list[Path]:
    """Write `index.html`, `summary.md` and `plots/`.

    Returns: the files, the page first.

    Raises:
        OSError: the folder cannot be written.
    """
    sections = [section for make in SECTIONS if (section := make(report_data)) is not None]
    plots = folder / "plots"
    plots.mkdir(parents=True, exist_ok=True)
    drawings = {chart.name: _draw(chart, plots) for section in sections for chart in section.charts}
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=select_autoescape(("html.j2",)),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    given = {"headline": headline(report_data), "sections": sections, "report_data": report_data}
    page = templates.get_template("page.html.j2").render(
        **given, drawings=drawings, choices=_choices(report_data), css=_file("page.css"), script=_file("page.js")
    )
    summary = templates.get_template("summary.md.j2").render(**given, markdown=_markdown)
    write_atomically(folder / "index.html", page)
    write_atomically(folder / "summary.md", summary)
    files = [plots / f"{name}{suffix}" for name in drawings for suffix in (".svg", ".png")]
    return [folder / "index.html", folder / "summary.md", *files]


def _draw(chart: Chart, plots: Path) -> Sequence[Markup]:
    """The chart for wide and for narrow pages; the wide one is written to `plots` as well."""
    with plotting.style():
        figures = {"wide": chart.draw(plotting.WIDE_INCHES), "narrow": chart.draw(plotting.NARROW_INCHES)}
    inline = [
        Markup(plotting.for_page(one, f"{chart.name}-{name}", chart.title))  # noqa: S704 - our own drawing
        for name, one in figures.items()
    ]
    plotting.save(figures["wide"], chart.title, plots / chart.name)
    return inline


def _choices(report_data: ReportData) -> Mapping[str, Sequence[str]]:
    """Values of the page's filter."""
    return {
        "place": report_data.places,
        "model": tuple(dict.fromkeys(cell.model for cell in report_data.cells)),
        "status": tuple(dict.fromkeys(cell.status for cell in report_data.cells)),
    }


def _markdown(table: Table) -> str:
    rows = [
        [*(datum.text for datum in row.data[:-1]), row.data[-1].text + (" *" if row.doubts else "")]
        for row in table.rows[:_MARKDOWN_ROWS]
    ]
    lines = markdown_table(list(table.header), rows)
    hidden = len(table.rows) - len(rows)
    return "\n".join([*lines, *(["", f"{hidden} more rows are in the page."] if hidden else [])])


def _file(name: str) -> Markup:
    return Markup((Path(__file__).parent / name).read_text(encoding="utf-8"))  # noqa: S704 - our own file

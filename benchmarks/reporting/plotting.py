"""The style of plots, and their way into the page: drawn by matplotlib, coloured by the page.

Colours of data are those of Okabe & Ito (2008, Color Universal Design), which any colour vision distinguishes; each
series has a marker of its own as well. Ink, grid and paper are for a light background in files, and CSS variables in
the page, so that one drawing serves its light and its dark mode.
"""

import html
import io
import math
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from benchmarks.reporting.data import ReportData, ShownCell
from fixtures.formatting import figure

INK, MUTED, GRID, PAPER = "#1d2126", "#646c75", "#dfe2e6", "#fefefe"
_PAGE_COLOURS = {INK: "var(--ink)", MUTED: "var(--muted)", GRID: "var(--grid)", PAPER: "var(--paper)"}

BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"
COLOURS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "h", "*")
DASHES = ("-", "--", "-.", ":")

WIDE_INCHES, NARROW_INCHES = 8.6, 4.1
_PNG_DOTS_PER_INCH = 160

_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "svg.fonttype": "none",
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.6,
    "lines.markersize": 5.5,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "hatch.linewidth": 0.6,
}


@contextmanager
def style() -> Iterator[None]:
    """A context with matplotlib's settings for the report, for drawing and for saving."""
    with mpl.rc_context(_STYLE):
        yield


def canvas(width_inches: float, height_inches: float) -> Figure:
    """An empty figure."""
    return Figure(figsize=(width_inches, height_inches), layout="constrained")


def is_narrow(width_inches: float) -> bool:
    """Whether a drawing is for a phone."""
    return width_inches < (WIDE_INCHES + NARROW_INCHES) / 2


@dataclass(frozen=True)
class Look:
    """The colour, marker and line of a series, the same in all plots of a report.

    Attributes:
        filled: the part of the marker that is filled, as matplotlib's `fillstyle`.
    """

    colour: str
    marker: str
    dash: str
    filled: str = "full"


def looks(report_data: ReportData) -> dict[tuple[str, str], Look]:
    """The look of each device and model."""
    return {series: look(index) for index, series in enumerate(report_data.series)}


def look(index: int) -> Look:
    """The look of the series with that index: first all colours, then other dashes of the same colours."""
    count = len(COLOURS)
    return Look(COLOURS[index % count], MARKERS[index % len(MARKERS)], DASHES[index // count % len(DASHES)])


def tag(artist: Artist, cell: ShownCell) -> None:
    """Mark an artist with what it shows, for the page's filter."""
    artist.set_gid(f"shown|{cell.place}|{cell.model}|{cell.status}")


def curve(
    axes: Axes,
    cells: Sequence[ShownCell],
    value: Callable[[ShownCell], float | None],
    look: Look,
    of: ShownCell,
    **further: Any,
) -> None:
    """Draw a line through a figure of the cells against their pixels.

    Args:
        of: the cell that the page's filter takes the line for.
    """
    values = [value(cell) or 0 for cell in cells]
    style = {"color": look.colour, "marker": look.marker, "linestyle": look.dash, "fillstyle": look.filled}
    drawn_as: dict[str, Any] = {**style, **further}
    (line,) = axes.plot([cell.pixels for cell in cells], values, **drawn_as)
    tag(line, of)


def legend_below(axes: Axes, width_inches: float) -> None:
    """A legend of all panels of the plot, below them, where it hides no data; none without labels."""
    assert isinstance(axes.figure, Figure)
    panels = (panel.get_legend_handles_labels() for panel in axes.figure.axes)
    named = {label: handle for one in panels for handle, label in zip(*one, strict=True)}
    if named:
        # A line with its marker is 40 points wide, a letter 5.
        widest = int((72 * width_inches - 40) / 5)
        labels = [textwrap.fill(label, widest) for label in named]
        longest = max(len(line) for label in labels for line in label.split("\n"))
        columns = max(1, int(72 * width_inches / (40 + 5 * longest)))
        axes.figure.legend(list(named.values()), labels, loc="outside lower left", ncols=columns, handlelength=2.6)


def plain_numbers(axis: mpl.axis.Axis) -> None:
    """Label the ticks of a logarithmic axis with plain numbers: 0.1, 1, 10, 1000."""
    low, high = axis.get_view_interval()
    decades = math.log10(high / max(low, 1e-300))
    subs = (1.0,) if decades > 2.3 else (1.0, 2.0, 5.0) if decades > 0.8 else (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0)
    axis.set_major_locator(LogLocator(subs=subs, numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: figure(float(f"{value:.6g}"))))
    axis.set_minor_formatter(NullFormatter())
    axis.set_minor_locator(NullLocator())


def size_ticks(axes: Axes, cells: Iterable[ShownCell], width_inches: float) -> None:
    """Logarithmic pixels along x, labelled with the cells' resolutions as far as they have room."""
    axes.set_xscale("log")
    sizes = dict(sorted((cell.pixels, cell.size_px) for cell in cells))
    low, high = min(sizes), max(sizes)
    axes.set_xlim(low / 1.5, high * 1.5)
    # The width of a character, as a part of the axis.
    room = (math.log(high * 1.5) - math.log(low / 1.5)) / (width_inches * 10)
    shown: dict[int, str] = {}
    for pixels, label in sizes.items():
        before = max(shown, default=0)
        if not before or math.log(pixels / before) > room * (len(label) + len(shown[before]) + 2) / 2:
            shown[pixels] = label
    axes.xaxis.set_major_locator(FixedLocator(list(shown)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(list(shown), list(shown.values()))
    axes.set_xlabel("side of a square image, or width × height [px]; axis in pixels, logarithmic")
    if is_narrow(width_inches):
        axes.set_xlabel("image size [px], logarithmic in pixels")


def lightness(colour: Sequence[float]) -> float:
    """Perceived lightness of a colour, 0 to 1 (weights of ITU-R BT.601)."""
    return 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]


def save(fig: Figure, title: str, stem: Path) -> None:
    """Write `stem.svg` and `stem.png`, with background and title, for use without the page."""
    with style():
        fig.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold")
        fig.savefig(stem.with_suffix(".svg"), facecolor=PAPER, metadata={"Date": None, "Creator": "goghmark"})
        fig.savefig(stem.with_suffix(".png"), facecolor=PAPER, dpi=_PNG_DOTS_PER_INCH)


def for_page(fig: Figure, name: str, title: str) -> str:
    """The drawing as an SVG element of the page: with the page's colours and fonts, and with unique ids."""
    text = io.StringIO()
    with style():
        fig.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<defs>\s*<style type="text/css">.*?</style>\s*</defs>\s*', "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*" height="[^"]*"', r"\1", svg, count=1)
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{html.escape(title)}" ', 1)
    shown = r'id="shown\|([^|"]*)\|([^|"]*)\|([^|"]*)"'
    svg = re.sub(shown, r'data-place="\1" data-model="\2" data-status="\3"', svg)
    svg = re.sub(r' id="[a-z0-9.]+_\d+"', "", svg)  # ids of groups, without references
    svg = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = svg.replace("font-family: 'DejaVu Sans'", "font-family: inherit").replace("'DejaVu Sans'", "var(--sans)")
    svg = re.sub(r"\s*\n\s*", " ", svg)
    for colour, variable in _PAGE_COLOURS.items():
        svg = svg.replace(colour, variable)
    return svg

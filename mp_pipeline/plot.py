"""A plot of the last year: rows per day, rejected lines, duplicates and late-arriving events."""

import base64
import io
import math
from collections.abc import Sequence
from datetime import date, timedelta

from mp_pipeline.storage import LoadReport

_DAYS = 366
_INCHES = (8.0, 4.4)
_DOTS_PER_INCH = 100
_ROWS = "#56b4e9"
_COLORS = {"duplicates": "#0072b2", "rejected": "#d55e00", "late": "#009e73"}
"""Distinguishable with color blindness."""

_ALT_TEXT = "Rows per day; duplicates, rejected lines and late-arriving events"

_Series = dict[str, list[float]]


def volume_plot(reports: Sequence[LoadReport]) -> str:
    """Return a plot of the last 366 days as Markdown with an embedded PNG image.

    One panel shows the rows of each day. The other shows the duplicates and rejected lines of the
    day's latest load, and its late-arriving events: the rows that later loads gained. The
    background is opaque, so that the plot can be read in dark mode.

    Args:
        reports: Loads of day tables, oldest first; at least one.
    """
    image = base64.b64encode(_png(*_series(reports))).decode()
    return f"![{_ALT_TEXT}](data:image/png;base64,{image})"


def _series(reports: Sequence[LoadReport]) -> tuple[list[date], _Series]:
    """Return the days to plot and their counts, NaN for a day that was never loaded."""
    loads: dict[date, list[LoadReport]] = {}
    for report in reports:
        if report.day is not None:
            loads.setdefault(report.day, []).append(report)
    last = max(loads)
    first = max(min(loads), last - timedelta(days=_DAYS - 1))
    days = [first + timedelta(days=offset) for offset in range((last - first).days + 1)]
    series: _Series = {name: [] for name in ("rows", *_COLORS)}
    for day in days:
        of_day = loads.get(day)
        series["rows"].append(of_day[-1].rows_stored if of_day else math.nan)
        series["duplicates"].append(of_day[-1].duplicates if of_day else math.nan)
        series["rejected"].append(of_day[-1].rejected if of_day else math.nan)
        late = sum(load.gained or 0 for load in of_day) if of_day else math.nan
        series["late"].append(late)
    return days, series


def _png(days: Sequence[date], series: _Series) -> bytes:
    # Importing matplotlib takes half a second; the code location does not need it.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    figure = Figure(figsize=_INCHES, dpi=_DOTS_PER_INCH, facecolor="white")
    FigureCanvasAgg(figure)  # registers itself as the figure's canvas
    figure.subplots_adjust(left=0.11, right=0.97, top=0.93, bottom=0.12, hspace=0.3)
    above, below = figure.subplots(2, 1, sharex=True)
    edges = date2num([*days, days[-1] + timedelta(days=1)])
    # Antialiasing would double the size of the image.
    above.stairs(series["rows"], edges, fill=True, color=_ROWS, antialiased=False)
    above.set_title("Rows per day", loc="left", fontsize="medium")
    for name, color in _COLORS.items():
        look = {"color": color, "linewidth": 1, "antialiased": False}
        below.stairs(series[name], edges, baseline=None, label=name, **look)
    below.set_title(
        "Duplicates, rejected lines, late-arriving events", loc="left", fontsize="medium"
    )
    below.legend(ncols=len(_COLORS), loc="lower right", bbox_to_anchor=(1, 1), frameon=False)
    for axes in (above, below):
        axes.set_xlim(edges[0], edges[-1])
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.grid(axis="y", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    locator = AutoDateLocator(minticks=min(4, len(days)), maxticks=10)
    below.xaxis.set_major_locator(locator)
    below.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    image = io.BytesIO()
    figure.savefig(image, format="png")
    return image.getvalue()

"""Plots of the last year: rows, differences from Mixpanel's own counts, users, events by name."""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

from mp_pipeline.days import days_between
from mp_pipeline.storage import LoadReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DAYS = 366
_INCHES_WIDE, _INCHES_HIGH = 8.0, 2.2  # each panel
_DOTS_PER_INCH = 100
_ROWS = "#56b4e9"
_DIFFERENCE = "#d55e00"
_COLORS = {"duplicates": "#0072b2", "rejected": "#d55e00", "late": "#009e73"}
_LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#000000")
"""Both distinguishable with color blindness."""

_Series = dict[str, list[float]]


def volume_plot(reports: Sequence[LoadReport]) -> str:
    """Return a plot of the last 366 days as Markdown with an embedded PNG image.

    One panel shows the rows of each day. The other shows the duplicates and rejected lines of the
    day's latest load, and its late-arriving events: the rows that later loads gained. The
    background is opaque, so that the plot can be read in dark mode.

    Args:
        reports: Loads of day tables, oldest first; at least one.
    """
    days, series = _series(reports)
    figure, (above, below) = _new_figure(2)
    edges = _edges(days)
    # Antialiasing would double the size of the image.
    above.stairs(series["rows"], edges, fill=True, color=_ROWS, antialiased=False)
    above.set_title("Rows per day", loc="left", fontsize="medium")
    for name, color in _COLORS.items():
        look: dict[str, Any] = {"color": color, "linewidth": 1, "antialiased": False}
        below.stairs(series[name], edges, baseline=None, label=name, **look)
    below.set_title(
        "Duplicates, rejected lines, late-arriving events", loc="left", fontsize="medium"
    )
    below.legend(ncols=len(_COLORS), loc="lower right", bbox_to_anchor=(1, 1), frameon=False)
    for axes in (above, below):
        _format(axes, days)
        axes.set_ylim(bottom=0)
    return _embed(figure, "Rows per day; duplicates, rejected lines and late-arriving events")


def difference_plot(differences: Mapping[date, int]) -> str:
    """Return a plot of the last 366 days as Markdown with an embedded PNG image.

    Args:
        differences: How many more events of each day are stored than Mixpanel counts; negative if
            Mixpanel has more. At least one day.
    """
    days = _last_days(min(differences), max(differences))
    figure, (axes,) = _new_figure(1)
    values = [differences.get(day, math.nan) for day in days]
    axes.stairs(values, _edges(days), fill=True, color=_DIFFERENCE, antialiased=False)
    axes.axhline(0, color="black", linewidth=0.8, antialiased=False)
    axes.set_title("Stored events minus those that Mixpanel counts", loc="left", fontsize="medium")
    _format(axes, days)
    largest = max(1, *map(abs, differences.values()))
    axes.set_ylim(-1.1 * largest, 1.1 * largest)
    return _embed(figure, "Stored events minus those that Mixpanel counts, per day")


def lines_plot(title: str, series: Mapping[str, Mapping[date, int]]) -> str:
    """Return a plot of the last 366 days as Markdown with an embedded PNG image.

    Args:
        title: What is plotted.
        series: Counts by day of each line, by its name; at most six lines, and one day at least.
    """
    plotted = {day for counts in series.values() for day in counts}
    days = _last_days(min(plotted), max(plotted))
    figure, (axes,) = _new_figure(1)
    for (name, counts), color in zip(series.items(), _LINES, strict=False):
        values = [counts.get(day, math.nan) for day in days]
        look: dict[str, Any] = {"color": color, "linewidth": 1, "antialiased": False}
        axes.stairs(values, _edges(days), baseline=None, label=name, **look)
    axes.set_title(title, loc="left", fontsize="medium")
    axes.legend(
        ncols=len(series), loc="lower right", bbox_to_anchor=(1, 1), frameon=False, fontsize="small"
    )
    _format(axes, days)
    axes.set_ylim(bottom=0)
    return _embed(figure, title)


def _series(reports: Sequence[LoadReport]) -> tuple[list[date], _Series]:
    """Return the days to plot and their counts, NaN for a day that was never loaded."""
    loads: dict[date, list[LoadReport]] = {}
    for report in reports:
        if report.day is not None:
            loads.setdefault(report.day, []).append(report)
    days = _last_days(min(loads), max(loads))
    series: _Series = {name: [] for name in ("rows", *_COLORS)}
    for day in days:
        of_day = loads.get(day)
        series["rows"].append(of_day[-1].rows_stored if of_day else math.nan)
        series["duplicates"].append(of_day[-1].duplicates if of_day else math.nan)
        series["rejected"].append(of_day[-1].rejected if of_day else math.nan)
        late = sum(load.gained or 0 for load in of_day) if of_day else math.nan
        series["late"].append(late)
    return days, series


def _last_days(first: date, last: date) -> list[date]:
    first = max(first, last - timedelta(days=_DAYS - 1))
    return days_between(first, last)


def _new_figure(panels: int) -> "tuple[Figure, Sequence[Axes]]":
    """Return a figure with panels one above another."""
    # Importing matplotlib takes half a second; the code location does not need it.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    height = panels * _INCHES_HIGH
    figure = Figure(figsize=(_INCHES_WIDE, height), dpi=_DOTS_PER_INCH, facecolor="white")
    FigureCanvasAgg(figure)  # registers itself as the figure's canvas
    top, bottom = 1 - 0.308 / height, 0.528 / height  # room for a title, and for the dates
    figure.subplots_adjust(left=0.11, right=0.97, top=top, bottom=bottom, hspace=0.3)
    return figure, list(figure.subplots(panels, 1, sharex=True, squeeze=False)[:, 0])


def _format(axes: "Axes", days: Sequence[date]) -> None:
    """Format the two axes: days, and whole numbers."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    edges = _edges(days)
    axes.set_xlim(edges[0], edges[-1])
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.grid(axis="y", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    locator = AutoDateLocator(minticks=min(4, len(days)), maxticks=10)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))


def _edges(days: Sequence[date]) -> Any:  # noqa: ANN401 - an array of numpy
    """Return where each day begins, and where the last one ends."""
    from matplotlib.dates import date2num

    return date2num([*days, days[-1] + timedelta(days=1)])


def _embed(figure: "Figure", alt_text: str) -> str:
    """Return a figure as Markdown with an embedded PNG image."""
    image = io.BytesIO()
    figure.savefig(image, format="png")
    return f"![{alt_text}](data:image/png;base64,{base64.b64encode(image.getvalue()).decode()})"

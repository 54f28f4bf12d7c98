"""The charts of the page, and a table, of what ``queries`` returns."""

from datetime import timedelta
from typing import Any

import altair as alt
import pandas as pd

# As SVG, names and numbers are text that can be selected, and read aloud.
_LOOK: dict[str, Any] = {"width": "container", "usermeta": {"embedOptions": {"renderer": "svg"}}}
_HEIGHT = 260
_BAR = 24  # pixels, a row of bars
_DAYS = alt.Axis(format="%b %-d", labelOverlap=True)
_DAY = alt.Tooltip("day:T", format="%Y-%m-%d")
_NAMES = alt.Axis(labelLimit=300)


def events_per_day(found: pd.DataFrame) -> alt.Chart:
    """Return a bar for each day, stacked by event."""
    order = list(found.groupby("event", sort=False)["events"].sum().sort_values().index[::-1])
    return (
        alt.Chart(found)
        .mark_bar()
        .encode(
            x=alt.X("day:T", title=None, timeUnit="yearmonthdate", axis=_DAYS),
            y=alt.Y("events:Q", title="events"),
            color=alt.Color("event:N", title=None, sort=order),
            order=alt.Order("events:Q", sort="descending"),
            tooltip=[_DAY, "event:N", alt.Tooltip("events:Q", format=",")],
        )
        .properties(height=_HEIGHT, **_LOOK)
    )


def active_users(found: pd.DataFrame) -> alt.Chart:
    """Return a line for each metric."""
    return (
        alt.Chart(found)
        .mark_line(point=True)
        .encode(
            x=alt.X("day:T", title=None, axis=_DAYS),
            y=alt.Y("users:Q", title="users"),
            color=alt.Color("metric:N", title=None, sort=["DAU", "WAU", "MAU"]),
            tooltip=[_DAY, "metric:N", alt.Tooltip("users:Q", format=",")],
        )
        .properties(height=_HEIGHT, **_LOOK)
    )


def top_values(found: pd.DataFrame) -> alt.LayerChart:
    """Return a bar for each value."""
    bars = alt.Chart(found).encode(
        x=alt.X("events:Q", title="events"),
        y=alt.Y("value:N", title=None, sort=None, axis=_NAMES),
    )
    labels = bars.mark_text(align="left", dx=4).encode(text=alt.Text("fraction:Q", format=".1%"))
    return (bars.mark_bar() + labels).properties(height=alt.Step(_BAR), **_LOOK)


def funnel(found: pd.DataFrame) -> alt.LayerChart:
    """Return a bar for each step, or for each step and value of the breakdown."""
    named = found.assign(
        name=found["step"].astype(str) + ". " + found["event"],
        percent=found["from_start"].map(_percent),  # as in the table, which rounds differently
    )
    by_value = "value" in found.columns
    bars = alt.Chart(named).encode(
        x=alt.X(
            "from_start:Q",
            title="of the first step",
            scale=alt.Scale(domain=[0, 1.1]),  # space for the label of the first step
            axis=alt.Axis(format=".0%", values=[0, 0.2, 0.4, 0.6, 0.8, 1]),
        ),
        y=alt.Y("name:N", title=None, sort=None, axis=_NAMES),
        tooltip=[alt.Tooltip("name:N"), alt.Tooltip("users:Q", format=",")],
    )
    if by_value:
        bars = bars.encode(
            yOffset=alt.YOffset("value:N", sort=None),
            color=alt.Color("value:N", title=None, sort=None),
        )
    labels = bars.mark_text(align="left", dx=4).encode(text="percent:N", color=alt.value("black"))
    step = alt.Step(_BAR * 0.75, **{"for": "offset"}) if by_value else alt.Step(1.5 * _BAR)
    return (bars.mark_bar() + labels).properties(height=step, **_LOOK)


def funnel_table(found: pd.DataFrame) -> pd.DataFrame:
    """Return the steps of a funnel to read: percents, and times."""
    texts = {
        "of the first step": found["from_start"].map(_percent),
        "of the step before": found["from_previous"].map(_percent),
        "median time": found["median_seconds"].map(_time),
        "90th percentile": found["p90_seconds"].map(_time),
    }
    numbers = [column for column in ("value", "step", "event", "users") if column in found.columns]
    return found[numbers].assign(**texts)


def retention(found: pd.DataFrame) -> alt.LayerChart:
    """Return a heat map: a row for each cohort, a column for each bucket."""
    found = found.assign(
        cohort=found["cohort"].dt.strftime("%Y-%m-%d") + found["users"].map(" ({:,} users)".format)
    )
    cells = alt.Chart(found).encode(
        x=alt.X("bucket:O", title=None, axis=alt.Axis(orient="top", labelAngle=0)),
        y=alt.Y("cohort:N", title=None, sort=None, axis=_NAMES),
        tooltip=[
            "cohort:N",
            "bucket:O",
            alt.Tooltip("retained:Q", format=","),
            alt.Tooltip("fraction:Q", format=".1%"),
            "complete:N",
        ],
    )
    colors = cells.mark_rect().encode(
        color=alt.Color("fraction:Q", legend=None, scale=alt.Scale(scheme="blues", domain=[0, 1])),
        opacity=alt.condition("datum.complete", alt.value(1), alt.value(0.4)),
    )
    labels = cells.mark_text(fontSize=11).encode(
        text=alt.Text("fraction:Q", format=".0%"),
        color=alt.condition(
            "datum.complete && datum.fraction > 0.6", alt.value("white"), alt.value("black")
        ),
    )
    return (colors + labels).properties(height=alt.Step(_BAR), **_LOOK)


def _percent(fraction: float) -> str:
    return "" if pd.isna(fraction) else f"{fraction:.1%}"


def _time(seconds: float) -> str:
    return "" if pd.isna(seconds) else str(timedelta(seconds=round(seconds)))

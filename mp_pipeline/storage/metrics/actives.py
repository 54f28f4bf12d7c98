"""Active users of a day and the days before, as Mixpanel counts them; and events by name."""

import time
from datetime import date, timedelta

import duckdb

from mp_pipeline.storage import catalog
from mp_pipeline.storage.metrics.collecting import IS_ACTIVITY, collect_days
from mp_pipeline.storage.metrics.days import WINDOW, making
from mp_pipeline.storage.metrics.models import DailyMetricsReport
from mp_pipeline.storage.metrics.names import name_of
from mp_pipeline.storage.statements import execute
from mp_pipeline.storage.tables import literal
from mp_pipeline.storage.user_ids import not_nobody

_METRICS = (
    *("events", "dau", "wau", "mau", "new_users", "returning_users"),
    *("sessions", "median_session_seconds"),
)
_COLUMNS = ", ".join(_METRICS)
_TABLES = {
    "_daily_metrics": ("daily_metrics", f"day, {_COLUMNS}"),
    "_daily_events": ("daily_events_by_name", "day, event_name, events, users"),
}
"""What clients know each table as, and its columns."""


def update_daily_metrics(
    connection: duckdb.DuckDBPyConnection, dataset: str, day: date
) -> DailyMetricsReport:
    """Make the metrics of a day again; if the day was dropped, delete them.

    Raises:
        TableNotFoundError: The day is not loaded and has no metrics.
        TableExistsError: The name of a view is taken.
    """
    started = time.monotonic()
    collect_days(connection, dataset)
    values = [dataset, day]
    with making(connection, dataset, day, "daily metrics") as table:
        create_daily_views(connection, dataset)
        for name in _TABLES:
            execute(connection, f"DELETE FROM {name} WHERE dataset = lower(?) AND day = ?", values)
        if table is not None:
            _insert_events(connection, dataset, day, table)
            _insert_metrics(connection, dataset, day)
        found = execute(
            connection,
            f"SELECT {_COLUMNS} FROM _daily_metrics WHERE dataset = lower(?) AND day = ?",
            values,
        )
    (counts,) = found or [(0, 0, 0, 0, 0, 0, None, None)]
    metrics = dict(zip(_METRICS, counts, strict=True))
    return DailyMetricsReport(dataset, day, **metrics, seconds=time.monotonic() - started)


def read_active_users(
    connection: duckdb.DuckDBPyConnection, dataset: str, first: date, last: date
) -> dict[str, dict[date, int]]:
    """Return ``dau``, ``wau`` and ``mau`` of each day of a range that has metrics."""
    rows = execute(
        connection,
        "SELECT day, dau, wau, mau FROM _daily_metrics WHERE dataset = lower(?) "
        "AND day BETWEEN ? AND ? ORDER BY day",
        [dataset, first, last],
    )
    return {
        name: {row[0]: row[number] for row in rows}
        for number, name in enumerate(("dau", "wau", "mau"), 1)
    }


def create_daily_views(connection: duckdb.DuckDBPyConnection, dataset: str) -> None:
    """Create the views of daily metrics and of events by name."""
    for table, (what, columns) in _TABLES.items():
        catalog.create_own_view(
            connection,
            name_of(dataset, what),
            f"SELECT {columns} FROM {table} WHERE dataset = {literal(dataset.lower())}",
            "the asset daily_metrics",
        )


def _insert_metrics(connection: duckdb.DuckDBPyConnection, dataset: str, day: date) -> None:
    execute(
        connection,
        """
        INSERT INTO _daily_metrics
        WITH identity AS (
            SELECT distinct_id, user_id FROM _identities
            WHERE dataset = $dataset AND user_id <> distinct_id
        ), active AS (
            SELECT coalesce(user_id, distinct_id) AS user_id, min(day) AS first, max(day) AS last
            FROM _user_days LEFT JOIN identity USING (distinct_id)
            WHERE dataset = $dataset AND day BETWEEN $window_start AND $day AND events > 0
            GROUP BY ALL
        ), known AS (
            SELECT DISTINCT coalesce(user_id, distinct_id) AS user_id
            FROM _first_days LEFT JOIN identity USING (distinct_id)
            WHERE dataset = $dataset AND day < $window_start
        ), counted AS (
            SELECT count(*) FILTER (last = $day) AS dau,
                count(*) FILTER (last >= $week_start) AS wau, count(*) AS mau,
                count(*) FILTER (first = $day AND known.user_id IS NULL) AS new_users
            FROM active LEFT JOIN known USING (user_id)
        ), session AS (
            SELECT count(*) AS sessions,
                median((epoch_us(ended_at) - epoch_us(started_at)) / 1e6) AS median_seconds
            FROM _sessions WHERE dataset = $dataset AND day = $day
            HAVING EXISTS (FROM _metric_days
                WHERE dataset = $dataset AND day = $day AND metric = 'sessions')
        ), event AS (
            SELECT coalesce(sum(events), 0) AS events FROM _daily_events
            WHERE dataset = $dataset AND day = $day
        )
        SELECT $dataset, $day, events, dau, wau, mau, new_users, dau - new_users, sessions,
            median_seconds
        FROM event CROSS JOIN counted LEFT JOIN session ON true
        """,
        {
            "dataset": dataset.lower(),
            "day": day,
            "week_start": day - timedelta(days=6),
            "window_start": day - timedelta(days=WINDOW - 1),
        },
    )


def _insert_events(
    connection: duckdb.DuckDBPyConnection, dataset: str, day: date, table: str
) -> None:
    """Count the events of a day by name, and their users."""
    execute(
        connection,
        f"""
        INSERT INTO _daily_events
        WITH active AS (
            SELECT event_name, distinct_id, count(*) AS events
            FROM {table} WHERE {IS_ACTIVITY} GROUP BY ALL
        )
        SELECT lower($dataset), $day, event_name, sum(events),
            count(DISTINCT CASE WHEN {not_nobody("distinct_id")}
                THEN coalesce(user_id, distinct_id) END)
        FROM active LEFT JOIN (
            SELECT distinct_id, user_id FROM _identities
            WHERE dataset = lower($dataset) AND user_id <> distinct_id
        ) USING (distinct_id) GROUP BY event_name
        """,
        {"dataset": dataset, "day": day},
    )

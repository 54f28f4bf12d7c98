"""Which days have sessions and metrics, and which of them are stale.

A day is stale if it was reloaded since, if its sessions have another timeout, if the users of its
IDs are others than then or, for metrics, if other users were active on it or a day before: windows
reach back 30 days, and a user is new only if no earlier day has them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from typing import Literal

import duckdb

from mp_pipeline.storage import catalog, locks
from mp_pipeline.storage.errors import TableNotFoundError
from mp_pipeline.storage.layouts import layout_of
from mp_pipeline.storage.metrics.models import MetricDayInfo
from mp_pipeline.storage.statements import database_name, execute, transaction
from mp_pipeline.storage.tables import day_table_name
from mp_pipeline.storage.times import as_utc, to_utc

WINDOW = 30
"""Days that the longest window of active users has."""

Metric = Literal["sessions", "daily metrics"]

_OTHER_IDENTITIES = """
    WITH moved AS (
        SELECT distinct_id, user_id, changed_at FROM _identities
        WHERE dataset = $dataset AND changed_at >
            (SELECT min(made_at) FROM _metric_days WHERE dataset = $dataset)
    ), affected AS (
        SELECT day, max(changed_at) AS changed_at, true AS of_sessions
        FROM _user_days JOIN moved USING (distinct_id) WHERE dataset = $dataset GROUP BY day
        UNION ALL  -- where a user who has gained IDs was new
        SELECT day, max(moved.changed_at), false
        FROM moved JOIN _identities AS linked ON linked.dataset = $dataset
            AND linked.user_id = moved.user_id
        JOIN _first_days AS first ON first.dataset = $dataset
            AND first.distinct_id = linked.distinct_id
        GROUP BY day
    )
    SELECT metric, made.day FROM _metric_days AS made JOIN affected
        ON affected.changed_at > made.made_at AND CASE metric
            WHEN 'sessions' THEN of_sessions AND made.day = affected.day
            ELSE made.day BETWEEN affected.day AND affected.day + $window - 1 END
    WHERE dataset = $dataset
"""
_OTHER_USERS = """
    SELECT metric, made.day FROM _metric_days AS made JOIN _collected_days AS collected
        ON collected.dataset = made.dataset AND collected.day <= made.day
        AND collected.changed_at > made.made_at
    WHERE made.dataset = $dataset AND metric = 'daily metrics'
"""


@contextmanager
def making(
    connection: duckdb.DuckDBPyConnection,
    dataset: str,
    day: date,
    metric: Metric,
    timeout: timedelta | None = None,
) -> Iterator[str | None]:
    """Replace a metric of a day in one transaction, which the ``with`` block is part of.

    Args:
        connection: The database.
        dataset: The dataset.
        day: The day.
        metric: What is made.
        timeout: The timeout of sessions; None: that of the sessions that the day has.

    Yields:
        The SQL for the rows of the day; None if it was dropped.

    Raises:
        TableNotFoundError: The day is not loaded, and had no such metric before.
    """
    table = day_table_name(dataset, day)
    with locks.deriving(connection, locks.METRICS), transaction(connection):
        of_day = "FROM _metric_days WHERE dataset = lower(?) AND day = ? AND metric = ?"
        before = execute(connection, f"SELECT day {of_day}", [dataset, day, metric])
        execute(connection, f"DELETE {of_day}", [dataset, day, metric])
        found = catalog.find_day(connection, dataset, day)
        loaded_at = None if found is None else found[1]
        layout = layout_of(connection)
        is_loaded = loaded_at is not None and bool(layout.existing(connection, [table]))
        if not is_loaded and not before:
            raise TableNotFoundError(
                f"there is no table {table!r} in {database_name(connection)}; load the day first"
            )
        made_at = datetime.now(UTC)
        yield layout.rows(connection, [table]) if is_loaded else None
        if loaded_at is not None and is_loaded:
            execute(
                connection,
                """
                INSERT INTO _metric_days VALUES (lower($dataset), $day, $metric, $loaded_at,
                    $made_at, coalesce($timeout, (SELECT session_timeout FROM _metric_days
                        WHERE dataset = lower($dataset) AND day = $day AND metric = 'sessions')))
                """,
                {
                    "dataset": dataset,
                    "day": day,
                    "metric": metric,
                    "loaded_at": to_utc(loaded_at),
                    "made_at": to_utc(made_at),
                    "timeout": timeout,
                },
            )


def list_metric_days(
    connection: duckdb.DuckDBPyConnection, dataset: str, timeout: timedelta
) -> list[MetricDayInfo]:
    """Return the days that are loaded or have metrics, oldest first.

    Args:
        connection: The database.
        dataset: The dataset.
        timeout: The timeout that sessions should have.
    """
    values = {"dataset": dataset.lower(), "window": WINDOW}
    loads = catalog.load_times(connection, dataset)
    made = {
        (metric, day): (as_utc(loaded_at), made_with)
        for metric, day, loaded_at, made_with in execute(
            connection,
            "SELECT metric, day, loaded_at, session_timeout FROM _metric_days "
            "WHERE dataset = lower(?)",
            [dataset],
        )
    }
    outdated = set(execute(connection, _OTHER_IDENTITIES, values))
    outdated |= set(execute(connection, _OTHER_USERS, {"dataset": dataset.lower()}))

    def is_stale(metric: Metric, day: date) -> bool:
        of_sessions = timeout if metric == "sessions" or ("sessions", day) in made else None
        current = (loads[day], of_sessions) if day in loads else None
        return made.get((metric, day)) != current or (metric, day) in outdated

    return [
        MetricDayInfo(
            day,
            sessions_are_stale=is_stale("sessions", day),
            metrics_are_stale=is_stale("daily metrics", day),
        )
        for day in sorted(loads.keys() | {day for _, day in made})
    ]

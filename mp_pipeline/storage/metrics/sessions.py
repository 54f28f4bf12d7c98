"""Sessions of a day, as Mixpanel computes them: they end at the project's midnight."""

import time
from datetime import date, timedelta

import duckdb

from mp_pipeline.storage import catalog
from mp_pipeline.storage.metrics.days import making
from mp_pipeline.storage.metrics.models import SessionsDayReport
from mp_pipeline.storage.metrics.names import name_of
from mp_pipeline.storage.statements import execute
from mp_pipeline.storage.tables import literal
from mp_pipeline.storage.user_ids import IDENTITY_EVENTS, not_nobody

_NOT_IN_SESSIONS = (
    *IDENTITY_EVENTS,
    "$hotshard_events",
    "$campaign_delivery",
    "$campaign_bounced",
    "$campaign_marked_spam",
    "$message_suppressed",
    "$unsubscribe",
    "$journey_entered",
)
"""Events that neither begin nor continue a session: the user did nothing."""

_SHORTEST, _LONGEST = timedelta(minutes=1), timedelta(days=1)


def update_sessions(
    connection: duckdb.DuckDBPyConnection, dataset: str, day: date, timeout: timedelta
) -> SessionsDayReport:
    """Make the sessions of a day again; if the day was dropped, delete them.

    Raises:
        ValueError: The timeout is not between a minute and 24 hours.
        TableNotFoundError: The day is not loaded and has no sessions.
        TableExistsError: The name of the view is taken.
    """
    if not _SHORTEST <= timeout <= _LONGEST:
        raise ValueError(f"the timeout of sessions is {timeout}, not between 1 minute and 24 hours")
    started = time.monotonic()
    with making(connection, dataset, day, "sessions", timeout) as table:
        create_sessions_view(connection, dataset)
        execute(
            connection, "DELETE FROM _sessions WHERE dataset = lower(?) AND day = ?", [dataset, day]
        )
        if table is not None:
            _insert(connection, dataset, day, table, timeout)
        ((sessions, users),) = execute(
            connection,
            "SELECT count(*), count(DISTINCT user_id) FROM _sessions "
            "WHERE dataset = lower(?) AND day = ?",
            [dataset, day],
        )
    return SessionsDayReport(dataset, day, sessions, users, time.monotonic() - started)


def create_sessions_view(connection: duckdb.DuckDBPyConnection, dataset: str) -> None:
    """Create the view of the sessions."""
    catalog.create_own_view(
        connection,
        name_of(dataset, "sessions"),
        f"""
        SELECT session_id, user_id, day, started_at, ended_at,
            (epoch_us(ended_at) - epoch_us(started_at)) / 1e6 AS seconds,
            events, first_event, last_event
        FROM _sessions WHERE dataset = {literal(dataset.lower())}
        """,
        "the asset sessions",
    )


def _insert(
    connection: duckdb.DuckDBPyConnection, dataset: str, day: date, table: str, timeout: timedelta
) -> None:
    left_out = ", ".join(map(literal, _NOT_IN_SESSIONS))
    execute(
        connection,
        f"""
        INSERT INTO _sessions
        WITH event AS (
            SELECT coalesce(identity.user_id, event.distinct_id) AS user_id, event_name, event_time,
                insert_id
            FROM {table} AS event LEFT JOIN (
                FROM _identities WHERE dataset = lower($dataset) AND user_id <> distinct_id
            ) AS identity ON identity.distinct_id = event.distinct_id
            WHERE {not_nobody("event.distinct_id")} AND event_name NOT IN ({left_out})
        ), ranked AS (
            SELECT user_id, event_name, event_time, row_number() OVER in_order AS place,
                coalesce(epoch_us(event_time) - epoch_us(lag(event_time) OVER in_order)
                    >= $timeout, true) AS begins
            FROM event
            WINDOW in_order AS (PARTITION BY user_id ORDER BY event_time, event_name, insert_id)
        ), numbered AS (
            SELECT *, sum(begins::BIGINT)
                OVER (PARTITION BY user_id ORDER BY place ROWS UNBOUNDED PRECEDING) AS number
            FROM ranked
        )
        SELECT lower($dataset), $day, md5(user_id || ' ' || epoch_us(min(event_time))), user_id,
            min(event_time), max(event_time), count(*),
            arg_min(event_name, place), arg_max(event_name, place)
        FROM numbered GROUP BY user_id, number
        """,
        {"dataset": dataset, "day": day, "timeout": timeout // timedelta(microseconds=1)},
    )

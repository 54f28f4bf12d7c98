"""What metrics need of each day: the IDs that are active, and the pairs that are one person.

Days are collected when they were loaded, reloaded or dropped since, each in one transaction.
"""

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import duckdb

from mp_pipeline.storage import catalog, locks
from mp_pipeline.storage.layouts import layout_of
from mp_pipeline.storage.models import DayInfo
from mp_pipeline.storage.statements import execute, transaction
from mp_pipeline.storage.tables import literal
from mp_pipeline.storage.times import as_utc, to_utc
from mp_pipeline.storage.user_ids import IDENTITY_EVENTS, not_nobody, pairs_of_same_person

IS_ACTIVITY = f"event_name NOT IN ({', '.join(map(literal, IDENTITY_EVENTS))})"
"""The SQL condition that an event counts in metrics."""

NOBODY = ""
"""The user of the IDs that stand for no one in particular."""


def collect_days(connection: duckdb.DuckDBPyConnection, dataset: str) -> list[date]:
    """Collect the days that changed since they were collected; return them, oldest first."""
    loaded = catalog.load_times(connection, dataset)
    collected = _collected_days(connection, dataset)
    changed = sorted(
        day for day in loaded.keys() | collected.keys() if loaded.get(day) != collected.get(day)
    )
    for day in changed:
        with locks.deriving(connection, locks.METRICS), transaction(connection):
            _collect(connection, dataset, day)
    return changed


def _collected_days(
    connection: duckdb.DuckDBPyConnection, dataset: str
) -> dict[date, datetime | None]:
    """Return the load that each day was collected from, None if it was dropped before."""
    return {
        day: None if loaded_at is None else as_utc(loaded_at)
        for day, loaded_at in execute(
            connection,
            "SELECT day, loaded_at FROM _collected_days WHERE dataset = lower(?)",
            [dataset],
        )
    }


def _collect(connection: duckdb.DuckDBPyConnection, dataset: str, day: date) -> None:
    """Replace what is collected of a day, in the caller's transaction."""
    values = [dataset, day]
    where = "WHERE dataset = lower(?) AND day = ?"
    before = execute(
        connection, f"SELECT ends_at, users_hash, changed_at FROM _collected_days {where}", values
    )
    for table in ("_collected_days", "_identity_pairs", "_user_days"):
        execute(connection, f"DELETE FROM {table} {where}", values)
    info, loaded_at = catalog.find_day(connection, dataset, day) or (None, None)
    if info is not None and layout_of(connection).intact_events(connection, [info.table_name]):
        _insert(connection, dataset, info)
    _update_first_days(connection, dataset, day)
    ((users_hash,),) = execute(
        connection,
        f"SELECT bit_xor(hash(distinct_id, events > 0)) FROM _user_days {where}",
        values,
    )
    ends_at = _end(day, "UTC" if info is None else info.origin.timezone or "UTC")
    changed_at = to_utc(datetime.now(UTC))
    if before:
        if info is None:
            ends_at = before[0][0]
        if before[0][1] == users_hash:
            changed_at = before[0][2]
    execute(
        connection,
        "INSERT INTO _collected_days VALUES (lower(?), ?, ?, ?, ?, ?)",
        [*values, ends_at, loaded_at and to_utc(loaded_at), users_hash, changed_at],
    )


def _insert(connection: duckdb.DuckDBPyConnection, dataset: str, info: DayInfo) -> None:
    table = layout_of(connection).rows(connection, [info.table_name])
    execute(
        connection,
        f"INSERT INTO _user_days SELECT lower(?), ?, distinct_id, count(*) FILTER ({IS_ACTIVITY}) "
        f"FROM {table} WHERE {not_nobody('distinct_id')} GROUP BY distinct_id",
        [dataset, info.day],
    )
    execute(
        connection,
        f"""
        INSERT INTO _identity_pairs
        SELECT lower($dataset), $day, id, other, since FROM ({pairs_of_same_person(table)})
        UNION ALL
        SELECT lower($dataset), $day, distinct_id, '{NOBODY}', min(event_time) FROM {table}
        WHERE NOT {not_nobody("distinct_id")} GROUP BY distinct_id
        """,
        {"dataset": dataset, "day": info.day},
    )


def _update_first_days(connection: duckdb.DuckDBPyConnection, dataset: str, day: date) -> None:
    """Bring the first days of IDs up to date, of those that are, or were, active on a day."""
    values = {"dataset": dataset.lower(), "day": day}
    active = (
        "SELECT distinct_id FROM _user_days WHERE dataset = $dataset AND day = $day AND events > 0"
    )
    of_gone = (
        "FROM _first_days WHERE dataset = $dataset AND day = $day "
        f"AND distinct_id NOT IN ({active})"
    )
    gone = execute(connection, f"SELECT distinct_id {of_gone}", values)
    if gone:
        execute(connection, f"DELETE {of_gone}", values)
        execute(
            connection,
            "INSERT INTO _first_days SELECT $dataset, distinct_id, min(day) FROM _user_days "
            "WHERE dataset = $dataset AND events > 0 "
            "AND distinct_id IN (SELECT unnest($gone::VARCHAR[])) GROUP BY distinct_id",
            {"dataset": dataset.lower(), "gone": [distinct_id for (distinct_id,) in gone]},
        )
    execute(
        connection,
        "DELETE FROM _first_days WHERE dataset = $dataset AND day > $day "
        f"AND distinct_id IN ({active})",
        values,
    )
    execute(
        connection,
        f"INSERT INTO _first_days SELECT $dataset, distinct_id, $day FROM ({active}) "
        "ANTI JOIN (FROM _first_days WHERE dataset = $dataset) USING (distinct_id)",
        values,
    )


def _end(day: date, zone: str) -> datetime:
    """Return when a day of a time zone ends, as the database stores times."""
    return to_utc(datetime.combine(day + timedelta(days=1), time(), ZoneInfo(zone)))

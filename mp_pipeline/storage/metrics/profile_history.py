"""The history of profiles: one row per version (type 2), made from each snapshot."""

from datetime import datetime

import duckdb

from mp_pipeline.storage import catalog, inspection, locks
from mp_pipeline.storage.errors import SnapshotRefusedError, TableNotFoundError
from mp_pipeline.storage.layouts import layout_of
from mp_pipeline.storage.metrics.models import ProfileHistoryReport
from mp_pipeline.storage.metrics.names import name_of
from mp_pipeline.storage.metrics.objects import create_macro
from mp_pipeline.storage.models import LoadReport
from mp_pipeline.storage.statements import database_name, execute, transaction
from mp_pipeline.storage.tables import literal, quoted
from mp_pipeline.storage.times import as_utc, to_utc

_COLUMNS = "distinct_id, properties, last_seen, valid_from, valid_to"

# Every value inside a profile with its path, in an order that does not depend on that of the keys.
_SAME_BUT_FOR_ORDER = """
    SELECT distinct_id FROM (
        SELECT distinct_id, is_new, list((path, kind, value) ORDER BY path, kind, value) AS content
        FROM (
            SELECT profile.distinct_id, is_new, tree.fullkey AS path, tree.type AS kind,
                tree.atom::VARCHAR AS value
            FROM (
                SELECT distinct_id, true AS is_new, new_properties AS content FROM _changed
                WHERE strlen(new_properties) = strlen(old_properties)
                UNION ALL
                SELECT distinct_id, false, old_properties FROM _changed
                WHERE strlen(new_properties) = strlen(old_properties)
            ) AS profile, json_tree(profile.content) AS tree
        ) GROUP BY distinct_id, is_new
    ) GROUP BY distinct_id HAVING count(*) = 2 AND count(DISTINCT content) = 1
"""


def update_history(
    connection: duckdb.DuckDBPyConnection,
    table_name: str,
    *,
    track_last_seen: bool,
    min_kept_fraction: float,
    max_rejected: int,
) -> ProfileHistoryReport:
    """Add the snapshot that a table of profiles contains to its history, in one transaction.

    Raises:
        TableNotFoundError: There is no table of that name.
        ValueError: It is not a table of profiles.
        SnapshotRefusedError: The snapshot is older than the history, or incomplete.
        TableExistsError: The name of the view or the macro is taken.
    """
    with locks.deriving(connection, locks.METRICS), transaction(connection):
        metadata = catalog.read_metadata(connection, table_name)
        if metadata is None or not layout_of(connection).existing(connection, [table_name]):
            raise TableNotFoundError(
                f"there is no table {table_name!r} in {database_name(connection)}; load it first"
            )
        if metadata.type != "profiles":
            raise ValueError(f"{table_name} contains {metadata.type}, not profiles")
        taken_at = to_utc(metadata.fetched_at)
        (counts,) = inspection.count_rows(connection, [table_name])
        _require_complete(table_name, counts.problems, counts.last_load, max_rejected)
        loaded_at = to_utc(
            metadata.fetched_at if counts.last_load is None else counts.last_load.finished_at
        )
        _create_objects(connection, table_name)
        latest = _latest_snapshot(connection, table_name)
        if latest == (taken_at, loaded_at):
            return ProfileHistoryReport(table_name, as_utc(taken_at), counts.rows or 0, 0, 0, 0)
        if latest is not None and taken_at < latest[0]:
            raise SnapshotRefusedError(
                f"{table_name} was fetched at {taken_at}, but its history has a snapshot of "
                f"{latest[0]}. The history is unchanged: load {table_name} again"
            )
        if latest is not None and taken_at == latest[0]:
            _undo(connection, table_name, taken_at)
        changed = _find_changes(connection, table_name, track_last_seen)
        _require_kept(connection, table_name, changed["vanished"], min_kept_fraction)
        _apply(connection, table_name, taken_at)
        execute(
            connection,
            "INSERT INTO _profile_snapshots VALUES (lower(?), ?, ?, ?)",
            [table_name, taken_at, loaded_at, counts.rows],
        )
        execute(connection, "DROP TABLE temp._changed")
    return ProfileHistoryReport(table_name, as_utc(taken_at), counts.rows or 0, **changed)


def _create_objects(connection: duckdb.DuckDBPyConnection, table_name: str) -> None:
    """Create the view of all versions, and the macro of those at a point in time."""
    versions = f"_profile_versions WHERE dataset = {literal(table_name.lower())}"
    catalog.create_own_view(
        connection,
        name_of(table_name, "profile_history"),
        f"SELECT {_COLUMNS} FROM {versions}",
        "the history of profiles",
    )
    create_macro(
        connection,
        name_of(table_name, "profiles_at"),
        "moment",
        f"SELECT {_COLUMNS} FROM {versions} "
        "AND valid_from <= moment AND (valid_to IS NULL OR valid_to > moment)",
    )


def _latest_snapshot(
    connection: duckdb.DuckDBPyConnection, table_name: str
) -> tuple[datetime, datetime] | None:
    """Return when the latest snapshot in the history was fetched and loaded, None without one."""
    rows = execute(
        connection,
        "SELECT taken_at, loaded_at FROM _profile_snapshots WHERE dataset = lower(?) "
        "ORDER BY taken_at DESC LIMIT 1",
        [table_name],
    )
    return (rows[0][0], rows[0][1]) if rows else None


def _undo(connection: duckdb.DuckDBPyConnection, table_name: str, taken_at: datetime) -> None:
    """Remove the latest snapshot from the history."""
    values = [table_name, taken_at]
    execute(
        connection,
        "DELETE FROM _profile_versions WHERE dataset = lower(?) AND valid_from = ?",
        values,
    )
    execute(
        connection,
        "UPDATE _profile_versions SET valid_to = NULL WHERE dataset = lower(?) AND valid_to = ?",
        values,
    )
    execute(
        connection,
        "DELETE FROM _profile_snapshots WHERE dataset = lower(?) AND taken_at = ?",
        values,
    )


def _find_changes(
    connection: duckdb.DuckDBPyConnection, table_name: str, track_last_seen: bool
) -> dict[str, int]:
    """Put the profiles that differ from their latest version into ``_changed``; count them."""
    differs = "new.properties IS DISTINCT FROM old.properties"
    if track_last_seen:
        differs += " OR new.last_seen IS DISTINCT FROM old.last_seen"
    execute(
        connection,
        f"""
        CREATE OR REPLACE TEMP TABLE _changed AS
        SELECT coalesce(new.distinct_id, old.distinct_id) AS distinct_id,
            new.properties AS new_properties, old.properties AS old_properties, new.last_seen,
            new.last_seen IS DISTINCT FROM old.last_seen AS is_seen,
            CASE WHEN old.distinct_id IS NULL THEN 'appeared'
                WHEN new.distinct_id IS NULL THEN 'vanished' ELSE 'changed' END AS change
        FROM {quoted(table_name)} AS new FULL JOIN (
            FROM _profile_versions WHERE dataset = lower(?) AND valid_to IS NULL
        ) AS old ON old.distinct_id = new.distinct_id
        WHERE old.distinct_id IS NULL OR new.distinct_id IS NULL OR {differs}
        """,
        [table_name],
    )
    execute(
        connection,
        "DELETE FROM _changed WHERE change = 'changed' "
        f"{'AND NOT is_seen ' if track_last_seen else ''}"
        f"AND distinct_id IN ({_SAME_BUT_FOR_ORDER})",
    )
    counts = {"appeared": 0, "changed": 0, "vanished": 0}
    return counts | dict(execute(connection, "SELECT change, count(*) FROM _changed GROUP BY ALL"))


def _apply(connection: duckdb.DuckDBPyConnection, table_name: str, taken_at: datetime) -> None:
    """Close the versions of the profiles in ``_changed``, and add their new ones."""
    execute(
        connection,
        "UPDATE _profile_versions AS version SET valid_to = ? FROM _changed "
        "WHERE version.dataset = lower(?) AND version.valid_to IS NULL "
        "AND version.distinct_id = _changed.distinct_id AND change <> 'appeared'",
        [taken_at, table_name],
    )
    execute(
        connection,
        "INSERT INTO _profile_versions SELECT lower(?), distinct_id, new_properties, last_seen, "
        "?, NULL FROM _changed WHERE change <> 'vanished'",
        [table_name, taken_at],
    )


def _require_complete(
    table_name: str, problems: list[str], load: LoadReport | None, max_rejected: int
) -> None:
    """Refuse a table that is not what was loaded, or whose load rejected lines."""
    if load is not None and load.rejected > max_rejected:
        problems = [
            *problems,
            f"{load.rejected:,} lines of the snapshot were rejected (see _rejected), more than "
            f"the {max_rejected:,} allowed (max_rejected)",
        ]
    if problems:
        raise SnapshotRefusedError(
            f"{table_name} is not a complete snapshot: {'; '.join(problems)}. "
            "The history is unchanged"
        )


def _require_kept(
    connection: duckdb.DuckDBPyConnection, table_name: str, vanished: int, min_kept_fraction: float
) -> None:
    """Refuse a snapshot in which too many profiles vanished."""
    ((before,),) = execute(
        connection,
        "SELECT count(*) FROM _profile_versions WHERE dataset = lower(?) AND valid_to IS NULL",
        [table_name],
    )
    if before - vanished < min_kept_fraction * before:
        raise SnapshotRefusedError(
            f"{vanished:,} of {before:,} profiles are not in the new snapshot of {table_name}; "
            f"{min_kept_fraction:.0%} must be. The history is unchanged. If they were deleted, "
            "lower min_kept_fraction"
        )

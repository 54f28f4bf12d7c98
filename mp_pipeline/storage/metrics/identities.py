"""Identities: which IDs are one user.

A user is a connected component of the pairs that events hold. A device belongs to the user that it
was first seen with: later users of a shared device are other people.
"""

from datetime import UTC, datetime

import duckdb

from mp_pipeline.storage import catalog, locks
from mp_pipeline.storage.metrics.collecting import NOBODY, collect_days
from mp_pipeline.storage.metrics.components import COMPONENTS, find_components
from mp_pipeline.storage.metrics.funnels import create_funnel_macros
from mp_pipeline.storage.metrics.models import IdentitiesReport
from mp_pipeline.storage.metrics.names import name_of
from mp_pipeline.storage.metrics.retention import create_retention_macros
from mp_pipeline.storage.statements import execute, transaction
from mp_pipeline.storage.tables import EVENTS, literal
from mp_pipeline.storage.times import to_utc
from mp_pipeline.storage.typed.fast_events import create_fast_view
from mp_pipeline.storage.user_ids import DEVICE_PREFIX, MAX_IDS

_IS_DEVICE = f"starts_with(id, '{DEVICE_PREFIX}') AND NOT starts_with(other, '{DEVICE_PREFIX}')"


def update_identities(connection: duckdb.DuckDBPyConnection, dataset: str) -> IdentitiesReport:
    """Find the users of all days of a dataset; days that did not change are not read again.

    Raises:
        TableExistsError: The name of a view is taken.
    """
    days = collect_days(connection, dataset)
    with locks.deriving(connection, locks.METRICS), transaction(connection):
        events = catalog.events_of(connection, dataset)
        create_fast_view(connection, dataset, events)
        create_identity_views(connection, dataset, events)
        create_funnel_macros(connection, dataset, events)
        create_retention_macros(connection, dataset)
        pairs = (
            f"FROM _identity_pairs WHERE dataset = {literal(dataset.lower())} "
            f"AND other <> '{NOBODY}'"
        )
        find_components(
            connection,
            f"""
            SELECT id, arg_min(other, (since, other)) AS other {pairs} AND {_IS_DEVICE} GROUP BY id
            UNION ALL SELECT DISTINCT id, other {pairs} AND NOT ({_IS_DEVICE})
            """,
        )
        changed = _replace(connection, dataset)
        ((ids, users),) = execute(
            connection, f"SELECT count(*), count(DISTINCT user_id) FROM {COMPONENTS}"
        )
        large = execute(
            connection,
            f"SELECT user_id, ids FROM {COMPONENTS} WHERE distinct_id = user_id AND ids > ? "
            "ORDER BY ids DESC, user_id",
            [MAX_IDS],
        )
        execute(connection, f"DROP TABLE temp.{COMPONENTS}")
    return IdentitiesReport(dataset, tuple(days), ids, users, changed, tuple(large))


def is_known(connection: duckdb.DuckDBPyConnection, dataset: str) -> bool:
    """Return whether days of a dataset were collected, even if all of them were dropped since."""
    return bool(
        execute(
            connection, "SELECT 1 FROM _collected_days WHERE dataset = lower(?) LIMIT 1", [dataset]
        )
    )


def create_identity_views(connection: duckdb.DuckDBPyConnection, dataset: str, events: str) -> None:
    """Create the views of the identities, and of events with their users.

    Args:
        connection: The database.
        dataset: The dataset.
        events: The SQL for its events, with their properties.
    """
    of_dataset = f"WHERE dataset = {literal(dataset.lower())}"
    catalog.create_own_view(
        connection,
        name_of(dataset, "identities"),
        f"""
        SELECT distinct_id, coalesce(user_id, distinct_id) AS user_id, coalesce(ids, 1) AS ids
        FROM (
            SELECT distinct_id FROM _user_days {of_dataset}
            UNION SELECT distinct_id FROM _identities {of_dataset} AND ids > 1
        ) LEFT JOIN (FROM _identities {of_dataset}) USING (distinct_id)
        """,
        "the asset identities",
    )
    columns = ", ".join(f"event.{name}" for name in [*EVENTS.column_names, "day"])
    catalog.create_own_view(
        connection,
        name_of(dataset, "user_events"),
        f"""
        SELECT {columns},
            nullif(coalesce(identity.user_id, event.distinct_id), '{NOBODY}') AS user_id
        FROM {events} AS event LEFT JOIN (FROM _identities {of_dataset}) AS identity
            ON identity.distinct_id = event.distinct_id
        """,
        "the asset identities",
    )


def _replace(connection: duckdb.DuckDBPyConnection, dataset: str) -> int:
    """Write what changed to ``_identities``; return how many IDs have another user than before.

    An ID that is no longer linked to others stays, as its own user: days with it have changed, too.
    """
    execute(
        connection,
        f"""
        CREATE OR REPLACE TEMP TABLE _changed AS
        SELECT distinct_id, coalesce(new.user_id, distinct_id) AS user_id,
            coalesce(new.ids, 1) AS ids, old.changed_at,
            coalesce(new.user_id, distinct_id) <> coalesce(old.user_id, distinct_id)
                AND coalesce(new.user_id, old.user_id) <> '{NOBODY}' AS is_moved
        FROM (
            FROM {COMPONENTS} UNION ALL
            SELECT DISTINCT id, '{NOBODY}', 1 FROM _identity_pairs
            WHERE dataset = lower($dataset) AND other = '{NOBODY}' AND id <> '{NOBODY}'
        ) AS new
        FULL JOIN (FROM _identities WHERE dataset = lower($dataset)) AS old USING (distinct_id)
        WHERE coalesce(new.user_id, distinct_id) IS DISTINCT FROM old.user_id
            OR coalesce(new.ids, 1) IS DISTINCT FROM old.ids
        """,
        {"dataset": dataset},
    )
    execute(
        connection,
        "DELETE FROM _identities WHERE dataset = lower(?) "
        "AND distinct_id IN (SELECT distinct_id FROM _changed)",
        [dataset],
    )
    execute(
        connection,
        "INSERT INTO _identities SELECT lower(?), distinct_id, user_id, ids, "
        "if(is_moved, ?, changed_at) FROM _changed",
        [dataset, to_utc(datetime.now(UTC))],
    )
    ((moved,),) = execute(connection, "SELECT count(*) FROM _changed WHERE is_moved")
    execute(connection, "DROP TABLE temp._changed")
    return int(moved)

"""The latest comparison of each day with the source's own counts, ``_reconciliations``."""

from collections.abc import Iterable

import duckdb

from mp_pipeline.storage.models import Reconciliation
from mp_pipeline.storage.statements import execute, transaction
from mp_pipeline.storage.times import as_utc, to_utc


def record_reconciliations(
    connection: duckdb.DuckDBPyConnection, dataset: str, results: Iterable[Reconciliation]
) -> None:
    """Record how days compared, in place of their earlier results."""
    found = list(results)
    columns = [
        [result.day for result in found],
        [to_utc(result.checked_at) for result in found],
        [to_utc(result.loaded_at) for result in found],
        [result.stored for result in found],
        [result.counted for result in found],
        [result.outcome for result in found],
        [result.event_name for result in found],
        [result.difference for result in found],
    ]
    types = ("DATE", "TIMESTAMP", "TIMESTAMP", "BIGINT", "BIGINT", "VARCHAR", "VARCHAR", "BIGINT")
    values = ", ".join(f"unnest(?::{type_}[])" for type_ in types)
    with transaction(connection):
        execute(
            connection,
            "DELETE FROM _reconciliations "
            "WHERE lower(dataset) = lower(?) AND day IN (SELECT unnest(?::DATE[]))",
            [dataset, columns[0]],
        )
        execute(connection, f"INSERT INTO _reconciliations SELECT ?, {values}", [dataset, *columns])


def list_reconciliations(
    connection: duckdb.DuckDBPyConnection, dataset: str
) -> list[Reconciliation]:
    """Return how the days of a dataset compared, oldest day first."""
    return [
        Reconciliation(day, as_utc(checked_at), as_utc(loaded_at), *values)
        for day, checked_at, loaded_at, *values in execute(
            connection,
            "SELECT day, checked_at, loaded_at, stored, counted, outcome, event_name, difference "
            "FROM _reconciliations WHERE lower(dataset) = lower(?) ORDER BY day",
            [dataset],
        )
    ]

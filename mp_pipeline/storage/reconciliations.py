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
    with transaction(connection):
        for result in results:
            execute(
                connection,
                "DELETE FROM _reconciliations WHERE lower(dataset) = lower(?) AND day = ?",
                [dataset, result.day],
            )
            execute(
                connection,
                "INSERT INTO _reconciliations VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    dataset,
                    result.day,
                    to_utc(result.checked_at),
                    to_utc(result.loaded_at),
                    result.stored,
                    result.counted,
                    result.outcome,
                    result.event_name,
                    result.difference,
                ],
            )


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

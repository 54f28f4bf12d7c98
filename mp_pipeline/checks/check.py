"""What all checks share: the database, the days of the run, a table in the metadata."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from itertools import islice

import dagster as dg

from mp_pipeline.resources import MixpanelDuckDBResource
from mp_pipeline.storage import StorageEngine

Check = Callable[[StorageEngine, dg.AssetCheckExecutionContext], dg.AssetCheckResult]
"""Judges what is in the database."""

Clock = Callable[[], datetime]
"""Tells what time it is (aware)."""

_SHOWN_IN_FULL = 400  # rows; more than a year of days
_TYPES = {str: "string", bool: "bool", int: "int"}


def now() -> datetime:
    """Return what time it is (UTC)."""
    return datetime.now(UTC)


def database_check(
    asset: dg.AssetsDefinition,
    name: str,
    description: str,
    check: Check,
    *,
    blocking: bool = False,
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR,
) -> dg.AssetChecksDefinition:
    """Return a check of an asset that reads the database, and fails if there is none.

    Args:
        asset: what is judged.
        name: the check's name.
        description: what the UI says of it.
        check: judges; the severity of what it returns is set here.
        blocking: whether nothing downstream runs if it fails.
        severity: whether to fail is an error or a warning.
    """

    @dg.asset_check(asset=asset, name=name, description=description, blocking=blocking)
    def judged(
        context: dg.AssetCheckExecutionContext, duckdb: MixpanelDuckDBResource
    ) -> dg.AssetCheckResult:
        try:
            with duckdb.get_engine(read_only=True) as engine:
                result = check(engine, context)
        except FileNotFoundError as error:
            result = dg.AssetCheckResult(passed=False, description=str(error))
        return result._replace(severity=severity)

    return judged


def run_days(context: dg.AssetCheckExecutionContext) -> list[date] | None:
    """Return the days of the check's run, None if it runs alone."""
    try:
        return [date.fromisoformat(key) for key in context.partition_keys]
    except dg.DagsterInvariantViolationError:
        return None


def nothing_loaded(dataset: str) -> dg.AssetCheckResult:
    """Return the result of a check that finds nothing to judge."""
    return dg.AssetCheckResult(passed=False, description=f"nothing of {dataset} is loaded")


def table_of(
    columns: Mapping[str, type], rows: Iterable[Sequence[str | int | bool]]
) -> dg.TableMetadataValue:
    """Return a table of metadata, cut where it gets too long to be read.

    Args:
        columns: their names and types.
        rows: their values; problems first.
    """
    return dg.MetadataValue.table(
        [
            dg.TableRecord(dict(zip(columns, row, strict=True)))
            for row in islice(rows, _SHOWN_IN_FULL)
        ],
        schema=dg.TableSchema(
            [dg.TableColumn(name, _TYPES[kind]) for name, kind in columns.items()]
        ),
    )

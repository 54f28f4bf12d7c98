"""What all checks share: the database, and the days of the run."""

from collections.abc import Callable
from datetime import UTC, date, datetime

import dagster as dg

from mp_pipeline.project import Project
from mp_pipeline.resources import MixpanelDuckDBResource
from mp_pipeline.storage import StorageEngine

Check = Callable[[StorageEngine, dg.AssetCheckExecutionContext], dg.AssetCheckResult]
"""Judges what is in the database."""

Clock = Callable[[], datetime]
"""Returns the current time (timezone-aware)."""


def now() -> datetime:
    """Return the current time (UTC)."""
    return datetime.now(UTC)


def database_check(
    project: Project,
    asset: dg.AssetsDefinition,
    name: str,
    description: str,
    check: Check,
    *,
    blocking: bool = False,
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR,
) -> dg.AssetChecksDefinition:
    """Return an asset check that reads the database. It fails if there is no database.

    Args:
        project: The project that the asset belongs to.
        asset: The asset to judge.
        name: Name of the check.
        description: Description in the UI.
        check: Judges; ``severity`` is added to its result.
        blocking: Whether a failure keeps downstream assets from being materialized.
        severity: Whether a failure is an error or a warning.
    """
    duckdb_key = project.name("duckdb")

    @dg.asset_check(
        asset=asset,
        name=name,
        description=description,
        blocking=blocking,
        required_resource_keys={duckdb_key},
    )
    def run_check(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        duckdb: MixpanelDuckDBResource = getattr(context.resources, duckdb_key)
        try:
            with duckdb.get_engine(read_only=True) as engine:
                result = check(engine, context)
        except FileNotFoundError as error:
            result = dg.AssetCheckResult(passed=False, description=str(error))
        return result._replace(severity=severity)

    return run_check


def run_days(context: dg.AssetCheckExecutionContext) -> list[date] | None:
    """Return the days of the check's run; None if the check runs by itself."""
    try:
        return [date.fromisoformat(key) for key in context.partition_keys]
    except dg.DagsterInvariantViolationError:
        return None


def nothing_loaded(dataset: str) -> dg.AssetCheckResult:
    """Return the result of a check on a dataset without data."""
    return dg.AssetCheckResult(passed=False, description=f"no data of {dataset} is loaded")

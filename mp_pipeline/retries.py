"""Retried runs: what the failed attempts before have loaded is not loaded again."""

from collections.abc import Sequence
from datetime import date

import dagster as dg

from mp_pipeline.resources import MixpanelDuckDBResource
from mp_pipeline.storage import LoadReport


def loads_of_failed_attempts(
    context: dg.AssetExecutionContext,
    duckdb: MixpanelDuckDBResource,
    dataset: str,
    days: Sequence[date],
) -> list[LoadReport]:
    """Return the days that failed attempts of this run have loaded, and that are still there.

    A run that is started again, by Dagster or from the UI, names the run before as its parent.
    Running one again that succeeded is no retry: everything is loaded anew.

    Args:
        context: that of the asset.
        duckdb: the database.
        dataset: name of the view over the day tables.
        days: those that the run asks for.

    Returns:
        The last of these loads of each such day, in the order of days.
    """
    run_ids = []
    run: dg.DagsterRun | None = context.run
    while run is not None and run.parent_run_id is not None:
        run = context.instance.get_run_by_id(run.parent_run_id)
        if run is None or run.status == dg.DagsterRunStatus.SUCCESS:
            break
        run_ids.append(run.run_id)
    if not run_ids:
        return []
    try:
        with duckdb.get_engine(read_only=True) as engine:
            there = {day.day for day in engine.list_days(dataset)}
            loads = {load.day: load for load in engine.list_loads(dataset, run_ids)}
    except FileNotFoundError:  # no attempt came so far
        return []
    return [loads[day] for day in days if day in there and day in loads]

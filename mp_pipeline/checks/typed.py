"""Checks of typed events: typed rows are current, and events and properties are the usual ones."""

from collections.abc import Sequence
from datetime import date

import dagster as dg

from mp_pipeline.checks.common import database_check, nothing_loaded, run_days
from mp_pipeline.days import format_days, format_names
from mp_pipeline.io_manager import table_name
from mp_pipeline.metadata_tables import metadata_table
from mp_pipeline.project import Project
from mp_pipeline.storage import Drift, StorageEngine

_DAYS_WITHOUT_RUN = 7  # latest days to judge when the check runs by itself


def typed_days(
    project: Project, asset: dg.AssetsDefinition, events: dg.AssetsDefinition
) -> dg.AssetChecksDefinition:
    """Return the check that all loaded days are typed, from their latest load.

    Args:
        project: The project.
        asset: The asset with the typed events.
        events: The asset with the raw events.
    """
    dataset = table_name(events.key)

    def check(engine: StorageEngine, _: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        loaded = [day.day for day in engine.list_days(dataset)]
        if not loaded:
            return nothing_loaded(dataset)
        typed = {day.day: day for day in engine.list_typed_days(dataset)}
        untyped = [day for day in loaded if day not in typed]
        stale = [day.day for day in typed.values() if day.is_stale]
        problems = []
        if untyped:
            problems.append(f"not typed: {format_days(untyped)}")
        if stale:
            problems.append(f"reloaded or dropped since they were typed: {format_days(stale)}")
        return dg.AssetCheckResult(
            passed=not problems,
            description="; ".join(problems)
            or f"{len(typed)} days are typed from their latest load",
            metadata={"typed": len(typed), "not_typed": len(untyped), "stale": len(stale)},
        )

    return database_check(
        project,
        asset,
        "typed_days",
        "All loaded days are typed, from their latest load. Materialize the days that it names.",
        check,
        severity=dg.AssetCheckSeverity.WARN,
    )


def property_drift(
    project: Project, asset: dg.AssetsDefinition, events: dg.AssetsDefinition
) -> dg.AssetChecksDefinition:
    """Return the check that a day has the events, properties and types of the 28 days before.

    It judges the days of its run, and the latest seven typed days when it runs by itself.

    Args:
        project: The project.
        asset: The asset with the typed events.
        events: The asset with the raw events.
    """
    dataset = table_name(events.key)

    def check(engine: StorageEngine, context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        typed = [day.day for day in engine.list_typed_days(dataset)]
        if not typed:
            return dg.AssetCheckResult(passed=False, description=f"no day of {dataset} is typed")
        days = run_days(context) or typed[-_DAYS_WITHOUT_RUN:]
        found = [(day, drift) for day in days for drift in engine.property_drift(dataset, day)]
        return dg.AssetCheckResult(
            passed=not found,
            description=format_names(_names([drift for _, drift in found]))
            or f"{format_days(days)}: the events, properties and types of the 28 days before",
            metadata={"changes": len(found), "drift": _drift_table(found)},
        )

    return database_check(
        project,
        asset,
        "property_drift",
        "A day has the same events, properties and types of values as the 28 days before. Events "
        "that occur less than 100 times are left out.",
        check,
        severity=dg.AssetCheckSeverity.WARN,
    )


def _names(found: Sequence[Drift]) -> list[str]:
    """Return each change once, as text."""
    names = (
        f"{drift.change} {drift.event if drift.property is None else _of_event(drift)}"
        for drift in found
    )
    return list(dict.fromkeys(names))


def _of_event(drift: Drift) -> str:
    return f"{drift.property} of {drift.event}"


def _drift_table(found: Sequence[tuple[date, Drift]]) -> dg.TableMetadataValue:
    return metadata_table(
        {
            "day": str,
            "change": str,
            "event": str,
            "property": str,
            "types_before": str,
            "types_now": str,
            "filled_before": str,
            "filled_now": str,
        },
        [
            (
                str(day),
                drift.change,
                drift.event,
                drift.property or "",
                ", ".join(drift.types_before),
                ", ".join(drift.types_now),
                _percent(drift.fraction_before),
                _percent(drift.fraction_now),
            )
            for day, drift in found
        ],
    )


def _percent(fraction: float | None) -> str:
    return "" if fraction is None else f"{fraction:.1%}"

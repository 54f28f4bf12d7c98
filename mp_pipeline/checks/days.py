"""Checks of days: the latest one is loaded in time, and none is missing in between.

They judge everything in the database, whatever days their run was for.
"""

from datetime import date

import dagster as dg

from mp_pipeline.automation.deadline import Deadline
from mp_pipeline.checks.common import Clock, database_check, nothing_loaded, now
from mp_pipeline.days import (
    ONE_DAY,
    Span,
    days_between,
    find_gaps,
    format_days,
    format_names,
    to_spans,
)
from mp_pipeline.io_manager import table_name
from mp_pipeline.metadata_tables import metadata_table
from mp_pipeline.project import Project
from mp_pipeline.storage import StorageEngine


def latest_day(
    project: Project, asset: dg.AssetsDefinition, *, clock: Clock = now
) -> dg.AssetChecksDefinition:
    """Return the check that the last day whose deadline has passed is loaded.

    Args:
        project: The project that the asset belongs to.
        asset: The asset to judge; it has daily partitions.
        clock: Returns the current time.
    """
    dataset = table_name(asset.key)
    deadline = project.deadline

    def check(engine: StorageEngine, _: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        due = deadline.last_day_due(clock())
        start = project.settings.mixpanel_start_date
        if due < start:
            return dg.AssetCheckResult(
                passed=True, description=f"no day is due yet: the first one is {start}"
            )
        days = [day.day for day in engine.list_days(dataset)]
        if not days:
            return nothing_loaded(dataset)
        before = max((day for day in days if day < due), default=due - ONE_DAY)
        missing = [] if due in days else days_between(before + ONE_DAY, due)
        description = f"{due} is loaded"
        if missing:
            description = (
                f"{due} is not loaded; it was due at {_due(deadline, due)}. The latest day "
                f"loaded is {days[-1]}. {_advice(project, Span(missing[0], due))}, and check that "
                f"the schedule {project.name('daily_events')} is running"
            )
        return dg.AssetCheckResult(
            passed=not missing,
            description=description,
            metadata={
                "missing": len(missing),
                "days": metadata_table(
                    {"day": str, "due": str, "loaded": bool},
                    [(str(day), _due(deadline, day), not missing) for day in missing or [due]],
                ),
            },
        )

    return database_check(
        project, asset, "latest_day", "The last day whose deadline has passed is loaded.", check
    )


def no_gaps(project: Project, asset: dg.AssetsDefinition) -> dg.AssetChecksDefinition:
    """Return the check that no day is missing between the first and the last that are loaded.

    Args:
        project: The project that the asset belongs to.
        asset: The asset to judge; it has daily partitions.
    """
    dataset = table_name(asset.key)

    def check(engine: StorageEngine, _: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        days = [day.day for day in engine.list_days(dataset)]
        if not days:
            return nothing_loaded(dataset)
        loaded, missing = Span(days[0], days[-1]), find_gaps(days)
        count = sum(gap.days for gap in missing)
        description = f"no day is missing: {loaded}"
        if missing:
            description = (
                f"{count} {'day is' if count == 1 else 'days are'} missing in {loaded}: "
                f"{format_names([str(gap) for gap in missing])}. {_advice(project, missing[0])}"
            )
        return dg.AssetCheckResult(
            passed=not missing,
            description=description,
            metadata={
                "missing": count,
                "days": metadata_table(
                    {"first": str, "last": str, "days": int, "loaded": bool},
                    [
                        (str(span.first), str(span.last), span.days, is_loaded)
                        for is_loaded, found in ((False, missing), (True, to_spans(days)))
                        for span in found
                    ],
                ),
            },
        )

    return database_check(
        project,
        asset,
        "no_gaps",
        "No day is missing between the first and the last that are loaded.",
        check,
    )


def only_here(
    project: Project, asset: dg.AssetsDefinition, *, clock: Clock = now
) -> dg.AssetChecksDefinition:
    """Return the check that days which Mixpanel has deleted are intact: nobody can reload them.

    Args:
        project: The project that the asset belongs to; its settings say how long Mixpanel keeps
            events.
        asset: The asset to judge; it has daily partitions.
        clock: Returns the current time.
    """
    dataset = table_name(asset.key)

    def check(engine: StorageEngine, _: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        oldest = project.oldest_day(clock())
        days = [day for day in engine.list_days(dataset) if oldest and day.day < oldest]
        counts = engine.count_rows([day.table_name for day in days])
        damaged = {count.table_name: count.problems for count in counts if count.problems}
        description = f"no loaded day is older than {oldest}, the first that Mixpanel still has"
        if days:
            description = (
                f"{format_days([day.day for day in days])} exist only here, and are intact"
            )
        if damaged:
            problems = next(iter(damaged.values()))
            description = (
                f"{format_names(list(damaged))} exist only here, and are damaged: "
                f"{'; '.join(problems)}. Restore them from a backup: Mixpanel has deleted them"
            )
        return dg.AssetCheckResult(
            passed=not damaged,
            description=description,
            metadata={
                "days": len(days),
                "damaged": len(damaged),
                "spans": metadata_table(
                    {"first": str, "last": str, "days": int},
                    [
                        (str(span.first), str(span.last), span.days)
                        for span in to_spans([day.day for day in days])
                    ],
                ),
            },
        )

    return database_check(
        project,
        asset,
        "only_here",
        "Loaded days that are older than MIXPANEL_RETENTION_DAYS, which nobody can reload, are "
        "intact.",
        check,
    )


def _due(deadline: Deadline, day: date) -> str:
    return f"{deadline.of(day).astimezone(deadline.zone):%Y-%m-%d %H:%M} ({deadline.zone})"


def _advice(project: Project, days: Span) -> str:
    if project.key_prefix:
        return f"Materialize {days} in the UI"
    return (
        f"Load {days}: mp-pipeline backfill --from {days.first} --to {days.last} --no-profiles, "
        "or materialize in the UI"
    )

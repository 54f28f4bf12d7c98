"""Checks of the days: the latest one is there in time, and none is missing between others.

They judge all that is in the database, whatever their run was for.
"""

from datetime import date, timedelta

import dagster as dg

from mp_pipeline.checks.check import Clock, database_check, nothing_loaded, now, table_of
from mp_pipeline.deadline import Deadline, project_deadline
from mp_pipeline.io_manager import table_name
from mp_pipeline.partitions import days_between, listed
from mp_pipeline.settings import load_settings
from mp_pipeline.spans import Span, gaps, spans
from mp_pipeline.storage import StorageEngine

_ONE_DAY = timedelta(days=1)


def latest_day(
    asset: dg.AssetsDefinition, *, deadline: Deadline = project_deadline, clock: Clock = now
) -> dg.AssetChecksDefinition:
    """Return the check that the last day whose deadline has passed is there.

    Args:
        asset: what is judged; has a partition a day.
        deadline: when a day must be there.
        clock: tells what time it is.
    """
    dataset = table_name(asset.key)

    def check(engine: StorageEngine, _: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        due = deadline.last_day_due(clock())
        start = load_settings().mixpanel_start_date
        if due < start:
            return dg.AssetCheckResult(
                passed=True, description=f"no day is due yet: the first one is {start}"
            )
        days = [day.day for day in engine.list_days(dataset)]
        if not days:
            return nothing_loaded(dataset)
        before = max((day for day in days if day < due), default=due - _ONE_DAY)
        missing = [] if due in days else days_between(before + _ONE_DAY, due)
        description = f"{due} is there"
        if missing:
            description = (
                f"{due} is not there, but must be since {_since(deadline, due)}; the latest day "
                f"there is {days[-1]}. {_advice(Span(missing[0], due))}, and see whether the "
                "schedule daily_events is running"
            )
        return dg.AssetCheckResult(
            passed=not missing,
            description=description,
            metadata={
                "missing": len(missing),
                "days": table_of(
                    {"day": str, "due": str, "there": bool},
                    [(str(day), _since(deadline, day), not missing) for day in missing or [due]],
                ),
            },
        )

    return database_check(
        asset, "latest_day", "The last day whose deadline has passed is there.", check
    )


def no_gaps(asset: dg.AssetsDefinition) -> dg.AssetChecksDefinition:
    """Return the check that no day is missing between the first and the last that are there.

    Args:
        asset: what is judged; has a partition a day.
    """
    dataset = table_name(asset.key)

    def check(engine: StorageEngine, _: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        days = [day.day for day in engine.list_days(dataset)]
        if not days:
            return nothing_loaded(dataset)
        whole, missing = Span(days[0], days[-1]), gaps(days)
        count = sum(gap.days for gap in missing)
        description = f"no day is missing: {whole}"
        if missing:
            description = (
                f"{count} {'day is' if count == 1 else 'days are'} missing in {whole}: "
                f"{listed([str(gap) for gap in missing])}. {_advice(missing[0])}"
            )
        return dg.AssetCheckResult(
            passed=not missing,
            description=description,
            metadata={
                "missing": count,
                "days": table_of(
                    {"first": str, "last": str, "days": int, "there": bool},
                    [
                        (str(span.first), str(span.last), span.days, there)
                        for there, found in ((False, missing), (True, spans(days)))
                        for span in found
                    ],
                ),
            },
        )

    return database_check(
        asset,
        "no_gaps",
        "No day is missing between the first and the last that are there.",
        check,
    )


def _since(deadline: Deadline, day: date) -> str:
    return f"{deadline.of(day).astimezone(deadline.zone):%Y-%m-%d %H:%M} ({deadline.zone})"


def _advice(days: Span) -> str:
    return (
        f"Load {days}: mp-pipeline backfill --from {days.first} --to {days.last} --no-profiles, "
        "or Materialize in the UI"
    )

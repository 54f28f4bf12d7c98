"""The check that the stored events are as many as Mixpanel counts."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import dagster as dg

from mp_pipeline.checks.common import Clock, nothing_loaded, now, run_days
from mp_pipeline.days import format_days, format_names
from mp_pipeline.io_manager import table_name
from mp_pipeline.metadata_tables import metadata_table
from mp_pipeline.mixpanel import MixpanelError, RateLimitStoreError
from mp_pipeline.plot import difference_plot
from mp_pipeline.project import Project
from mp_pipeline.reconciliation import (
    MAX_DAY_FRACTION,
    MAX_EVENTS,
    MAX_FRACTION,
    DayComparison,
    EventCount,
    compare_day,
    find_causes,
)
from mp_pipeline.resources import MixpanelDuckDBResource, MixpanelResource
from mp_pipeline.storage import DayInfo, Reconciliation, StorageEngine

_DAYS_WITHOUT_RUN = 30  # latest days to judge when the check runs by itself
_PAYMENT_REQUIRED = 402


def mixpanel_counts(
    project: Project, asset: dg.AssetsDefinition, *, clock: Clock = now
) -> dg.AssetChecksDefinition:
    """Return the check that days have as many events as Mixpanel counts, name by name.

    It judges the days of its run, or the latest 30 when it runs by itself, if they are older than
    the trailing days and were loaded without an expression that filters them. It records the result
    of each day in the database, which is not open while it waits for Mixpanel.

    Args:
        project: The project that the asset belongs to.
        asset: The asset to judge; it has daily partitions.
        clock: Returns the current time.
    """
    dataset = table_name(asset.key)
    duckdb_key, mixpanel_key = project.name("duckdb"), project.name("mixpanel")

    @dg.asset_check(
        asset=asset,
        name="mixpanel_counts",
        description="Days older than the trailing days have as many events as Mixpanel counts, "
        f"name by name. A warning reports an event that differs by more than {MAX_EVENTS} or "
        f"{MAX_FRACTION:.1%} on a day, an error a day that differs by more than "
        f"{MAX_DAY_FRACTION:.0%}.",
        required_resource_keys={duckdb_key, mixpanel_key},
    )
    def run_check(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        duckdb: MixpanelDuckDBResource = getattr(context.resources, duckdb_key)
        mixpanel: MixpanelResource = getattr(context.resources, mixpanel_key)
        time = clock()
        try:
            with duckdb.get_engine(read_only=True) as engine:
                loaded = engine.list_days(dataset)
                of_run = run_days(context)
                if of_run is not None:
                    loaded = [day for day in loaded if day.day in set(of_run)]
                days, left_out = _select(project, loaded, time)
                stored = _read(engine, days if of_run else days[-_DAYS_WITHOUT_RUN:])
        except FileNotFoundError as error:
            return dg.AssetCheckResult(passed=False, description=str(error))
        if not loaded:
            return nothing_loaded(dataset)
        if not stored:
            return _not_compared(f"there is nothing to compare: {'; '.join(left_out)}")
        try:
            comparisons = _compare(mixpanel, stored)
        except (MixpanelError, RateLimitStoreError) as error:
            if isinstance(error, MixpanelError) and error.status == _PAYMENT_REQUIRED:
                return _not_compared("Mixpanel's counts are not available on this plan (402)")
            return dg.AssetCheckResult(passed=False, description=str(error))
        with duckdb.get_engine() as engine:
            engine.record_reconciliations(dataset, _results(stored, comparisons, time))
        return _judge(comparisons, left_out)

    return run_check


@dataclass(frozen=True)
class _StoredDay:
    """A day that can be compared.

    Attributes:
        info: The day, and how it was loaded.
        loaded_at: When its latest load was published.
        events: The numbers of its events by name.
        erased: Lines of erased users that are not stored.
    """

    info: DayInfo
    loaded_at: datetime
    events: dict[str, int]
    erased: int


def _select(
    project: Project, loaded: Sequence[DayInfo], time: datetime
) -> tuple[list[DayInfo], list[str]]:
    """Return the days that can be compared, and why others are left out."""
    trailing = project.settings.mp_pipeline_trailing_days
    first_trailing = time.astimezone(project.settings.zone).date() - timedelta(days=trailing)
    oldest = project.oldest_day(time)
    settled = [day for day in loaded if day.day < first_trailing]
    kept = [day for day in settled if oldest is None or day.day >= oldest]
    days = [day for day in kept if day.origin.filter_where is None]
    left_out = []
    if len(settled) < len(loaded):
        left_out.append(
            f"the trailing {trailing} days, from {first_trailing} on, may still get events"
        )
    if len(kept) < len(settled):
        left_out.append(f"Mixpanel has deleted the days before {oldest} (MIXPANEL_RETENTION_DAYS)")
    if filtered := [day.day for day in kept if day.origin.filter_where is not None]:
        left_out.append(
            f"{format_days(filtered)} were loaded with a filter (MIXPANEL_WHERE), which counts "
            "do not have"
        )
    return days, left_out


def _read(engine: StorageEngine, days: Sequence[DayInfo]) -> list[_StoredDay]:
    tables = [day.table_name for day in days]
    events = engine.count_events(tables)
    loads = [count.last_load for count in engine.count_rows(tables)]
    return [
        _StoredDay(
            day,
            day.fetched_at if load is None else load.finished_at,
            events.get(day.table_name, {}),
            0 if load is None else load.suppressed + load.erased,
        )
        for day, load in zip(days, loads, strict=True)
    ]


def _compare(mixpanel: MixpanelResource, stored: Sequence[_StoredDay]) -> list[DayComparison]:
    first, last = stored[0].info.day, stored[-1].info.day
    filters = [day.info.origin.filter_events for day in stored]
    names = {name for day in stored for name in day.events}
    names |= {name for events in filters for name in events or ()}
    with mixpanel.get_client() as client:
        if None in filters:
            names |= set(client.list_event_names())
        counted = client.count_events(first, last, sorted(names))
    return [
        compare_day(day.info.day, day.events, counted, events, day.erased)
        for day, events in zip(stored, filters, strict=True)
    ]


def _results(
    stored: Sequence[_StoredDay], comparisons: Sequence[DayComparison], time: datetime
) -> list[Reconciliation]:
    return [
        Reconciliation(
            day=comparison.day,
            checked_at=time,
            loaded_at=day.loaded_at,
            stored=comparison.stored,
            counted=comparison.counted,
            outcome=comparison.outcome,
            event_name=comparison.differences[0].event if comparison.differences else None,
            difference=comparison.differences[0].difference if comparison.differences else 0,
        )
        for day, comparison in zip(stored, comparisons, strict=True)
    ]


def _not_compared(description: str) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=True, description=description, metadata={"compared": 0})


def _judge(comparisons: Sequence[DayComparison], left_out: Sequence[str]) -> dg.AssetCheckResult:
    outcomes = [day.outcome for day in comparisons]
    differing = [day for day in comparisons if day.outcome in ("warning", "error")]
    is_warning = bool(differing) and "error" not in outcomes
    causes = find_causes(comparisons)
    return dg.AssetCheckResult(
        passed=not differing,
        severity=dg.AssetCheckSeverity.WARN if is_warning else dg.AssetCheckSeverity.ERROR,
        description=_describe_differing(differing, len(comparisons), causes)
        if differing
        else _describe_agreeing(comparisons),
        metadata={
            "compared": len(comparisons),
            "equal": outcomes.count("equal"),
            "differing": len(differing),
            "causes": "; ".join(causes) or "none",
            "left_out": "; ".join(left_out) or "none",
            "differences": metadata_table(
                {"day": str, "event": str, "stored": int, "mixpanel": int, "difference": int},
                [
                    (str(day), event.event, event.stored, event.counted, event.difference)
                    for day, event in _largest_differences(comparisons)
                ],
            ),
            "days": metadata_table(
                {"day": str, "stored": int, "mixpanel": int, "difference": int, "outcome": str},
                [
                    (str(day.day), day.stored, day.counted, day.difference, day.outcome)
                    for day in _worst_first(comparisons)
                ],
            ),
            "plot": dg.MetadataValue.md(
                difference_plot({day.day: day.difference for day in comparisons})
            ),
        },
    )


def _describe_differing(
    differing: Sequence[DayComparison], compared: int, causes: Sequence[str]
) -> str:
    days = format_names([str(day) for day in _worst_first(differing)])
    return ". ".join([f"{len(differing)} of {compared} days differ: {days}", *causes])


def _describe_agreeing(comparisons: Sequence[DayComparison]) -> str:
    equal = sum(day.outcome == "equal" for day in comparisons)
    events = sum(day.stored for day in comparisons)
    if equal == len(comparisons):
        return f"all {equal} days, with {events:,} events, are equal to Mixpanel's counts"
    return (
        f"{equal} of {len(comparisons)} days, with {events:,} events in all, are equal to "
        f"Mixpanel's counts; of the others no event differs by more than {MAX_EVENTS} or "
        f"{MAX_FRACTION:.1%}, or only events of erased users are missing"
    )


def _worst_first(comparisons: Sequence[DayComparison]) -> list[DayComparison]:
    return sorted(comparisons, key=lambda day: (day.outcome != "error", -abs(day.difference)))


def _largest_differences(comparisons: Sequence[DayComparison]) -> list[tuple[date, EventCount]]:
    found = [(day.day, event) for day in comparisons for event in day.differences]
    return sorted(found, key=lambda pair: -abs(pair[1].difference))

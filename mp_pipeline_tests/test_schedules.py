"""The days that the schedule of the events requests, in a project in Berlin."""

from datetime import date, datetime
from zoneinfo import ZoneInfo

import dagster as dg

from mp_pipeline.factory import mixpanel_project
from mp_pipeline.settings import Settings

DEFINITIONS = mixpanel_project(
    Settings(
        mixpanel_project_timezone="Europe/Berlin",
        mixpanel_start_date=date(2024, 3, 26),
        mp_pipeline_trailing_days=3,
    )
)


def tick(*at: int, fold: int = 0) -> list[str] | str:
    """Return the first and last day and the run key of a tick in Berlin, or why it requests none.

    The ticks are long past by the clock of this machine, as those are that a daemon evaluates late.
    """
    year, month, day, hour = at
    moment = datetime(year, month, day, hour, tzinfo=ZoneInfo("Europe/Berlin"), fold=fold)
    repository = DEFINITIONS.get_repository_def()
    context = dg.build_schedule_context(scheduled_execution_time=moment, repository_def=repository)
    result = repository.get_schedule_def("daily_events").evaluate_tick(context)
    if result.skip_message:
        return result.skip_message
    (request,) = result.run_requests or ()
    days = [request.tags[f"dagster/asset_partition_range_{end}"] for end in ("start", "end")]
    return [*days, str(request.run_key)]


def test_near_the_start_there_are_fewer_days() -> None:
    assert tick(2024, 3, 26, 2) == "no day is complete since MIXPANEL_START_DATE"
    assert tick(2024, 3, 27, 2) == ["2024-03-26", "2024-03-26", "2024-03-26"]
    assert tick(2024, 3, 28, 2) == ["2024-03-26", "2024-03-27", "2024-03-27"]


def test_a_late_tick_requests_the_days_before_its_own_time() -> None:
    assert tick(2024, 4, 20, 2) == ["2024-04-17", "2024-04-19", "2024-04-19"]


def test_days_when_the_clocks_change() -> None:
    skipped_hour, hour_that_occurs_twice = tick(2024, 3, 31, 3), tick(2024, 10, 27, 2)
    assert skipped_hour == ["2024-03-28", "2024-03-30", "2024-03-30"]
    assert hour_that_occurs_twice == ["2024-10-24", "2024-10-26", "2024-10-26"]
    assert tick(2024, 10, 27, 2, fold=1) == hour_that_occurs_twice

"""The days that the schedule of the events asks for, in a project of Berlin."""

import json

import pytest

from mp_pipeline_tests.dagster_support import python

TICKS = """
    import json
    from datetime import datetime
    from zoneinfo import ZoneInfo

    import dagster as dg
    from mp_pipeline.definitions import defs
    from mp_pipeline.automation.schedules import daily_events

    def tick(*at, fold=0):
        moment = datetime(*at, tzinfo=ZoneInfo("Europe/Berlin"), fold=fold)
        context = dg.build_schedule_context(
            scheduled_execution_time=moment, repository_def=defs.get_repository_def()
        )
        result = daily_events.evaluate_tick(context)
        if result.skip_message:
            return result.skip_message
        (request,) = result.run_requests
        days = [request.tags[f"dagster/asset_partition_range_{end}"] for end in ("start", "end")]
        return [*days, request.run_key]

    print(json.dumps({
        "first day": tick(2024, 3, 26, 2),
        "second day": tick(2024, 3, 27, 2),
        "third day": tick(2024, 3, 28, 2),
        "late": tick(2024, 4, 20, 2),
        "skipped hour": tick(2024, 3, 31, 3),
        "hour that comes twice": tick(2024, 10, 27, 2),
        "the same again": tick(2024, 10, 27, 2, fold=1),
    }))
"""


@pytest.fixture(scope="module")
def ticks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str] | str]:
    done = python(
        TICKS,
        tmp_path_factory.mktemp("ticks"),
        MIXPANEL_PROJECT_TIMEZONE="Europe/Berlin",
        MIXPANEL_START_DATE="2024-03-26",
        MP_PIPELINE_TRAILING_DAYS="3",
    )
    assert (done.returncode, done.stderr) == (0, "")
    answer: dict[str, list[str] | str] = json.loads(done.stdout)
    return answer


def test_near_the_start_there_are_fewer_days(ticks: dict[str, list[str] | str]) -> None:
    assert ticks["first day"] == "there is no complete day since MIXPANEL_START_DATE"
    assert ticks["second day"] == ["2024-03-26", "2024-03-26", "2024-03-26"]
    assert ticks["third day"] == ["2024-03-26", "2024-03-27", "2024-03-27"]


def test_a_tick_that_comes_late_asks_for_the_days_before_it(
    ticks: dict[str, list[str] | str],
) -> None:
    """It is long past by the clock of this machine."""
    assert ticks["late"] == ["2024-04-17", "2024-04-19", "2024-04-19"]


def test_days_when_the_clocks_change(ticks: dict[str, list[str] | str]) -> None:
    assert ticks["skipped hour"] == ["2024-03-28", "2024-03-30", "2024-03-30"]
    assert ticks["hour that comes twice"] == ["2024-10-24", "2024-10-26", "2024-10-26"]
    assert ticks["the same again"] == ticks["hour that comes twice"]

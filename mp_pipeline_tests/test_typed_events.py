"""The asset `typed_events`, its checks, its automation, and `mp-pipeline dictionary`."""

from datetime import date, datetime, time
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from mp_pipeline.factory import mixpanel_project
from mp_pipeline.settings import Settings
from mp_pipeline.storage import StorageEngine, TableMetadata
from mp_pipeline.typed_metadata import sparkline
from mp_pipeline_tests.support.dagster import Run, materialize, plain, resources
from mp_pipeline_tests.support.databases import query, query_column
from mp_pipeline_tests.support.processes import run_command
from mp_pipeline_tests.support.project import checks_of_typed_events, events, typed_events
from mp_pipeline_tests.support.records import DAY, DAY_AFTER, FETCHED_AT, NEXT_DAY, event, window

FETCHED = TableMetadata("events", FETCHED_AT)


def load(directory: Path, *days: date, count: int = 2, **fields: Any) -> None:
    """Load days of `Song Played`."""
    records = [
        event(f"{day}-{number}", datetime.combine(day, time(12)), **fields)
        for day in days
        for number in range(count)
    ]
    with StorageEngine(directory / "test.duckdb") as engine:
        list(engine.replace_events_days("events", [*map(window, days)], records, FETCHED))


def type_days(directory: Path, first: date, last: date | None = None) -> Run:
    assets = [events, typed_events, *checks_of_typed_events]
    selected = dg.AssetSelection.assets(typed_events)
    days = (first, last or first)
    return materialize(assets, resources(directory), days=days, only=selected)


def check(directory: Path, name: str) -> dg.AssetCheckEvaluation:
    """Run the checks by themselves, without a run of the asset."""
    assets = [events, typed_events, *checks_of_typed_events]
    selected = dg.AssetSelection.checks(*checks_of_typed_events)
    return materialize(assets, resources(directory), only=selected).checks[name]


def test_each_day_of_a_range_is_typed_and_described(tmp_path: Path) -> None:
    load(tmp_path, DAY, properties={"$city": "Berlin", "plays": 3})
    load(tmp_path, NEXT_DAY, properties={"plays": 2.5})
    run = type_days(tmp_path, DAY, NEXT_DAY)
    assert run.success, run.error
    rows = query(tmp_path, "SELECT day, mp_city, plays FROM event.song_played ORDER BY ALL")
    assert rows == [(DAY, "Berlin", 3.0)] * 2 + [(NEXT_DAY, None, 2.5)] * 2
    first, second = run.metadata[str(DAY)], run.metadata[str(NEXT_DAY)]
    assert (first["dagster/partition_row_count"], first["tables"]) == (2, 1)
    assert first["new_events"] == ["Song Played"]
    assert first["new_columns"] == [
        "event.song_played.mp_city VARCHAR",
        "event.song_played.plays BIGINT",
    ]
    assert second["wider_columns"] == ["event.song_played.plays: BIGINT to DOUBLE"]
    assert "new_columns" not in second
    assert "events of 2024-01-16: 2 events in 1 tables, 0 new columns, 1 wider ones" in run.log


def test_the_last_day_shows_the_dictionary(tmp_path: Path) -> None:
    load(tmp_path, DAY, NEXT_DAY, properties={"$city": "Berlin"})
    load(tmp_path, DAY_AFTER, count=4, properties={"$city": "Berlin", "plays": 3})
    run = type_days(tmp_path, DAY, DAY_AFTER)
    assert "events" not in run.metadata[str(DAY)]
    metadata = run.metadata[str(DAY_AFTER)]
    assert metadata["events"] == [
        {
            "event": "Song Played",
            "table": "event.song_played",
            "events": "8",
            "share": "100.0%",
            "28 days": "·" * 25 + "▄▄█",
            "properties": "2",
        }
    ]
    shown = [(row["property"], row["type"], row["filled"]) for row in metadata["properties"]]
    assert shown == [("$city", "VARCHAR", "100.0%"), ("plays", "BIGINT", "50.0%")]
    (city, plays) = metadata["dagster/column_schema"].columns
    assert (city.name, city.type) == ("event.song_played.mp_city", "VARCHAR")
    assert plays.description == "plays of Song Played, filled in 50% of the events."
    plot = "![Events per day, the most frequent ones](data:image/png"
    assert metadata["plot"].startswith(plot)


def test_new_properties_come_first(tmp_path: Path) -> None:
    load(tmp_path, DAY, count=100, properties={"$city": "Berlin"})
    load(tmp_path, NEXT_DAY, count=100, properties={"$city": "Berlin", "plays": 3})
    run = type_days(tmp_path, DAY, NEXT_DAY)
    rows = run.metadata[str(NEXT_DAY)]["properties"]
    assert [(row["property"], row["change"]) for row in rows] == [
        ("plays", "new property"),
        ("$city", ""),
    ]
    drift = run.checks["property_drift"]
    assert (drift.passed, drift.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert drift.description == "new property plays of Song Played"
    assert [row["day"] for row in plain(drift.metadata["drift"])] == [str(NEXT_DAY)]


def test_days_that_are_not_loaded_fail_at_the_end(tmp_path: Path) -> None:
    load(tmp_path, DAY)
    load(tmp_path, DAY_AFTER)
    run = type_days(tmp_path, DAY, DAY_AFTER)
    assert not run.success
    assert "2024-01-16 of events are not loaded: materialize events for them first" in run.error
    assert "2 of 3 days are loaded" in run.log
    assert query_column(tmp_path, "SELECT DISTINCT day FROM event.song_played ORDER BY ALL") == [
        DAY,
        DAY_AFTER,
    ]


def test_a_check_names_days_that_are_not_typed_or_stale(tmp_path: Path) -> None:
    load(tmp_path, DAY, NEXT_DAY)
    assert type_days(tmp_path, DAY, NEXT_DAY).checks["typed_days"].passed
    load(tmp_path, NEXT_DAY)
    load(tmp_path, DAY_AFTER)
    found = check(tmp_path, "typed_days")
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert found.description == (
        "not typed: 2024-01-17; reloaded or dropped since they were typed: 2024-01-16"
    )
    type_days(tmp_path, NEXT_DAY, DAY_AFTER)
    found = check(tmp_path, "typed_days")
    assert (found.passed, found.description) == (True, "3 days are typed from their latest load")


def test_checks_without_data(tmp_path: Path) -> None:
    with StorageEngine(tmp_path / "test.duckdb"):
        pass
    assert check(tmp_path, "typed_days").description == "no data of events is loaded"
    assert check(tmp_path, "property_drift").description == "no day of events is typed"


def test_any_day_is_typed_when_it_is_loaded_or_reloaded() -> None:
    """Not only the latest one, and not while it is not loaded."""
    definitions = mixpanel_project(Settings())
    requested: list[set[str]] = []
    cursor = None
    with dg.DagsterInstance.ephemeral() as instance:
        for loaded in ([], ["2024-01-15"], [], ["2024-01-15", "2024-02-01"]):
            for day in loaded:
                instance.report_runless_asset_event(
                    dg.AssetMaterialization(events.key, partition=day)
                )
            result = dg.evaluate_automation_conditions(
                definitions, instance, dg.AssetSelection.assets(typed_events), cursor=cursor
            )
            cursor = result.cursor
            requested.append(
                {str(day) for day in result.get_requested_partitions(typed_events.key)}
            )
            for day in requested[-1]:
                instance.report_runless_asset_event(
                    dg.AssetMaterialization(typed_events.key, partition=day)
                )
    assert requested == [set(), {"2024-01-15"}, set(), {"2024-01-15", "2024-02-01"}]


@pytest.mark.parametrize("switched_on", [True, False])
def test_a_setting_switches_it_off(switched_on: bool) -> None:
    definitions = mixpanel_project(Settings(mp_pipeline_typed_events=switched_on))
    keys = {key.to_user_string() for key in definitions.resolve_all_asset_keys()}
    assert ("typed_events" in keys) is switched_on
    settings = Settings(mp_pipeline_typed_events=switched_on, mp_pipeline_metrics=False)
    sensors = {sensor.name for sensor in mixpanel_project(settings).sensors or ()}
    assert ("after_loading" in sensors) is switched_on


def test_backfill_types_the_days_that_it_loads(tmp_path: Path) -> None:
    days = ("--from", "2024-03-10", "--to", "2024-03-11", "--no-profiles")
    run_command(tmp_path, "backfill", *days)
    with StorageEngine.open_existing(tmp_path / "data/sample.duckdb") as storage:
        assert [str(day.day) for day in storage.list_typed_days("events")] == [days[1], days[3]]
        stored = storage.execute_scalar("SELECT count(*) FROM events WHERE event_name = 'Search'")
        assert storage.execute_scalar("SELECT count(*) FROM event.search") == stored > 0
    printed = run_command(tmp_path, "dictionary", env={"COLUMNS": "160"})
    rows = [line.replace("│", " ").split() for line in printed.splitlines()]
    assert ["Search", "event.search", str(stored)] in [row[:3] for row in rows]
    printed = run_command(tmp_path, "dictionary", "Search", env={"COLUMNS": "160"})
    assert "Search: event.search" in printed
    rows = [line.replace("│", " ").split() for line in printed.splitlines()]
    assert ["$city", "mp_city", "VARCHAR", "100.0%"] in [row[:4] for row in rows]
    printed = run_command(tmp_path, "dictionary", "Serach", code=1)
    assert "no event 'Serach' in the typed days; mp-pipeline dictionary lists all events" in printed


def test_a_backfill_without_typing(tmp_path: Path) -> None:
    days = ("--from", "2024-03-10", "--to", "2024-03-10", "--no-profiles")
    env = {"MP_PIPELINE_TYPED_EVENTS": "false"}
    run_command(tmp_path, "backfill", *days, env=env)
    printed = run_command(tmp_path, "dictionary", env=env, code=1)
    assert "no day is typed; materialize typed_events first" in printed
    (tmp_path / "data/sample.duckdb").unlink()
    assert "no database at" in run_command(tmp_path, "dictionary", code=1)


@pytest.mark.parametrize(
    ("counts", "bars"),
    [([], ""), ([0, 0], "··"), ([5], "█"), ([1, 100], "▁█"), ([1, 2, 3, 4], "▂▄▆█")],
)
def test_sparklines(counts: list[int], bars: str) -> None:
    assert sparkline(counts) == bars

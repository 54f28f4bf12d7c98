"""`mp-pipeline status`: days, months, one day, JSON."""

import json
from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from pathlib import Path

import pytest

from mp_pipeline.storage import Reconciliation, ShrinkRefusedError, StorageEngine, TableMetadata
from mp_pipeline_tests.support.databases import tamper
from mp_pipeline_tests.support.processes import run_command
from mp_pipeline_tests.support.records import (
    DAY,
    FETCHED_AT,
    PROFILES,
    event,
    export_line,
    profile,
    window,
    write_lines,
)

FETCHED = TableMetadata("events", FETCHED_AT)


def load_days(directory: Path, rows: Mapping[date, int]) -> None:
    """Load days with the given numbers of events."""
    records = [
        event(f"{day}-{number}", datetime.combine(day, time(12)))
        for day, count in rows.items()
        for number in range(count)
    ]
    with StorageEngine(directory / "test.duckdb") as engine:
        windows = [window(day) for day in rows]
        list(engine.replace_events_days("events", windows, records, FETCHED, source="sample"))


def refuse(directory: Path) -> None:
    """Have a reload of the day refused."""
    with StorageEngine(directory / "test.duckdb") as engine:
        reports = engine.replace_events_days(
            "events", [window()], [], FETCHED, source="sample", min_kept_fraction=0.5
        )
        with pytest.raises(ShrinkRefusedError):
            next(reports)


def reconcile(directory: Path, outcomes: Mapping[date, str]) -> None:
    """Record how days compared with Mixpanel's counts."""
    with StorageEngine(directory / "test.duckdb") as engine:
        loaded_at = {load.day: load.finished_at for load in engine.list_loads("events")}
        engine.record_reconciliations(
            "events",
            [
                Reconciliation(day, FETCHED_AT, loaded_at[day], 2, 7, outcome, "Search", -4)
                for day, outcome in outcomes.items()
            ],
        )


def status(directory: Path, *options: str) -> str:
    return run_command(directory, "status", *options, env={"MP_PIPELINE_DATABASE": "test.duckdb"})


def test_a_long_history_is_printed_by_month(tmp_path: Path) -> None:
    days = [DAY + timedelta(days=offset) for offset in range(80)]
    del days[20:23]  # 2024-02-04 to 2024-02-06
    load_days(tmp_path, dict.fromkeys(days, 2))
    tamper(tmp_path, "DELETE FROM events_20240301 WHERE insert_id = '2024-03-01-0'")
    refuse(tmp_path)
    reconcile(tmp_path, {DAY: "equal", days[45]: "error", days[46]: "close"})
    printed = status(tmp_path)
    rows = [line.replace("│", " ").split() for line in printed.splitlines() if "│ 2024" in line]
    assert rows == [
        ["2024-01", "17", "34", "0", "1", "1"],
        ["2024-02", "26", "52", "3", "0", "0"],
        ["2024-03", "31", "62", "0", "2", "1"],
        ["2024-04", "3", "6", "0", "0", "0"],
    ]
    assert "77 days, 154 rows, 3 missing in between" in printed
    assert "Missing: 2024-02-04 to 2024-02-06\n" in printed
    assert "2024-01-15: the latest reload was refused: the reload would keep 0 of 2" in printed
    assert f"{days[45]}: 2 events are stored, Mixpanel counts 7 (Search -4)\n" in printed
    assert "2024-03-01: the table has 1 rows, _metadata says 2" in printed


def test_a_refused_reload_is_forgotten_after_the_next_load(tmp_path: Path) -> None:
    load_days(tmp_path, {DAY: 2})
    refuse(tmp_path)
    assert "the latest reload was refused" in status(tmp_path)
    load_days(tmp_path, {DAY: 2})
    assert "reload was refused" not in status(tmp_path)


def test_everything_about_one_day(tmp_path: Path) -> None:
    load_days(tmp_path, {DAY: 2})
    lines = [export_line("2024-01-15-0"), export_line("new"), "bad", "bad too"]
    file = write_lines(tmp_path / "lines.jsonl", *lines)
    with StorageEngine(tmp_path / "test.duckdb") as engine:
        narrow = TableMetadata("events", FETCHED_AT, filter_events=["Song Played"])
        reports = engine.replace_events_days(
            "events", [window()], [file], narrow, source="sample", max_rejected_fraction=1
        )
        assert len(list(reports)) == 1
    refuse(tmp_path)
    printed = status(tmp_path, "--day", str(DAY))
    assert "2024-01-15: 2 rows in events_20240115\n" in printed
    assert "source sample, events Song Played, time zone UTC\n" in printed
    assert "rejected: 2 lines: not valid JSON\n" in printed
    assert "UTC: the reload would keep 0 of 2 rows" in printed
    loads = [line.replace("│", " ").split()[2:] for line in printed.splitlines() if "│" in line]
    assert loads == [["2", "0", "0", "0"], ["2", "1", "1", "0", "2", "0"]]


def test_a_day_that_is_not_loaded(tmp_path: Path) -> None:
    load_days(tmp_path, {DAY: 2})
    assert status(tmp_path, "--day", "2024-01-16") == "2024-01-16 is not loaded\n"


def test_json(tmp_path: Path) -> None:
    load_days(tmp_path, {DAY: 2, DAY + timedelta(days=2): 1})
    with StorageEngine(tmp_path / "test.duckdb") as engine:
        engine.replace_table("profiles", [profile()], PROFILES)
    found = json.loads(status(tmp_path, "--json"))
    days = [(day["info"]["day"], day["info"]["row_count"]) for day in found["days"]]
    assert days == [("2024-01-15", 2), ("2024-01-17", 1)]
    assert found["missing"] == [{"first": "2024-01-16", "last": "2024-01-16"}]
    assert [table["info"]["name"] for table in found["snapshots"]] == ["profiles"]
    found = json.loads(status(tmp_path, "--json", "--day", str(DAY)))
    assert found["day"]["info"]["origin"]["source"] == "sample"
    assert [load["rows_stored"] for load in found["loads"]] == [2]

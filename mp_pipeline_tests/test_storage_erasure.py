"""Erasing users: what is deleted, what is counted, and what later loads leave out."""

import random
import re
import signal
import subprocess
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from mp_pipeline.storage import (
    LabeledFile,
    LoadReport,
    StorageEngine,
    StorageError,
    TableData,
    TableMetadata,
)
from mp_pipeline_tests.support.databases import column, contents
from mp_pipeline_tests.support.engines import storage as storage
from mp_pipeline_tests.support.processes import storage_command
from mp_pipeline_tests.support.records import (
    DAY,
    EVENTS,
    FETCHED_AT,
    NEXT_DAY,
    NOON,
    PROFILES,
    event,
    export_line,
    profile,
    window,
    write_lines,
)

FETCHED = TableMetadata("events", FETCHED_AT)


def load(storage: StorageEngine, data: TableData) -> LoadReport:
    """Load events as `DAY`."""
    (report,) = storage.replace_events_days(
        "events", [window()], data, FETCHED, max_rejected_fraction=1
    )
    return report


def ids(storage: StorageEngine, *distinct_ids: str) -> list[str]:
    return [user_id.id for user_id in storage.plan_erasure(distinct_ids).ids]


def test_a_user_is_erased_everywhere(storage: StorageEngine, tmp_path: Path) -> None:
    windows = [window(DAY), window(NEXT_DAY)]
    records = [
        event(f"{user}-{days}", NOON + timedelta(days=days), distinct_id=user)
        for user in ("u1", "u2")
        for days in (0, 1)
    ]
    list(storage.replace_events_days("events", windows, records, FETCHED))
    storage.create_events_table("january", records, EVENTS)
    storage.replace_table("profiles", [profile("u1"), profile("u2")], PROFILES)
    members = [f'{{"$distinct_id": "{user}", "$properties": {{}}}}' for user in ("u1", "u2")]
    file = write_lines(tmp_path / "members.jsonl", *members)
    storage.replace_table(
        "cohort_members",
        [LabeledFile(file, {"cohort_id": "7"})],
        TableMetadata("cohort_members", FETCHED_AT),
    )
    erased = storage.erase(["u1"])
    assert [(table.name, table.rows) for table in erased.tables] == [
        ("cohort_members", 1),
        ("events_20240115", 1),
        ("events_20240116", 1),
        ("january", 2),
        ("profiles", 1),
    ]
    assert erased.rows == 6
    for table in ("events", "january", "profiles", "cohort_members"):
        assert set(column(storage, table, "distinct_id")) == {"u2"}
    assert "u1" not in str([rows for name, rows in contents(storage).items()])


def test_what_is_counted_stays_true(storage: StorageEngine, tmp_path: Path) -> None:
    lines = [
        export_line("a"),
        export_line("b", distinct_id="u2"),
        export_line("b", distinct_id="u2"),
        export_line("c", time=None),
        export_line("d", time=None, distinct_id="u2"),
        "not JSON",
    ]
    load(storage, write_lines(tmp_path / "day.jsonl", *lines))
    erased = storage.erase(["u1"])
    assert (erased.rows, erased.rejected_lines) == (1, 1)
    (counts,) = storage.count_rows(["events_20240115"])
    assert (counts.rows, counts.problems) == (1, [])
    last = counts.last_load
    assert last is not None
    assert (last.lines_read, last.rows_stored, last.duplicates, last.rejected, last.erased) == (
        (6, 1, 1, 2, 2)
    )
    assert len(storage.execute_rows("FROM _rejected")) == 2
    assert storage.execute_rows("SELECT * EXCLUDE erased_at FROM _erasures") == [(1, 0, 1, 1, 1)]


def test_later_loads_leave_the_user_out(storage: StorageEngine, tmp_path: Path) -> None:
    lines = [
        export_line("a"),
        export_line("a"),
        export_line("b", distinct_id="u2"),
        export_line("c", time=None),
        export_line("d", distinct_id="new", **{"$user_id": "u1"}),
    ]
    file = write_lines(tmp_path / "day.jsonl", *lines)
    storage.erase(["u1"])
    report = load(storage, file)
    assert (report.lines_read, report.rows_stored, report.suppressed) == (5, 1, 4)
    assert (report.duplicates, report.rejected) == (0, 0)
    assert storage.count_rows(["events_20240115"])[0].problems == []
    assert storage.list_loads("events")[0].suppressed == 4
    assert column(storage, "events", "distinct_id") == ["u2"]
    assert storage.execute_rows("FROM _rejected") == []
    snapshot = storage.replace_table("profiles", [profile("u1"), profile("u2")], PROFILES)
    assert (snapshot.rows_stored, snapshot.suppressed) == (1, 1)
    assert "u1" not in str(contents(storage))


def test_days_of_one_request_count_their_own_lines(storage: StorageEngine, tmp_path: Path) -> None:
    next_noon = int(NOON.timestamp()) + 86_400
    lines = [
        export_line("a"),
        export_line("b", time=next_noon),
        export_line("c", time=next_noon),
        export_line("d", time=next_noon, distinct_id="u2"),
        export_line("e", time=None),
    ]
    file = write_lines(tmp_path / "days.jsonl", *lines)
    storage.erase(["u1"])
    windows = [window(DAY), window(NEXT_DAY)]
    reports = list(
        storage.replace_events_days("events", windows, file, FETCHED, max_rejected_fraction=1)
    )
    assert [(r.lines_read, r.rows_stored, r.suppressed) for r in reports] == [(2, 0, 2), (3, 1, 2)]


@pytest.mark.parametrize(
    ("name", "properties", "linked"),
    [
        ("Search", {"$user_id": "x"}, ["u1", "x"]),
        ("Search", {"$distinct_id_before_identity": "x"}, ["u1", "x"]),
        ("Search", {"$device_id": "x"}, ["u1", "$device:x", "x"]),
        ("$identify", {"$identified_id": "u1", "$anon_id": "x"}, ["u1", "x"]),
        ("$create_alias", {"alias": "x"}, ["u1", "x"]),
        ("$merge", {"$distinct_ids": ["x", 5]}, ["u1", "5", "x"]),
        ("Search", {"alias": "x", "$anon_id": "y", "$distinct_ids": ["z"]}, ["u1"]),
        ("Search", {"$user_id": "undefined", "$device_id": ""}, ["u1"]),
        ("Search", {"$user_id": None}, ["u1"]),
    ],
)
def test_what_links_ids(
    storage: StorageEngine, name: str, properties: dict[str, Any], linked: list[str]
) -> None:
    load(storage, [event("a", event_name=name, properties=properties)])
    assert ids(storage, "u1") == linked


def test_links_lead_on(storage: StorageEngine) -> None:
    chain = [
        event(f"i{n}", distinct_id=f"id{n}", properties={"$user_id": f"id{n + 1}"})
        for n in range(6)
    ]
    load(storage, chain)
    plan = storage.plan_erasure(["id3"])
    assert sorted(user_id.id for user_id in plan.ids) == [f"id{n}" for n in range(7)]
    linked = {user_id.id: (user_id.linked_to, user_id.by) for user_id in plan.ids}
    assert linked["id3"] == (None, None)
    assert linked["id5"] == ("id4", "$user_id")


def test_later_users_of_a_shared_device_stay(storage: StorageEngine) -> None:
    device = {"$device_id": "tablet"}
    load(
        storage,
        [
            event("0", NOON, distinct_id="$device:tablet", properties=device),
            event("1", NOON + timedelta(minutes=1), distinct_id="first", properties=device),
            event("2", NOON + timedelta(minutes=2), distinct_id="second", properties=device),
        ],
    )
    assert ids(storage, "second") == ["second"]
    assert ids(storage, "first") == ["first", "$device:tablet", "tablet"]
    assert storage.erase(["first"]).rows == 2
    assert column(storage, "events", "distinct_id") == ["second"]


def test_events_that_mixpanel_hid_are_erased(storage: StorageEngine) -> None:
    hidden = {"mp_original_distinct_id": "u1"}
    load(
        storage,
        [
            event("a", event_name="$hotshard_events", distinct_id="", properties=hidden),
            event("b", event_name="Search", distinct_id="", properties=hidden),
        ],
    )
    assert storage.erase(["u1"]).rows == 1
    assert column(storage, "events", "insert_id") == ["b"]


def test_a_group_with_the_id_of_a_user_stays(storage: StorageEngine, tmp_path: Path) -> None:
    file = write_lines(tmp_path / "groups.jsonl", '{"$distinct_id": "u1", "$properties": {}}')
    groups = [LabeledFile(file, {"data_group_id": "5", "group_key": "company"})]
    storage.erase(["u1"])
    report = storage.replace_table("groups_company", groups, TableMetadata("groups", FETCHED_AT))
    assert (report.rows_stored, report.suppressed) == (1, 0)
    assert storage.erase(["u1"]).tables == ()


@pytest.mark.parametrize("user_id", ["", " ", "null", "Anonymous", "0"])
def test_an_id_of_no_one_is_refused(storage: StorageEngine, user_id: str) -> None:
    load(storage, [event("a", distinct_id=user_id)])
    with pytest.raises(ValueError, match="is no user's ID"):
        storage.erase([user_id])
    with pytest.raises(ValueError, match="no distinct_id to erase"):
        storage.erase([])
    assert storage.count_rows(["events_20240115"])[0].rows == 1


def test_too_many_linked_ids_are_refused(storage: StorageEngine) -> None:
    load(storage, [event(f"i{n}", properties={"$user_id": f"x{n}"}) for n in range(4)])
    before = contents(storage)
    message = "the data links 5 IDs to the given ones, more than 4: .* Nothing was erased"
    with pytest.raises(StorageError, match=message):
        storage.erase(["u1"], max_ids=4)
    assert contents(storage) == before
    assert storage.erase(["u1"], max_ids=5).rows == 4


def test_planning_changes_nothing(storage: StorageEngine) -> None:
    storage.connection.execute("CREATE TABLE own AS SELECT 'u1' AS distinct_id")
    load(storage, [event("a")])
    before = contents(storage)
    plan = storage.plan_erasure(["u1", "u1"])
    assert contents(storage) == before
    assert ([user_id.id for user_id in plan.ids], plan.rows) == (["u1"], 1)
    assert plan.other_tables == ("own",)
    assert storage.erase(["u1"]) == plan
    assert storage.execute_rows("FROM own") == [("u1",)]


def test_a_rejected_line_without_its_end_is_erased(storage: StorageEngine, tmp_path: Path) -> None:
    long = "x" * 10_000
    lines = [
        f'{{"event": "A", "properties": {{"text": "{long}", "distinct_id": "u1"}}}}',
        f'{{"event": "A", "properties": {{"distinct_id": "u2", "text": "{long}"}}}}',
        export_line("a"),
    ]
    load(storage, write_lines(tmp_path / "day.jsonl", *lines))
    assert storage.erase(["nobody here"]).rejected_lines == 1
    ((line,),) = storage.execute_rows("SELECT left(line, 60) FROM _rejected")
    assert "u2" in line


def test_the_list_contains_no_ids(storage: StorageEngine) -> None:
    storage.erase(["u1", "u2"])
    storage.erase(["u2", "u3"])
    rows = storage.execute_rows("SELECT hash, salt FROM _suppressed")
    assert len({digest for digest, _ in rows}) == len(rows) == 3
    assert len({salt for _, salt in rows}) == 1
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest, _ in rows)


ERASE = """
with StorageEngine(sys.argv[1]) as storage:
    print("open", flush=True)
    storage.erase(["u1"])
    print("done", flush=True)
"""
KILLS = 12


def test_a_killed_erasure_erases_all_or_nothing(tmp_path: Path) -> None:
    """The moments of the kills are spread over the time that an erasure takes."""
    path = tmp_path / "test.duckdb"
    days = [DAY + timedelta(days=number) for number in range(20)]
    records = [
        event(f"{day}-{number}", NOON + (day - DAY), distinct_id=f"u{number % 5}")
        for day in days
        for number in range(100)
    ]
    with StorageEngine(path) as storage:
        list(storage.replace_events_days("events", [*map(window, days)], records, FETCHED))
        storage.replace_table("profiles", [profile("u1"), profile("u2")], PROFILES)
    original = path.read_bytes()
    source = random.Random(1)
    outcomes = []
    duration = 0.5
    for kill in range(KILLS):
        path.write_bytes(original)
        command = storage_command(ERASE, path)
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "open\n"
            started = time.monotonic()
            if kill == 0:  # measures how long an erasure takes
                assert process.stdout.readline() == "done\n"
                duration = time.monotonic() - started
            else:
                time.sleep(source.uniform(0, duration))
            process.send_signal(signal.SIGKILL)
        with StorageEngine(path) as storage:
            left = storage.execute_scalar("SELECT count(*) FROM events WHERE distinct_id = 'u1'")
            profiles = storage.execute_scalar("SELECT count(*) FROM profiles")
            suppressed = storage.execute_scalar("SELECT count(*) FROM _suppressed")
            assert (left, profiles, suppressed) in [(400, 2, 0), (0, 1, 1)]
            tables = [day.table_name for day in storage.list_days("events")]
            counts = storage.count_rows([*tables, "profiles"])
            assert [count.problems for count in counts] == [[]] * 21
            outcomes.append(left)
    assert set(outcomes) == {400, 0}  # the kills came before the commit and after it


def test_typed_rows_and_the_dictionary_follow(storage: StorageEngine) -> None:
    """What is left is what typing the day without the user would have made."""
    windows = [window(DAY), window(NEXT_DAY)]
    records = [
        event("a", properties={"country": "GB", "price": 3}),
        event("b", distinct_id="new", properties={"$user_id": "u1", "price": 2.5}),
        event("c", distinct_id="u2", properties={"country": "FR"}),
        event("d", NOON + timedelta(days=1), event_name="Search"),
        event("a", NOON + timedelta(days=1), distinct_id="u2"),
    ]
    list(storage.replace_events_days("events", windows, records, FETCHED))
    for day in (DAY, NEXT_DAY):
        storage.type_events_day("events", day)
    erased = storage.erase(["u1"])
    assert [(table.name, table.rows) for table in erased.tables] == [
        ("events_20240115", 2),
        ("events_20240116", 1),
        ("event.search", 1),
        ("event.song_played", 2),
    ]
    typed = "SELECT day, distinct_id, country FROM event.song_played ORDER BY day"
    rows = [(DAY, "u2", "FR"), (NEXT_DAY, "u2", None)]
    assert storage.execute_rows(typed) == rows
    assert storage.execute_rows("FROM event.search") == []
    assert [(day.events, day.is_stale) for day in storage.list_typed_days("events")] == [
        (1, False),
        (1, False),
    ]
    described = (storage.describe_events("events"), storage.describe_properties("events"))
    for day in (DAY, NEXT_DAY):
        storage.type_events_day("events", day)
    assert storage.execute_rows(typed) == rows
    again = (storage.describe_events("events"), storage.describe_properties("events"))
    assert again == described


def test_typed_rows_of_a_stale_day_are_erased(storage: StorageEngine) -> None:
    load(storage, [event("a"), event("b", distinct_id="u2")])
    storage.type_events_day("events", DAY)
    load(storage, [event("b", distinct_id="u2")])
    assert [table.name for table in storage.erase(["u1"]).tables] == ["event.song_played"]
    assert storage.execute_rows("SELECT distinct_id FROM event.song_played") == [("u2",)]

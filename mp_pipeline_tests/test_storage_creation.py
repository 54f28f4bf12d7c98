import gzip
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, timezone
from enum import IntEnum
from pathlib import Path
from typing import Any

import pytest

from mp_pipeline.storage import StorageEngine, StorageError, TableExistsError, TableMetadata
from mp_pipeline_tests.support.databases import contents
from mp_pipeline_tests.support.engines import file_only
from mp_pipeline_tests.support.engines import storage as storage
from mp_pipeline_tests.support.processes import run_storage_code
from mp_pipeline_tests.support.records import (
    EVENTS,
    FETCHED_AT,
    NOON,
    PROFILES,
    event,
    export_line,
    profile,
    write_lines,
)


class Level(IntEnum):
    LOW = 1


DATA_MODEL = {
    "events": """
        CREATE TABLE data_model (
            event_name VARCHAR NOT NULL,
            event_time TIMESTAMP NOT NULL,
            distinct_id VARCHAR NOT NULL,
            insert_id VARCHAR PRIMARY KEY,
            properties JSON
        )
    """,
    "profiles": """
        CREATE TABLE data_model (
            distinct_id VARCHAR PRIMARY KEY,
            properties JSON,
            last_seen TIMESTAMP
        )
    """,
    "_metadata": """
        CREATE TABLE data_model (
            table_name VARCHAR PRIMARY KEY,
            type VARCHAR NOT NULL,
            fetched_at TIMESTAMP NOT NULL,
            from_date DATE,
            to_date DATE,
            row_count INTEGER NOT NULL
        )
    """,
}

BAD_NAMES = [
    "",
    " ",
    "two words",
    "2024_events",
    "_events",
    "_metadata",
    "_loading_x",
    'quo"te',
    "quo'te",
    "semi;colon",
    "dotted.name",
    "dash-ed",
    "new\nline",
    "trailing\n",
    "t; DROP TABLE _metadata; --",
    "événements",
]


@pytest.fixture(scope="module")
def refusing() -> Iterator[StorageEngine]:
    """The same for all tests, which check that it does not change."""
    with StorageEngine.memory() as engine:
        engine.create_events_table("there", [event()], EVENTS)
        yield engine


def structure(storage: StorageEngine, table: str) -> tuple[list[Any], list[Any]]:
    return (
        storage.execute_rows(f"PRAGMA table_info('{table}')"),
        storage.execute_rows(
            "SELECT constraint_type, constraint_column_names, expression FROM duckdb_constraints() "
            f"WHERE table_name = '{table}' ORDER BY ALL"
        ),
    )


@file_only
@pytest.mark.parametrize("table", ["events", "profiles", "_metadata"])
def test_tables_are_those_of_the_data_model(storage: StorageEngine, table: str) -> None:
    storage.create_events_table("events", [event()], EVENTS)
    storage.create_profiles_table("profiles", [profile()], PROFILES)
    storage.execute(DATA_MODEL[table])
    assert structure(storage, table) == structure(storage, "data_model")


def test_the_primary_key_holds_for_rows_that_come_later(tmp_path: Path) -> None:
    with StorageEngine(tmp_path / "a.duckdb") as storage:
        storage.create_events_table("events", [event("i1")], EVENTS)
    with (
        StorageEngine(tmp_path / "a.duckdb") as storage,
        pytest.raises(StorageError, match=r"(?i)duplicate key"),
    ):
        storage.execute("INSERT INTO events SELECT * FROM events")


def test_an_event_is_stored_as_given(storage: StorageEngine) -> None:
    song = event(
        "5d958f87-542d-4c10-9422-0ed75893dc81",
        event_name="Song Played",
        event_time="2024-01-15T10:30:00Z",
        distinct_id="user_123",
        properties={"song_id": "song_456", "duration": 180, "shuffle_mode": True},
    )
    assert storage.create_events_table("events", [song], EVENTS) == 1
    assert storage.execute_rows("SELECT * FROM events") == [
        (
            "Song Played",
            datetime(2024, 1, 15, 10, 30),
            "user_123",
            "5d958f87-542d-4c10-9422-0ed75893dc81",
            '{"song_id":"song_456","duration":180,"shuffle_mode":true}',
        )
    ]


def test_a_profile_is_stored_as_given(storage: StorageEngine) -> None:
    alice = profile(
        "user_123",
        properties={"$name": "Alice Johnson", "plan": "premium", "credits": 100},
        last_seen="2024-01-15T10:30:00Z",
    )
    assert storage.create_profiles_table("profiles", [alice, profile("user_124")], PROFILES) == 2
    assert storage.execute_rows("SELECT * FROM profiles ORDER BY distinct_id") == [
        (
            "user_123",
            '{"$name":"Alice Johnson","plan":"premium","credits":100}',
            datetime(2024, 1, 15, 10, 30),
        ),
        ("user_124", "{}", None),
    ]


def test_names_that_are_sql_words_are_allowed(storage: StorageEngine) -> None:
    assert storage.create_events_table("select", [event()], EVENTS) == 1
    assert storage.execute_scalar('SELECT count(*) FROM "select"') == 1


def test_the_metadata_row_of_events(storage: StorageEngine) -> None:
    storage.create_events_table("january", [event("i1"), event("i2")], EVENTS)
    assert storage.execute_rows("SELECT * FROM _metadata") == [
        (
            "january",
            "events",
            datetime(2024, 1, 20, 6, 30),
            date(2024, 1, 1),
            date(2024, 1, 31),
            2,
        )
    ]


def test_the_metadata_row_of_profiles_has_no_dates(storage: StorageEngine) -> None:
    storage.create_profiles_table("people", [profile()], PROFILES)
    assert storage.execute_rows("SELECT * FROM _metadata") == [
        ("people", "profiles", datetime(2024, 1, 20, 6, 30), None, None, 1)
    ]


def test_fetched_at_is_stored_in_utc(storage: StorageEngine) -> None:
    tokyo = FETCHED_AT.astimezone(timezone(timedelta(hours=9)))
    storage.create_events_table("aware", [], replace(EVENTS, fetched_at=tokyo))
    storage.create_events_table(
        "naive", [], replace(EVENTS, fetched_at=FETCHED_AT.replace(tzinfo=None))
    )
    assert storage.execute_rows("SELECT DISTINCT fetched_at FROM _metadata") == [
        (datetime(2024, 1, 20, 6, 30),)
    ]


def test_an_empty_iterator_makes_an_empty_table(storage: StorageEngine) -> None:
    assert storage.create_events_table("events", iter(()), EVENTS) == 0
    assert storage.create_profiles_table("profiles", [], PROFILES) == 0
    assert [(table.name, table.row_count) for table in storage.list_tables()] == [
        ("events", 0),
        ("profiles", 0),
    ]
    assert storage.schema_problems(["events"], "events") == {"events": []}
    assert storage.schema_problems(["profiles"], "profiles") == {"profiles": []}


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        (datetime(2024, 1, 15, 10, 30), datetime(2024, 1, 15, 10, 30)),
        (datetime(2024, 1, 15, 10, 30, tzinfo=UTC), datetime(2024, 1, 15, 10, 30)),
        (
            datetime(2024, 1, 15, 0, 30, 0, 123456, timezone(timedelta(hours=5, minutes=30))),
            datetime(2024, 1, 14, 19, 0, 0, 123456),
        ),
        ("2024-01-15T10:30:00", datetime(2024, 1, 15, 10, 30)),
        ("2024-01-15 10:30:00.25", datetime(2024, 1, 15, 10, 30, 0, 250000)),
        ("2024-01-15T10:30:00Z", datetime(2024, 1, 15, 10, 30)),
        ("2024-01-15T10:30:00-08:00", datetime(2024, 1, 15, 18, 30)),
        ("2024-01-15", datetime(2024, 1, 15)),
        ("0001-01-01T00:00:00", datetime(1, 1, 1)),
        (datetime.max, datetime.max),
    ],
)
def test_times_are_stored_in_utc(storage: StorageEngine, given: object, stored: datetime) -> None:
    storage.create_events_table("events", [event(event_time=given)], EVENTS)
    storage.create_profiles_table("profiles", [profile(last_seen=given)], PROFILES)
    assert storage.execute_scalar("SELECT event_time FROM events") == stored
    assert storage.execute_scalar("SELECT last_seen FROM profiles") == stored


def test_the_zone_of_the_machine_does_not_matter(tmp_path: Path) -> None:
    code = """
        from mp_pipeline_tests.support.records import EVENTS, event
        with StorageEngine(sys.argv[1]) as storage:
            records = [event("naive"), event("text", event_time="2024-01-15T12:00:00")]
            storage.create_events_table("events", records, EVENTS)
            print(storage.execute_scalar("SELECT TIMESTAMPTZ '2024-01-15 12:00:00'::VARCHAR"))
    """
    path = tmp_path / "a.duckdb"
    finished = run_storage_code(code, path, TZ="Asia/Tokyo")
    assert finished.stdout == "2024-01-15 12:00:00+00\n", finished.stderr
    with StorageEngine(path) as storage:
        assert storage.execute_rows("SELECT event_time FROM events") == [(NOON,), (NOON,)]


def test_an_existing_name_is_refused_and_nothing_changes(storage: StorageEngine) -> None:
    storage.create_events_table("events", [event("old")], EVENTS)
    before = contents(storage)
    drawn = []

    def records() -> Iterator[dict[str, Any]]:
        drawn.append(1)
        yield event("new")

    with pytest.raises(TableExistsError, match="'events'"):
        storage.create_events_table("events", records(), replace(EVENTS, to_date=None))
    with pytest.raises(TableExistsError, match="'EVENTS'"):
        storage.create_profiles_table("EVENTS", [profile()], PROFILES)
    assert contents(storage) == before
    assert drawn == []


def test_the_name_of_a_view_or_of_an_own_table_is_refused(storage: StorageEngine) -> None:
    storage.execute("CREATE TABLE own AS SELECT 42 AS answer")
    storage.execute("CREATE VIEW seen AS SELECT * FROM own")
    before = contents(storage)
    for name in ("own", "seen"):
        with pytest.raises(TableExistsError, match=name):
            storage.create_events_table(name, [event()], EVENTS)
    assert contents(storage) == before


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_bad_name_is_refused(refusing: StorageEngine, name: str) -> None:
    before = contents(refusing)
    with pytest.raises(ValueError, match="not a valid table name") as refused:
        refusing.create_events_table(name, [event()], EVENTS)
    assert repr(name) in str(refused.value)
    with pytest.raises(ValueError, match="not a valid table name"):
        refusing.create_profiles_table(name, [profile()], PROFILES)
    assert contents(refusing) == before


def test_metadata_of_the_other_type_is_refused(refusing: StorageEngine) -> None:
    before = contents(refusing)
    with pytest.raises(ValueError, match=r"'profiles'.*'events'"):
        refusing.create_events_table("events", [event()], PROFILES)
    with pytest.raises(ValueError, match=r"'events'.*'profiles'"):
        refusing.create_profiles_table("profiles", [profile()], EVENTS)
    assert contents(refusing) == before


@pytest.mark.parametrize(
    ("from_date", "to_date", "named"),
    [
        ("2024-02-30", None, "from_date is '2024-02-30'"),
        ("20240115", None, "from_date is '20240115'"),
        ("2024-1-5", None, "from_date is '2024-1-5'"),
        ("", None, "from_date is ''"),
        ("2024-01-15T00:00:00", None, "from_date"),
        ("2024-01-01", "yesterday", "to_date is 'yesterday'"),
        ("2024-01-31", "2024-01-01", "2024-01-31 is after to_date 2024-01-01"),
    ],
)
def test_bad_dates_are_refused(
    refusing: StorageEngine, from_date: str, to_date: str | None, named: str
) -> None:
    before = contents(refusing)
    metadata = TableMetadata("events", FETCHED_AT, from_date, to_date)
    with pytest.raises(ValueError, match=named):
        refusing.create_events_table("events", [event()], metadata)
    assert contents(refusing) == before


def test_dates_of_profiles_are_refused(storage: StorageEngine) -> None:
    with pytest.raises(ValueError, match="profiles have no from_date"):
        storage.create_profiles_table("profiles", [], replace(PROFILES, from_date="2024-01-01"))
    assert storage.list_tables() == []


@pytest.mark.parametrize("batch_size", [2, 50_000])
@pytest.mark.parametrize(
    "field", ["event_name", "event_time", "distinct_id", "insert_id", "properties"]
)
def test_a_missing_field_of_an_event_is_named_with_its_position(
    refusing: StorageEngine, field: str, batch_size: int
) -> None:
    before = contents(refusing)
    for broken in ({**event("i3"), field: None}, event("i3")):
        if broken[field] is not None:
            del broken[field]
        records = [event("i1"), event("i2"), broken, event("i4")]
        with pytest.raises(ValueError, match=rf"record 3: no {field}\b"):
            refusing.create_events_table("events", records, EVENTS, batch_size=batch_size)
        assert contents(refusing) == before


@pytest.mark.parametrize("field", ["distinct_id", "properties", "last_seen"])
def test_a_missing_field_of_a_profile_is_named_with_its_position(
    refusing: StorageEngine, field: str
) -> None:
    before = contents(refusing)
    broken = profile("u2")
    del broken[field]
    with pytest.raises(ValueError, match=rf"record 2: no {field}\b"):
        refusing.create_profiles_table("profiles", [profile("u1"), broken], PROFILES)
    assert contents(refusing) == before


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"event_time": "yesterday"}, "event_time cannot be read: yesterday"),
        ({"event_time": "2024-02-30T00:00:00"}, "event_time cannot be read: 2024-02-30"),
        ({"event_time": ""}, "event_time cannot be read"),
        ({"event_time": True}, "event_time is a bool"),
        ({"event_time": date(2024, 1, 15)}, "event_time is a date"),
        ({"properties": "{}"}, "properties is a str"),
        ({"properties": [1]}, "properties is a list"),
        ({"properties": {"at": NOON}}, "cannot be written as JSON: .*datetime"),
    ],
)
def test_a_field_that_cannot_be_stored_is_named_with_its_position(
    refusing: StorageEngine, fields: dict[str, Any], named: str
) -> None:
    before = contents(refusing)
    records = [event("i1"), event("i2"), event("i3", **fields)]
    with pytest.raises(ValueError, match=f"record 3: {named}"):
        refusing.create_events_table("events", records, EVENTS, batch_size=2)
    assert contents(refusing) == before


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (float("nan"), "NaN"),
        ([1.5, {"a": float("inf"), "b": None}], '[1.5,{"a":Infinity,"b":null}]'),
        ((None, -float("inf")), "[null,-Infinity]"),
        (OrderedDict(a=float("nan")), '{"a":NaN}'),
        ({1: "one", None: 2.5}, '{"1":"one","null":2.5}'),
        (2**64 + 1, "18446744073709551617"),
        ([None, -(10**40)], f"[null,-1{'0' * 40}]"),
        ("null \ud800", '"null \ufffd"'),
        (Level.LOW, "1"),
    ],
)
def test_a_value_is_stored_as_the_standard_librarys_json_has_it(
    storage: StorageEngine, value: object, stored: str
) -> None:
    storage.create_events_table("events", [event(properties={"value": value})], EVENTS)
    assert storage.execute_rows("SELECT properties->'$.value' FROM events") == [(stored,)]


def test_of_two_batches_the_first_bad_record_is_named(storage: StorageEngine) -> None:
    records = [event(f"i{number}") for number in range(30)]
    records[4]["event_time"] = "yesterday"  # found by the database
    del records[12]["distinct_id"]  # found before the first batch is inserted
    with pytest.raises(ValueError, match="record 5: event_time cannot be read: yesterday"):
        storage.create_events_table("events", records, EVENTS, batch_size=10)
    assert storage.list_tables() == []


def test_what_is_no_record_is_refused(refusing: StorageEngine) -> None:
    before = contents(refusing)
    records: list[Any] = [event("i1"), ("Song Played", NOON, "u1", "i2", {})]
    with pytest.raises(ValueError, match="record 2 is a tuple, not a dict"):
        refusing.create_events_table("events", records, EVENTS)
    for data in (None, 5, event()):
        with pytest.raises(ValueError, match="not an iterator of dicts or files"):
            refusing.create_events_table("events", data, EVENTS)  # type: ignore[arg-type]
    assert contents(refusing) == before


def test_a_generator_that_raises_leaves_nothing(storage: StorageEngine) -> None:
    before = contents(storage)

    def records() -> Iterator[dict[str, Any]]:
        for number in range(25):
            yield event(f"i{number}")
        raise ConnectionResetError("the network went away")

    with pytest.raises(ConnectionResetError, match="the network went away"):
        storage.create_events_table("events", records(), EVENTS, batch_size=10)
    assert contents(storage) == before
    assert storage.create_events_table("events", [event()], EVENTS) == 1


def test_the_progress_callback_gets_running_counts(storage: StorageEngine) -> None:
    counts: list[int] = []
    records = (event(f"i{number}") for number in range(25))
    storage.create_events_table("events", records, EVENTS, counts.append, batch_size=10)
    assert counts == [10, 20, 25]


def test_the_progress_callback_is_called_for_each_file(
    storage: StorageEngine, tmp_path: Path
) -> None:
    counts: list[int] = []
    files = [
        write_lines(tmp_path / "a.jsonl", export_line("i1"), export_line("i2")),
        write_lines(tmp_path / "b.jsonl.gz", export_line("i3")),
    ]
    assert storage.create_events_table("events", files, EVENTS, progress_callback=counts.append)
    assert counts == [2, 3]


def test_a_progress_callback_that_raises_leaves_nothing(refusing: StorageEngine) -> None:
    before = contents(refusing)

    def cancel(count: int) -> None:
        if count >= 4:
            raise KeyboardInterrupt

    records = (event(f"i{number}") for number in range(25))
    with pytest.raises(KeyboardInterrupt):
        refusing.create_events_table("events", records, EVENTS, cancel, batch_size=2)
    assert contents(refusing) == before


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_size_that_is_no_number_of_records_is_refused(
    refusing: StorageEngine, batch_size: int
) -> None:
    before = contents(refusing)
    with pytest.raises(ValueError, match=f"batch_size is {batch_size}"):
        refusing.create_events_table("events", [event()], EVENTS, batch_size=batch_size)
    assert contents(refusing) == before


@pytest.mark.parametrize("batch_size", [1, 6, 7, 8])
def test_the_batch_size_does_not_change_what_is_stored(
    storage: StorageEngine, batch_size: int
) -> None:
    records = [event(f"i{number}") for number in range(7)]
    assert storage.create_events_table("events", records, EVENTS, batch_size=batch_size) == 7
    assert storage.execute_scalar("SELECT count(DISTINCT insert_id) FROM events") == 7


def test_equal_events_are_stored_once_and_counted_once(storage: StorageEngine) -> None:
    assert storage.create_events_table("events", [event("i1"), event("i1")], EVENTS) == 1
    assert storage.list_tables()[0].row_count == 1


def test_a_user_that_comes_twice_is_stored_as_read_last(storage: StorageEngine) -> None:
    records = [
        profile("u1", properties={"plan": "free"}),
        profile("u2"),
        profile("u1", properties={"plan": "premium"}),
    ]
    assert storage.create_profiles_table("profiles", records, PROFILES, batch_size=1) == 2
    assert storage.execute_rows("SELECT * FROM profiles WHERE distinct_id = 'u1'") == [
        ("u1", '{"plan":"premium"}', None)
    ]


@pytest.mark.parametrize("as_text", [False, True])
def test_one_file_or_several(storage: StorageEngine, tmp_path: Path, as_text: bool) -> None:
    first = write_lines(tmp_path / "it's one.jsonl", export_line("i1"))
    second = write_lines(tmp_path / "two.jsonl.gz", export_line("i2"))
    one = str(first) if as_text else first
    assert storage.create_events_table("one", one, EVENTS) == 1
    assert storage.create_events_table("several", iter([one, second]), EVENTS) == 2


def test_empty_files_make_an_empty_table(storage: StorageEngine, tmp_path: Path) -> None:
    for name in ("empty.jsonl", "empty.jsonl.gz"):
        (tmp_path / name).write_bytes(b"")
    files = [
        tmp_path / "empty.jsonl",
        tmp_path / "empty.jsonl.gz",
        write_lines(tmp_path / "compressed.jsonl.gz"),
    ]
    assert storage.create_events_table("events", files, EVENTS) == 0


def test_a_missing_file_is_named(refusing: StorageEngine, tmp_path: Path) -> None:
    before = contents(refusing)
    files = [write_lines(tmp_path / "a.jsonl", export_line()), tmp_path / "missing.jsonl"]
    with pytest.raises(StorageError, match=r"missing\.jsonl does not exist"):
        refusing.create_events_table("events", files, EVENTS)
    assert contents(refusing) == before


@pytest.mark.parametrize("lines", [[export_line()], [export_line(), "not JSON"]])
@pytest.mark.parametrize("kept", [0.5, 0.99])
def test_a_truncated_gzip_file_is_refused(
    refusing: StorageEngine, tmp_path: Path, lines: list[str], kept: float
) -> None:
    before = contents(refusing)
    whole = gzip.compress("".join(f"{line}\n" for line in lines * 2000).encode())
    file = tmp_path / "events.jsonl.gz"
    file.write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(StorageError, match=r"events\.jsonl\.gz"):
        refusing.create_events_table("events", [file], EVENTS)
    assert contents(refusing) == before


def test_a_line_that_cannot_be_a_row_is_named(refusing: StorageEngine, tmp_path: Path) -> None:
    before = contents(refusing)
    file = write_lines(tmp_path / "a.jsonl", export_line(), "", "terminated early")
    with pytest.raises(ValueError, match=r"a\.jsonl, line 3: not valid JSON"):
        refusing.create_events_table("events", [file], EVENTS)
    assert contents(refusing) == before


def test_a_time_before_the_year_1_in_utc_is_refused(storage: StorageEngine) -> None:
    early = datetime.fromisoformat("0001-01-01T00:00:00+01:00")
    with pytest.raises(ValueError, match="record 1: event_time"):
        storage.create_events_table("events", [event(event_time=early)], EVENTS)


@pytest.mark.parametrize("metadata", [None, {"type": "events"}, replace(EVENTS, fetched_at="now")])  # type: ignore[arg-type]
def test_metadata_of_another_kind_is_refused(tmp_path: Path, metadata: Any) -> None:
    with StorageEngine(tmp_path / "a.duckdb") as storage:
        with pytest.raises(ValueError, match="metadata"):
            storage.create_events_table("events", [event()], metadata)
        assert not storage.table_exists("events")

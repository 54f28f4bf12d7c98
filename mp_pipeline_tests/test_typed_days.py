"""Typing days: what a day replaces, when it is stale, and the dictionary of all days."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mp_pipeline.storage import (
    Drift,
    LabeledFile,
    StorageEngine,
    StorageError,
    TableExistsError,
    TableMetadata,
    TableNotFoundError,
)
from mp_pipeline_tests.support.engines import storage as storage
from mp_pipeline_tests.support.records import (
    DAY,
    EVENTS,
    FETCHED_AT,
    NEXT_DAY,
    event,
    window,
    write_lines,
)
from mp_pipeline_tests.support.typed import compare_with_json, typed_days

KILLS = 5
KILLED = """
import itertools, sys
from mp_pipeline.storage import StorageEngine
from mp_pipeline_tests.test_typed_days import DAY, load
with StorageEngine(sys.argv[1]) as storage:
    for number in itertools.count():
        properties = [{"x": number, f"p{number % 7}": n} for n in range(500)]
        load(storage, DAY, *[(f"Event {n % 5}", each) for n, each in enumerate(properties)])
        print(number, flush=True)
        storage.type_events_day("events", DAY)
"""


def load(
    storage: StorageEngine,
    day: date,
    *events: tuple[str, Mapping[str, Any]],
    dataset: str = "events",
) -> None:
    """Load a day with events, each a name and properties."""
    midnight = datetime(day.year, day.month, day.day)
    records = [
        event(f"{day} {number}", midnight, event_name=name, properties=properties)
        for number, (name, properties) in enumerate(events)
    ]
    list(storage.replace_events_days(dataset, [window(day)], records, EVENTS))


def songs(storage: StorageEngine) -> list[tuple[Any, ...]]:
    return storage.execute_rows("SELECT day, title FROM event.song_played ORDER BY ALL")


def test_a_reload_leaves_typed_rows_until_the_day_is_typed_again(storage: StorageEngine) -> None:
    load(storage, DAY, ("Song Played", {"title": "old"}))
    storage.type_events_day("events", DAY)
    assert typed_days(storage) == [(DAY, 1, False)]
    load(storage, DAY, ("Song Played", {"title": "new"}), ("Song Played", {"title": "other"}))
    assert songs(storage) == [(DAY, "old")]
    assert typed_days(storage) == [(DAY, 1, True)]
    storage.type_events_day("events", DAY)
    assert songs(storage) == [(DAY, "new"), (DAY, "other")]
    assert typed_days(storage) == [(DAY, 2, False)]
    assert compare_with_json(storage) == []


def test_a_day_replaces_no_other(storage: StorageEngine) -> None:
    load(storage, DAY, ("Song Played", {"title": "a"}), ("Search", {}))
    load(storage, NEXT_DAY, ("Song Played", {"title": "b"}))
    assert storage.type_events_day("events", NEXT_DAY).new_events == ("Song Played",)
    report = storage.type_events_day("events", DAY)
    assert (report.events, report.tables, report.new_events) == (
        2,
        ("search", "song_played"),
        ("Search",),
    )
    assert songs(storage) == [(DAY, "a"), (NEXT_DAY, "b")]


def test_an_event_can_vanish_from_a_day(storage: StorageEngine) -> None:
    load(storage, DAY, ("Song Played", {"title": "a"}), ("Search", {"query": 1}))
    storage.type_events_day("events", DAY)
    load(storage, DAY, ("Search", {"query": "x"}))
    report = storage.type_events_day("events", DAY)
    assert report.vanished_events == ("Song Played",)
    (widened,) = report.widened_columns
    assert (widened.column.property, widened.old_type, widened.column.type) == (
        "query",
        "BIGINT",
        "VARCHAR",
    )
    assert songs(storage) == []
    assert [each.event for each in storage.describe_events("events")] == ["Search"]


def test_a_column_is_widened_although_an_event_has_nearly_the_same_name(
    storage: StorageEngine,
) -> None:
    load(storage, DAY, ("Search", {"n": 1}), ("Search copy", {"n": 1}))
    storage.type_events_day("events", DAY)
    load(storage, DAY, ("Search", {"n": "x"}), ("Search copy", {"n": 1}))
    storage.type_events_day("events", DAY)
    assert compare_with_json(storage) == []


def test_a_dropped_day_is_stale_and_typing_it_deletes_its_rows(storage: StorageEngine) -> None:
    load(storage, DAY, ("Song Played", {"title": "a"}))
    load(storage, NEXT_DAY, ("Song Played", {"title": "b"}))
    for day in (DAY, NEXT_DAY):
        storage.type_events_day("events", day)
    storage.drop_table("events_20240115")
    assert typed_days(storage) == [(DAY, 1, True), (NEXT_DAY, 1, False)]
    assert storage.type_events_day("events", DAY).events == 0
    assert typed_days(storage) == [(NEXT_DAY, 1, False)]
    assert songs(storage) == [(NEXT_DAY, "b")]


def test_a_day_that_is_not_loaded_cannot_be_typed(storage: StorageEngine) -> None:
    with pytest.raises(TableNotFoundError, match=r"no table 'events_20240115'.*load the day first"):
        storage.type_events_day("events", DAY)


def test_a_day_without_events_is_typed(storage: StorageEngine) -> None:
    load(storage, DAY)
    assert storage.type_events_day("events", DAY).events == 0
    assert typed_days(storage) == [(DAY, 0, False)]


def test_each_dataset_has_a_schema_of_its_own(storage: StorageEngine) -> None:
    for dataset in ("shop_events", "blog_events"):
        load(storage, DAY, ("Visit", {"page": dataset}), dataset=dataset)
        storage.type_events_day(dataset, DAY)
        assert compare_with_json(storage, dataset) == []
    assert storage.execute_rows("FROM shop_event.visit SELECT page") == [("shop_events",)]
    assert storage.execute_rows("FROM blog_event.visit SELECT page") == [("blog_events",)]
    assert storage.execute_rows(
        "SELECT table_name, fraction, dataset FROM event_dictionary ORDER BY table_name"
    ) == [("blog_event.visit", 1.0, "blog_events"), ("shop_event.visit", 1.0, "shop_events")]


def test_a_database_may_have_the_name_of_the_schema(tmp_path: Path) -> None:
    with StorageEngine(tmp_path / "event.duckdb") as storage:
        load(storage, DAY, ("Song Played", {"title": "a"}))
        assert storage.type_events_day("events", DAY).events == 1
        assert storage.execute_rows("SELECT title FROM event.event.song_played") == [("a",)]


def test_a_table_of_the_user_is_not_replaced_by_the_dictionary(storage: StorageEngine) -> None:
    load(storage, DAY, ("Song Played", {"title": "a"}))
    storage.execute("CREATE TABLE event_dictionary AS SELECT 1 AS own")
    with pytest.raises(TableExistsError, match=r"'event_dictionary'.*rename or drop"):
        storage.type_events_day("events", DAY)
    assert storage.execute_rows("FROM event_dictionary") == [(1,)]
    assert typed_days(storage) == []
    storage.execute("DROP TABLE event_dictionary")
    storage.type_events_day("events", DAY)
    assert songs(storage) == [(DAY, "a")]


def test_a_failure_keeps_the_existing_rows(storage: StorageEngine) -> None:
    load(storage, DAY, ("Search", {"x": 1}), ("Song Played", {"title": "a"}))
    storage.type_events_day("events", DAY)
    load(storage, DAY, ("Search", {"x": "new", "y": 2}), ("Song Played", {"title": "b"}))
    storage.execute("ALTER TABLE event.song_played DROP COLUMN title")
    with pytest.raises(StorageError, match=r"(?s)2024-01-15 failed, no rows .*drop_typed_tables"):
        storage.type_events_day("events", DAY)
    assert storage.execute_rows("SELECT x FROM event.search") == [(1,)]
    assert typed_days(storage) == [(DAY, 2, True)]
    storage.drop_typed_tables("events")
    assert typed_days(storage) == []
    assert storage.execute_rows("FROM property_dictionary") == []
    storage.type_events_day("events", DAY)
    assert compare_with_json(storage) == []


def test_typing_that_is_killed_leaves_a_whole_day(tmp_path: Path) -> None:
    path = tmp_path / "test.duckdb"
    for kill in range(KILLS):
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        for _ in range(2):
            assert process.stdout.readline()
        time.sleep(0.05 * kill)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        with StorageEngine(path) as storage:
            rows = " UNION ALL ".join(f"SELECT x FROM event.event_{n}" for n in range(5))
            assert storage.execute_rows(f"SELECT count(*), count(DISTINCT x) FROM ({rows})") == [
                (500, 1)
            ]
            ((_, events, is_stale),) = typed_days(storage)
            assert events == 500
            if not is_stale:
                assert compare_with_json(storage) == []
    with StorageEngine(path) as storage:
        storage.type_events_day("events", DAY)
        assert compare_with_json(storage) == []


def test_the_dictionary_describes_events_and_properties(storage: StorageEngine) -> None:
    load(storage, DAY, ("Song Played", {"title": "a", "$os": None}), ("Search", {"n": 1}))
    load(storage, NEXT_DAY, ("Song Played", {"title": 1}), ("Song Played", {"n": 0.5}))
    for day in (DAY, NEXT_DAY):
        storage.type_events_day("events", day)
    song, search = storage.describe_events("events")
    assert (song.event, song.table_name, song.events, song.fraction) == (
        "Song Played",
        "event.song_played",
        3,
        0.75,
    )
    assert (song.first_day, song.last_day, song.days, song.properties) == (DAY, NEXT_DAY, 2, 3)
    assert (search.event, search.first_day, search.last_day) == ("Search", DAY, DAY)
    title, n, system = storage.describe_properties("events", "Song Played")
    assert (title.property, title.column_name, title.column_type) == ("title", "title", "VARCHAR")
    assert (title.filled, round(title.filled_fraction, 3)) == (2, 0.667)
    assert title.json_types == {"BIGINT": 1, "VARCHAR": 1}
    assert (n.column_type, n.first_day, n.last_day) == ("DOUBLE", NEXT_DAY, NEXT_DAY)
    assert (system.property, system.column_name, system.filled) == ("$os", None, 0)
    assert len(storage.describe_properties("events")) == 4
    assert storage.execute_rows(
        "SELECT property, column_name, filled FROM property_dictionary WHERE event_name = 'Search'"
    ) == [("n", "n", 1)]


def test_comments_have_the_names_of_mixpanel(storage: StorageEngine) -> None:
    load(storage, DAY, ("Song's Played", {"$city": "a"}), ("Song's Played", {}))
    storage.type_events_day("events", DAY)
    assert storage.comment_typed_tables("events") == 2
    comments = "SELECT comment FROM {} WHERE table_name = 'song_s_played' AND comment IS NOT NULL"
    assert storage.execute_rows(comments.format("duckdb_tables()")) == [("Event: Song's Played",)]
    assert storage.execute_rows(comments.format("duckdb_columns()")) == [
        ("Property: $city, filled in 50 % of the events",)
    ]
    load(storage, NEXT_DAY, ("Song's Played", {"$city": 1}), ("Song's Played", {"$city": 2}))
    storage.type_events_day("events", NEXT_DAY)
    assert storage.comment_typed_tables("events") == 1
    assert storage.execute_rows(comments.format("duckdb_columns()")) == [
        ("Property: $city, filled in 75 % of the events",)
    ]


def load_lexicon(storage: StorageEngine, directory: Path, schema: object) -> None:
    """Load a Lexicon that describes one event."""
    line = json.dumps({"entityType": "event", "name": "Song Played", "schemaJson": schema})
    file = write_lines(directory / "lexicon.jsonl", line)
    storage.replace_table("lexicon", [LabeledFile(file)], TableMetadata("lexicon", FETCHED_AT))


def test_comments_have_the_descriptions_of_the_lexicon(
    storage: StorageEngine, tmp_path: Path
) -> None:
    song = {"a/b": 1, "title": "x", "other": 1}
    load(storage, DAY, ("Song Played", song), ("Search", {"title": "y"}))
    storage.type_events_day("events", DAY)
    described = "SELECT comment FROM {} WHERE schema_name = 'event' AND contains(comment, '. ')"
    tables, columns = (described.format(each) for each in ("duckdb_tables()", "duckdb_columns()"))

    title = {"description": "The song's \u0000 title."}
    properties = {"a/b": {"description": "A\nslash."}, "title": title, "other": {"type": "number"}}
    load_lexicon(storage, tmp_path, {"description": "It played.", "properties": properties})
    storage.comment_typed_tables("events")
    assert storage.execute_rows(tables) == [("Event: Song Played. It played.",)]
    assert storage.execute_rows(columns) == [
        ("Property: a/b, filled in 100 % of the events. A\nslash.",),
        ("Property: title, filled in 100 % of the events. The song's ␀ title.",),
    ]

    for schema in ("?", {"properties": ["title"]}, {"description": "", "properties": None}):
        load_lexicon(storage, tmp_path, schema)
        storage.comment_typed_tables("events")
        assert storage.execute_rows(tables) + storage.execute_rows(columns) == []

    storage.execute("DROP TABLE lexicon")
    storage.execute("CREATE TABLE lexicon AS SELECT 'of the user' AS name")
    storage.comment_typed_tables("events")
    assert storage.execute_rows(tables) + storage.execute_rows(columns) == []
    assert storage.execute_rows("FROM lexicon") == [("of the user",)]


def test_typed_tables_have_no_constraints(storage: StorageEngine, tmp_path: Path) -> None:
    load(storage, DAY, ("Song Played", {"title": "a", "album": {"id": 1}}))
    storage.type_events_day("events", DAY)
    assert (
        storage.execute_rows("SELECT * FROM duckdb_constraints() WHERE schema_name = 'event'") == []
    )
    file = tmp_path / "songs.parquet"
    storage.execute(f"COPY event.song_played TO '{file}'")
    assert storage.execute_rows(f"SELECT title, album->>'$.id' FROM '{file}'") == [("a", "1")]
    storage.execute("DELETE FROM event.song_played WHERE distinct_id = 'u1'")
    assert songs(storage) == []


def test_drift_compares_a_day_with_the_days_before(storage: StorageEngine) -> None:
    def day(number: int, *events: tuple[str, Mapping[str, Any]]) -> None:
        load(storage, DAY + timedelta(number), *events)
        storage.type_events_day("events", DAY + timedelta(number))

    always: list[tuple[str, Mapping[str, Any]]] = [("A", {"n": 1, "old": "x", "kind": 1})] * 5
    day(0, *always, *[("Gone", {})] * 5, ("Rare", {}))
    day(1, *always, *[("Gone", {})] * 5, ("A", {"seldom": 1}))
    day(
        2,
        *[("A", {"n": 1.5, "kind": "text", "new": None if n else True}) for n in range(5)],
        *[("New", {})] * 5,
        ("Rare too", {}),
    )
    drift = storage.property_drift("events", DAY + timedelta(2), min_events=5)
    assert [(each.event, each.property, each.change) for each in drift] == [
        ("Gone", None, "vanished event"),
        ("New", None, "new event"),
        ("A", "kind", "new type"),
        ("A", "new", "new property"),
        ("A", "old", "vanished property"),
        ("A", "seldom", "vanished property"),
    ]
    assert drift[2] == Drift("A", "kind", "new type", ("number",), ("text",), 10 / 11, 1.0)
    assert drift[3].fraction_now == 0.2
    rarely = storage.property_drift("events", DAY + timedelta(2), min_events=5, min_fraction=0.5)
    assert [each.property for each in rarely] == [None, None, "kind", "new", "old"]


def test_drift_needs_days_to_compare(storage: StorageEngine) -> None:
    load(storage, DAY, ("A", {}))
    load(storage, DAY + timedelta(40), ("B", {}))
    storage.type_events_day("events", DAY)
    later = DAY + timedelta(40)
    assert storage.property_drift("events", DAY, min_events=1) == []
    assert storage.property_drift("events", NEXT_DAY, min_events=1) == []
    storage.type_events_day("events", later)
    assert storage.property_drift("events", later, min_events=1) == []
    changes = storage.property_drift("events", later, days=40, min_events=1)
    assert [each.change for each in changes] == ["vanished event", "new event"]

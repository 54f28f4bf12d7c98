"""Typed columns hold the same values as JSON: for any events, over days in any order."""

from collections.abc import Iterator, Mapping
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mp_pipeline.storage import StorageEngine, TypedDayReport
from mp_pipeline_tests.support.records import (
    DAY,
    DAY_AFTER,
    DAYS,
    EVENTS,
    NEXT_DAY,
    event,
    export_line,
    window,
    write_lines,
)
from mp_pipeline_tests.support.typed import compare_with_json

EVENT_NAMES = st.sampled_from(
    ["Page View", "page_view", "Page-View", "$identify", "", "Покупка", "select", 'Q"uote', "1st"]
)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=4)
INTEGERS = st.integers(-1000, 1000) | st.sampled_from(
    [2**53, 2**53 + 1, 2**60, 2**63 - 1, 2**63, 2**64, -(2**63), -(2**63) - 1, 10**25]
)
FLOATS = st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from(
    [1.0, 100000.0, -0.0, 1e21, 1e300, 0.1]
)
NESTED = st.sampled_from([{}, [], {"a": 1}, {"a": {"b": [1, None]}}, [1, "x", {"c": 0.5}]])
ANY = (
    st.none()
    | st.booleans()
    | INTEGERS
    | FLOATS
    | TEXTS
    | NESTED
    | st.sampled_from(["null", "12", "1.0", "true", "2024-01-01", "[1]"])
)
MIXED_KEYS = st.sampled_from(
    ["$city", "city", "City", "mp_city", "a b", "a_b", "a/b", "~t", "~1", "x.y", 'q"r', "", "$"]
) | st.sampled_from(
    ["day", "event_time", "distinct_id", "insert_id", "дом", "select", "group", "1", "*", "\x00"]
)
PROPERTIES: st.SearchStrategy[dict[str, Any]] = st.builds(
    lambda kept, mixed: kept | mixed,
    st.fixed_dictionaries(
        {},
        optional={
            "whole": st.integers(-(2**63), 2**63 - 1) | st.none(),
            "number": st.integers(-99, 99) | FLOATS,
            "changing": st.integers(-99, 99),
            "flag": st.booleans(),
            "nested": NESTED,
            "text": TEXTS,
        },
    ),
    st.dictionaries(MIXED_KEYS, ANY, max_size=4),
)
EVENTS_OF_A_DAY = st.lists(st.tuples(EVENT_NAMES, PROPERTIES), max_size=12)
LOADS = st.lists(st.tuples(st.sampled_from(DAYS), EVENTS_OF_A_DAY, ANY), min_size=1, max_size=6)
"""Days in any order, some twice; the last value is what ``changing`` is on one event of the day."""


@pytest.fixture
def storage() -> Iterator[StorageEngine]:
    with StorageEngine.memory() as engine:
        yield engine


def load(storage: StorageEngine, day: date, events: list[tuple[str, Mapping[str, Any]]]) -> None:
    """Load a day."""
    midnight = datetime(day.year, day.month, day.day)
    records = [
        event(
            f"{day} {number}",
            midnight + timedelta(seconds=number),
            event_name=name,
            distinct_id=f"u{number % 3}",
            properties=properties,
        )
        for number, (name, properties) in enumerate(events)
    ]
    list(storage.replace_events_days("events", [window(day)], records, EVENTS))


def type_values(storage: StorageEngine, day: date, *values: object) -> TypedDayReport:
    """Load and type a day with one event for each value of the property ``x``."""
    load(storage, day, [("A", {"x": value}) for value in values])
    return storage.type_events_day("events", day)


def texts(storage: StorageEngine) -> list[Any]:
    return [text for (text,) in storage.execute_rows("SELECT x FROM event.a ORDER BY insert_id")]


def type_of(storage: StorageEngine) -> str:
    (described,) = storage.describe_properties("events", "A")
    assert described.column_type is not None
    assert (
        dict(storage.execute_rows("SELECT column_name, column_type FROM (DESCRIBE event.a)"))["x"]
        == described.column_type
    )
    return described.column_type


@settings(max_examples=25, deadline=None)
@given(loads=LOADS)
def test_every_value_is_that_of_json(loads: list[tuple[date, Any, Any]]) -> None:
    with StorageEngine.memory() as storage:
        for day, events, change in loads:
            load(storage, day, [*events, ("Page View", {"changing": change})])
            report = storage.type_events_day("events", day)
            assert report.events == len(events) + 1
        assert compare_with_json(storage) == []


@pytest.mark.parametrize(
    ("values", "type_"),
    [
        ([1, -5, 2**63 - 1, None], "BIGINT"),
        ([1, 2.5, 1e300, 2**60], "DOUBLE"),
        ([2**63], "VARCHAR"),
        ([2**53 + 1, 0.5], "VARCHAR"),
        ([True, False], "BOOLEAN"),
        ([True, 1], "VARCHAR"),
        ([{}, [1], {"a": None}], "JSON"),
        ([{}, "x"], "VARCHAR"),
        (["1"], "VARCHAR"),
    ],
)
def test_a_column_has_the_narrowest_type_that_fits(
    storage: StorageEngine, values: list[object], type_: str
) -> None:
    for order in (values, values[::-1]):
        with StorageEngine.memory() as each:
            type_values(each, DAY, *order)
            assert type_of(each) == type_
            assert compare_with_json(each) == []
    for day, value in zip(DAYS * 2, values, strict=False):
        load(storage, day, [("A", {"x": value})])
    for info in storage.list_days("events"):
        storage.type_events_day("events", info.day)
    assert compare_with_json(storage) == []


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 2, 0]])
def test_numbers_keep_their_text_when_their_column_becomes_text(
    storage: StorageEngine, order: list[int]
) -> None:
    days: dict[date, list[object]] = {
        DAY: [1, 100000, 2.5],
        NEXT_DAY: [1.0, 1, 2.5, 1e21, -0.0],
        DAY_AFTER: ["free", 7.0],
    }
    for day, values in days.items():
        load(storage, day, [("A", {"x": value}) for value in values])
    for number in order:
        storage.type_events_day("events", DAYS[number])
    assert texts(storage) == [
        "1",
        "100000",
        "2.5",
        "1.0",
        "1",
        "2.5",
        "1e21",
        "-0.0",
        "free",
        "7.0",
    ]


def test_texts_are_restored_beside_columns_of_any_name(storage: StorageEngine) -> None:
    load(storage, DAY, [("A", {"x": 0, "text": "a", "stored": 1}), ("A", {"x": 0.0, "typed": 2})])
    storage.type_events_day("events", DAY)
    type_values(storage, NEXT_DAY, False)
    assert texts(storage) == ["0", "0.0", "false"]


def test_a_long_integer_beside_fractions_becomes_text(storage: StorageEngine) -> None:
    type_values(storage, DAY, 2**53 + 1)
    report = type_values(storage, NEXT_DAY, 0.5)
    (widened,) = report.widened_columns
    assert (widened.old_type, widened.column.type, type_of(storage)) == (
        "BIGINT",
        "VARCHAR",
        "VARCHAR",
    )
    assert texts(storage) == ["9007199254740993", "0.5"]


def test_a_number_beyond_doubles_becomes_text(storage: StorageEngine, tmp_path: Path) -> None:
    lines = [export_line("1", x=0.5), export_line("2").replace('"u1"', '"u1","x":1e999')]
    file = write_lines(tmp_path / "events.jsonl", *lines)
    list(storage.replace_events_days("events", [window(DAY)], [file], EVENTS))
    storage.type_events_day("events", DAY)
    assert storage.execute_rows("SELECT x FROM event.song_played ORDER BY insert_id") == [
        ("0.5",),
        ("1e999",),
    ]


def test_the_first_of_a_repeated_name_counts(storage: StorageEngine, tmp_path: Path) -> None:
    line = export_line("1").replace('"u1"', '"u1","x":1,"y":{"z":1,"z":2},"x":"two","x":{}')
    file = write_lines(tmp_path / "events.jsonl", line, export_line("2", x=2, y={}))
    list(storage.replace_events_days("events", [window(DAY)], [file], EVENTS))
    storage.type_events_day("events", DAY)
    assert storage.execute_rows("SELECT x, y FROM event.song_played ORDER BY insert_id") == [
        (1, '{"z":1,"z":2}'),
        (2, "{}"),
    ]
    assert storage.execute_rows("SELECT properties->>'$.x' FROM events ORDER BY insert_id") == [
        ("1",),
        ("2",),
    ]
    assert compare_with_json(storage) == []


def test_null_and_missing_are_null(storage: StorageEngine) -> None:
    load(storage, DAY, [("A", {"x": None}), ("A", {}), ("A", {"x": "null"}), ("A", {"y": None})])
    storage.type_events_day("events", DAY)
    assert texts(storage) == [None, None, "null", None]
    described = {each.property: each for each in storage.describe_properties("events")}
    assert described["y"].column_name is None
    assert described["x"].json_types == {"NULL": 1, "VARCHAR": 1}


def test_many_events_and_many_properties(storage: StorageEngine) -> None:
    wide = {f"Property {number}": number for number in range(2000)}
    events = [(f"Event {number}", {f"p {number}": number, "same": True}) for number in range(500)]
    load(storage, DAY, [*events, ("Wide", wide), ("Wide", {"Property 7": "seven"})])
    report = storage.type_events_day("events", DAY)
    assert (report.events, len(report.tables), len(report.new_columns)) == (502, 501, 3000)
    assert compare_with_json(storage) == []
    assert storage.comment_typed_tables("events") == 3501
    comments = storage.execute_rows(
        "SELECT comment FROM duckdb_columns() WHERE table_name = 'wide' "
        "AND column_name = 'property_8'"
    )
    assert comments == [("Property: Property 8, filled in 50 % of the events",)]


def test_names_are_unique_and_stay(storage: StorageEngine) -> None:
    load(storage, DAY, [("Page View", {"day": "Monday", "City": 1}), ("page_view", {})])
    storage.type_events_day("events", DAY)
    load(storage, NEXT_DAY, [("PAGE VIEW", {}), ("Page View", {"$city": 3, "city": 2})])
    storage.type_events_day("events", NEXT_DAY)
    assert {each.event: each.table_name for each in storage.describe_events("events")} == {
        "Page View": "event.page_view",
        "page_view": "event.page_view_1",
        "PAGE VIEW": "event.page_view_2",
    }
    assert {each.property: each.column_name for each in storage.describe_properties("events")} == {
        "day": "day_1",
        "City": "city",
        "$city": "mp_city",
        "city": "city_1",
    }
    assert storage.execute_rows("SELECT day, day_1 FROM event.page_view ORDER BY day") == [
        (DAY, "Monday"),
        (NEXT_DAY, None),
    ]

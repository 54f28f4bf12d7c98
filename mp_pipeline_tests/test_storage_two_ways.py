"""The same events and profiles, as records and as files of every shape, give the same rows."""

import json
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mp_pipeline.storage import StorageEngine
from mp_pipeline_tests.support.records import EVENTS, PROFILES, write_lines

Row = tuple[Any, ...]
Record = dict[str, Any]

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(
    [
        "\u2028",
        "\u2029",
        "\x00",
        "\x1f",
        "\x7f",
        "\x85",
        "\ufeff",
        "\\",
        "\\ud800",
        "😀",
        "\U0010ffff",
    ]
)
KEYS = TEXTS | st.sampled_from(
    ["$os", "$", "a.b", "$.a", 'a"b', "it's", "Plan", "plan", "PLAN", "", " ", "[0]", "*", "mp_x"]
)
NUMBERS = (
    st.integers(-(10**40), 10**40)
    | st.sampled_from([2**53 + 1, 2**63, 2**64, -(2**63) - 1])
    | st.floats(allow_nan=False, allow_infinity=False)
)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda values: st.lists(values, max_size=3) | st.dictionaries(KEYS, values, max_size=3),
    max_leaves=8,
)
PROMOTED = {"time", "distinct_id", "$insert_id", "$last_seen", "mp_processing_time_ms"}
PROPERTIES = st.dictionaries(KEYS.filter(lambda key: key not in PROMOTED), VALUES, max_size=5)
TIMES = st.datetimes(datetime(1980, 1, 1), datetime(9999, 12, 31)).map(
    lambda time: time.replace(microsecond=time.microsecond // 1000 * 1000)
)
INSERT_IDS = st.sampled_from(["i1", "i2", "i3"]) | TEXTS.filter(bool)
EVENT_LISTS = st.lists(
    st.fixed_dictionaries(
        {
            "event_name": TEXTS,
            "event_time": TIMES,
            "distinct_id": TEXTS,
            "insert_id": INSERT_IDS,
            "properties": PROPERTIES,
        }
    ),
    min_size=1,
    max_size=20,
)
PROFILE_LISTS = st.lists(
    st.fixed_dictionaries(
        {
            "distinct_id": TEXTS,
            "properties": PROPERTIES,
            "last_seen": st.none() | TIMES,
        }
    ),
    min_size=1,
    max_size=20,
)
BAD_LINE = "terminated early"


@pytest.fixture(scope="module")
def storage() -> Iterator[StorageEngine]:
    with StorageEngine.memory() as engine:
        yield engine


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lines")


def compact(line: Record) -> str:
    """Return JSON in which only what must be escaped is escaped."""
    return json.dumps(line, ensure_ascii=False, separators=(",", ":"))


def export_line(record: Record) -> str:
    promoted = {
        "time": round(record["event_time"].replace(tzinfo=UTC).timestamp() * 1000),
        "distinct_id": record["distinct_id"],
        "$insert_id": record["insert_id"],
    }
    return compact({"event": record["event_name"], "properties": promoted | record["properties"]})


def engage_line(record: Record) -> str:
    seen = record["last_seen"]
    properties = record["properties"] | ({} if seen is None else {"$last_seen": seen.isoformat()})
    return compact({"$distinct_id": record["distinct_id"], "$properties": properties})


def record_line(record: Record) -> str:
    """Return the record itself as JSON, with everything outside ASCII escaped."""
    return json.dumps(record, default=datetime.isoformat)


def rows_of(
    storage: StorageEngine, records: list[Record], directory: Path, kind: str
) -> list[list[Row]]:
    """Return the rows that each way of loading the records stores."""
    metadata = EVENTS if kind == "events" else PROFILES
    mixpanel_line = export_line if kind == "events" else engage_line
    lines = [mixpanel_line(record) for record in records]
    plain = write_lines(directory / "plain.jsonl", *lines)
    compressed = write_lines(directory / "compressed.jsonl.gz", *lines)
    own_shape = write_lines(directory / "records.jsonl", *map(record_line, records))
    with_bad_line = write_lines(directory / "with_bad_line.jsonl", *lines, BAD_LINE)
    ways: list[Any] = [iter(records), [plain], [compressed], [own_shape], [with_bad_line]]
    rows = []
    for way in ways:
        storage.replace_table(kind, way, metadata, max_rejected_fraction=1, batch_size=7)
        rows.append(storage.execute_rows(f"SELECT * FROM {kind} ORDER BY ALL"))
    return rows


@settings(max_examples=12, deadline=None)
@given(records=EVENT_LISTS)
def test_events_are_the_same_by_every_way(
    storage: StorageEngine, directory: Path, records: list[Record]
) -> None:
    by_iterator, *others = rows_of(storage, records, directory, "events")
    for rows in others:
        assert rows == by_iterator
    stored = {row[3]: [*row[:4], json.loads(row[4])] for row in by_iterator}
    ids = Counter(record["insert_id"] for record in records)
    names = ("event_name", "event_time", "distinct_id", "insert_id", "properties")
    for record in records:
        if ids[record["insert_id"]] == 1:
            assert stored[record["insert_id"]] == [record[name] for name in names]


@settings(max_examples=12, deadline=None)
@given(records=PROFILE_LISTS)
def test_profiles_are_the_same_by_every_way(
    storage: StorageEngine, directory: Path, records: list[Record]
) -> None:
    by_iterator, *others = rows_of(storage, records, directory, "profiles")
    for rows in others:
        assert rows == by_iterator
    stored = {user: (json.loads(text), last_seen) for user, text, last_seen in by_iterator}
    assert stored == {
        record["distinct_id"]: (record["properties"], record["last_seen"]) for record in records
    }

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import pytest

from mp_pipeline.storage import QueryError, StorageEngine, TableNotFoundError
from mp_pipeline_tests.support.records import EVENTS, PROFILES, event, profile

METHODS = ["execute", "execute_df", "execute_scalar", "execute_rows"]


@contextmanager
def songs_and_people() -> Iterator[StorageEngine]:
    events = [
        event("i1", properties={"country": "US"}),
        event("i2", properties={"country": "DE"}, distinct_id="u2"),
        event(
            "i3",
            event_name="Sign Up",
            event_time=datetime(2024, 1, 16, 8),
            properties={"country": "US", "$os": "iOS"},
        ),
        event("i4", event_time=datetime(2023, 12, 31, 23, 59), properties={}),
    ]
    profiles = [
        profile("u1", properties={"$name": "Alice", "$email": "a@example.com", "plan": "premium"}),
        profile("u2", properties={"$name": "Bob", "$email": "b@example.com", "plan": "free"}),
    ]
    with StorageEngine.memory() as engine:
        engine.create_events_table("events", events, EVENTS)
        engine.create_profiles_table("profiles", profiles, PROFILES)
        yield engine


@pytest.fixture(scope="module")
def storage() -> Iterator[StorageEngine]:
    """To be read only: it is the same for all tests."""
    with songs_and_people() as engine:
        yield engine


@pytest.fixture
def changing() -> Iterator[StorageEngine]:
    with songs_and_people() as engine:
        yield engine


def test_execute_gives_a_relation(storage: StorageEngine) -> None:
    relation = storage.execute("SELECT insert_id, distinct_id FROM events ORDER BY insert_id")
    assert relation.columns == ["insert_id", "distinct_id"]
    assert relation.filter("distinct_id = 'u2'").fetchall() == [("i2", "u2")]


def test_a_relation_keeps_its_rows(changing: StorageEngine) -> None:
    relation = changing.execute("SELECT insert_id FROM events ORDER BY insert_id")
    changing.execute("DELETE FROM events")
    assert changing.execute_scalar("SELECT count(*) FROM events") == 0
    assert relation.fetchall() == [("i1",), ("i2",), ("i3",), ("i4",)]


def test_execute_runs_statements_that_give_no_rows(changing: StorageEngine) -> None:
    changing.execute("CREATE TABLE own (x INTEGER)")
    changing.execute("INSERT INTO own VALUES (1), (2)")
    assert changing.execute_rows("SELECT * FROM own") == [(1,), (2,)]


def test_execute_df_gives_a_data_frame(storage: StorageEngine) -> None:
    frame = storage.execute_df("SELECT insert_id, event_time FROM events ORDER BY insert_id")
    assert list(frame.columns) == ["insert_id", "event_time"]
    assert frame["insert_id"].tolist() == ["i1", "i2", "i3", "i4"]
    assert frame["event_time"].max() == datetime(2024, 1, 16, 8)


def test_execute_df_of_no_rows_has_the_columns(storage: StorageEngine) -> None:
    frame = storage.execute_df("SELECT * FROM events WHERE false")
    assert frame.empty
    assert list(frame.columns) == [
        "event_name",
        "event_time",
        "distinct_id",
        "insert_id",
        "properties",
    ]


def test_execute_scalar_gives_the_first_value(storage: StorageEngine) -> None:
    assert storage.execute_scalar("SELECT count(*), 'second' FROM events") == 4
    assert storage.execute_scalar("SELECT NULL") is None
    assert storage.execute_scalar("SELECT insert_id FROM events WHERE false") is None


def test_execute_rows_gives_tuples(storage: StorageEngine) -> None:
    assert storage.execute_rows(
        "SELECT insert_id, event_time FROM events ORDER BY insert_id DESC LIMIT 2"
    ) == [("i4", datetime(2023, 12, 31, 23, 59)), ("i3", datetime(2024, 1, 16, 8))]
    assert storage.execute_rows("SELECT * FROM events WHERE false") == []


def test_any_text_comes_back_as_stored(storage: StorageEngine) -> None:
    assert storage.execute_rows("SELECT 'it''s', '%', '?', '$1', '😀', chr(0)") == [
        ("it's", "%", "?", "$1", "😀", "\0")
    ]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("SELEC 1", "syntax error"),
        ("SELECT", "SELECT clause without selection list"),
        ("SELECT * FROM nowhere", "nowhere"),
        ("SELECT nothing FROM events", "nothing"),
        ("SELECT 'x'::INTEGER", "Could not convert string 'x' to INT32"),
        ("INSERT INTO events SELECT * FROM events", "uplicate key"),
        ("SELECT 1; SELEC 2", "syntax error"),
    ],
)
def test_what_duckdb_refuses_is_a_query_error(
    storage: StorageEngine, method: str, query: str, reason: str
) -> None:
    with pytest.raises(QueryError) as refused:
        getattr(storage, method)(query)
    assert refused.value.query == query
    assert reason in refused.value.message
    assert reason in str(refused.value)
    assert query in str(refused.value)
    assert storage.execute_scalar("SELECT count(*) FROM events") == 4


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("query", [None, 5, b"SELECT 1", Path("query.sql"), ["SELECT 1"]])
def test_a_query_that_is_no_text_is_refused(
    storage: StorageEngine, method: str, query: object
) -> None:
    with pytest.raises(TypeError, match=f"not a .*{type(query).__name__}"):
        getattr(storage, method)(query)


def test_a_query_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(QueryError("SELEC 1", "syntax error")))
    assert isinstance(error, QueryError)
    assert (error.query, error.message) == ("SELEC 1", "syntax error")
    assert "SELEC 1" in str(error)


def test_a_query_cannot_write_to_a_read_only_database(tmp_path: Path) -> None:
    path = tmp_path / "a.duckdb"
    with StorageEngine(path) as storage:
        storage.create_events_table("events", [event()], EVENTS)
    with StorageEngine.open_existing(path) as storage:
        with pytest.raises(QueryError, match="read-only"):
            storage.execute("DELETE FROM events")
        assert storage.execute_scalar("SELECT count(*) FROM events") == 1


def test_read_tables_gives_one_table_after_another(changing: StorageEngine) -> None:
    changing.create_events_table("more", [event("i5")], EVENTS)
    frame = changing.read_tables(["more", "events"])
    assert frame["insert_id"].tolist()[0] == "i5"
    assert sorted(frame["insert_id"]) == ["i1", "i2", "i3", "i4", "i5"]
    with pytest.raises(TableNotFoundError, match="nowhere"):
        changing.read_tables(["events", "nowhere"])


def test_first_rows_gives_short_texts(storage: StorageEngine) -> None:
    assert storage.first_rows("profiles", rows=1, characters=10) == [
        {"distinct_id": "u1", "properties": '{"$name":"', "last_seen": None}
    ]
    assert len(storage.first_rows("events", rows=3, characters=10)) == 3
    with pytest.raises(TableNotFoundError, match="nowhere"):
        storage.first_rows("nowhere", rows=1, characters=10)


# The query patterns of the data model, word for word


def test_count_events_by_type(storage: StorageEngine) -> None:
    rows = storage.execute_rows("""
        SELECT event_name, COUNT(*)
        FROM events
        GROUP BY event_name;
    """)
    assert sorted(rows) == [("Sign Up", 1), ("Song Played", 3)]


def test_extract_a_json_property(storage: StorageEngine) -> None:
    rows = storage.execute_rows("""
        SELECT
            event_name,
            properties->>'$.country' as country
        FROM events
        WHERE properties->>'$.country' = 'US';
    """)
    assert sorted(rows) == [("Sign Up", "US"), ("Song Played", "US")]


def test_aggregate_a_time_series(storage: StorageEngine) -> None:
    frame = storage.execute_df("""
        SELECT
            DATE_TRUNC('day', event_time) as day,
            COUNT(*) as event_count
        FROM events
        GROUP BY day
        ORDER BY day;
    """)
    assert [str(day.date()) for day in frame["day"]] == ["2023-12-31", "2024-01-15", "2024-01-16"]
    assert frame["event_count"].tolist() == [1, 2, 1]


def test_find_profiles_by_property(storage: StorageEngine) -> None:
    rows = storage.execute_rows("""
        SELECT
            distinct_id,
            properties->>'$.$name' as name
        FROM profiles
        WHERE properties->>'$.plan' = 'premium';
    """)
    assert rows == [("u1", "Alice")]


def test_join_events_with_profiles(storage: StorageEngine) -> None:
    rows = storage.execute_rows("""
        SELECT
            e.event_name,
            p.properties->>'$.$email' as email
        FROM events e
        JOIN profiles p ON e.distinct_id = p.distinct_id
        WHERE e.event_time >= '2024-01-01';
    """)
    assert sorted(rows) == [
        ("Sign Up", "a@example.com"),
        ("Song Played", "a@example.com"),
        ("Song Played", "b@example.com"),
    ]


@pytest.mark.parametrize("method", ["execute", "execute_df", "execute_scalar", "execute_rows"])
@pytest.mark.parametrize("query", ["", "  \n", ";", "-- nothing here"])
def test_an_empty_query_is_refused(storage: StorageEngine, method: str, query: str) -> None:
    with pytest.raises(QueryError, match="no statement"):
        getattr(storage, method)(query)

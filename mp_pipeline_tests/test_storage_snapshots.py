"""Snapshots of groups, cohorts, their members, annotations and Lexicon in the storage engine."""

import json
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pytest

from mp_pipeline.storage import (
    LabeledFile,
    LoadReport,
    RejectedLinesError,
    StorageEngine,
    StorageError,
    TableExistsError,
    TableMetadata,
    TableType,
)
from mp_pipeline_tests.support.databases import contents
from mp_pipeline_tests.support.engines import file_only
from mp_pipeline_tests.support.engines import storage as storage
from mp_pipeline_tests.support.records import FETCHED_AT, profile, write_lines

COMPANY = {"data_group_id": "-6291034705516742039", "group_key": "company's"}
LABELS: dict[TableType, dict[str, str]] = {"groups": COMPANY, "cohort_members": {"cohort_id": "7"}}

LINES: dict[TableType, list[dict[str, Any]]] = {
    "profiles": [{"$distinct_id": "u1", "$properties": {"plan": "free"}}, {"$distinct_id": 2}],
    "groups": [{"$distinct_id": "acme", "$properties": {"size": 12}}, {"$distinct_id": 2}],
    "cohorts": [{"id": 1, "name": "One"}, {"id": 2, "name": "Two", "count": 5}],
    "cohort_members": [{"$distinct_id": "u1", "$properties": {}}, {"$distinct_id": 2}],
    "annotations": [{"id": 1, "date": "2024-01-15 10:00:00"}, {"id": 2, "date": "2024-01-16"}],
    "lexicon": [
        {"entityType": "event", "name": "A", "schemaJson": {"description": "First."}},
        {"entityType": "profile", "name": "A", "schemaJson": {}},
    ],
}
SNAPSHOTS = list(LINES)
BAD = {
    "profiles": (b'{"$properties": {}}', "no distinct_id"),
    "groups": (b'{"$properties": {}}', "no distinct_id"),
    "cohorts": (b'{"id": "x1", "name": "X"}', "id is not an integer: x1"),
    "cohort_members": (b"[]", "not a JSON object"),
    "annotations": (b'{"id": 3, "date": "soon"}', "date cannot be read: soon"),
    "lexicon": (b'{"entityType": "event", "schemaJson": {}}', "no name"),
}


def load(
    storage: StorageEngine,
    tmp_path: Path,
    table_type: TableType,
    *lines: object,
    file: str = "lines.jsonl",
    **options: Any,
) -> LoadReport:
    """Replace the table that has the name of its type."""
    path = write_lines(
        tmp_path / file,
        *(line if isinstance(line, bytes) else json.dumps(line) for line in lines),
    )
    data = [LabeledFile(path, LABELS.get(table_type, {}))]
    metadata = TableMetadata(table_type, FETCHED_AT)
    return storage.replace_table(table_type, data, metadata, **options)


@pytest.mark.parametrize("table_type", SNAPSHOTS)
@pytest.mark.parametrize("file", ["lines.jsonl", "lines.jsonl.gz"])
def test_a_snapshot_has_the_schema_of_its_type(
    storage: StorageEngine, tmp_path: Path, table_type: TableType, file: str
) -> None:
    report = load(storage, tmp_path, table_type, *LINES[table_type], file=file)
    assert (report.type, report.rows_stored, report.day) == (table_type, 2, None)
    assert storage.schema_problems([table_type], table_type) == {table_type: []}
    (counts,) = storage.count_rows([table_type])
    assert counts.problems == []
    (info,) = storage.list_tables()
    assert (info.name, info.type, info.row_count) == (table_type, table_type, 2)
    assert storage.get_metadata(table_type) == TableMetadata(table_type, FETCHED_AT)
    ((comment,),) = storage.execute_rows(
        f"SELECT comment FROM duckdb_tables() WHERE table_name = '{table_type}'"
    )
    assert comment == "Maintained by mp_pipeline"


@pytest.mark.parametrize("table_type", SNAPSHOTS)
def test_a_snapshot_is_replaced_as_a_whole(
    storage: StorageEngine, tmp_path: Path, table_type: TableType
) -> None:
    first, second = LINES[table_type]
    load(storage, tmp_path, table_type, first, second)
    report = load(storage, tmp_path, table_type, second)
    assert (report.rows_stored, report.gained, report.lost) == (1, 0, 1)
    assert len(storage.list_loads(table_type)) == 2
    assert load(storage, tmp_path, table_type).rows_stored == 0  # an empty file
    assert storage.count_rows([table_type])[0].problems == []


@pytest.mark.parametrize("table_type", SNAPSHOTS)
def test_of_lines_with_one_key_the_last_is_stored(
    storage: StorageEngine, tmp_path: Path, table_type: TableType
) -> None:
    first, second = LINES[table_type]
    report = load(storage, tmp_path, table_type, first | {"more": 1}, second, second, first)
    assert (report.lines_read, report.rows_stored, report.duplicates) == (4, 2, 2)
    assert "more" not in str(storage.execute_rows(f"SELECT * FROM {table_type}"))


@pytest.mark.parametrize("table_type", SNAPSHOTS)
def test_a_line_that_cannot_be_stored_is_rejected(
    storage: StorageEngine, tmp_path: Path, table_type: TableType
) -> None:
    load(storage, tmp_path, table_type, *LINES[table_type])
    good = storage.execute_rows(f"SELECT * FROM {table_type} ORDER BY ALL")
    line, reason = BAD[table_type]
    report = load(
        storage,
        tmp_path,
        table_type,
        line,
        *LINES[table_type],
        b"cut of",
        b'{"lone": "\\ud800", ',
        max_rejected_fraction=1,
    )
    assert (report.rows_stored, report.rejected) == (2, 3)
    # Read line by line, the good ones give the rows that they give at full speed.
    assert storage.execute_rows(f"SELECT * FROM {table_type} ORDER BY ALL") == good
    rejected = storage.execute_rows("SELECT table_name, file, line_number, reason FROM _rejected")
    assert rejected[0] == (table_type, "lines.jsonl", 1, reason)
    assert [number for _, _, number, _ in rejected] == [1, 4, 5]
    load(storage, tmp_path, table_type, *LINES[table_type])
    assert storage.execute_rows("FROM _rejected") == []


@pytest.mark.parametrize("table_type", SNAPSHOTS)
def test_a_refused_snapshot_leaves_the_old_one(
    storage: StorageEngine, tmp_path: Path, table_type: TableType
) -> None:
    load(storage, tmp_path, table_type, *LINES[table_type])
    before = contents(storage)
    with pytest.raises(RejectedLinesError, match=BAD[table_type][1]):
        load(storage, tmp_path, table_type, BAD[table_type][0], *LINES[table_type])
    with pytest.raises(StorageError, match="expected 9 lines, read 2"):
        load(storage, tmp_path, table_type, *LINES[table_type], expected_lines=9)
    assert contents(storage) == before


def test_groups_have_their_type_beside_what_profiles_have(
    storage: StorageEngine, tmp_path: Path
) -> None:
    load(
        storage,
        tmp_path,
        "groups",
        {"$distinct_id": "acme", "$properties": {"$last_seen": "2024-01-15T10:00:00", "n": 1}},
    )
    assert storage.execute_rows("FROM groups") == [
        ("acme", '{"n":1}', datetime(2024, 1, 15, 10), COMPANY["data_group_id"], "company's")
    ]


def test_several_tables_of_a_dataset(storage: StorageEngine, tmp_path: Path) -> None:
    metadata = TableMetadata("groups", FETCHED_AT)
    path = write_lines(tmp_path / "lines.jsonl", '{"$distinct_id": "a"}')
    for name in ("groups_company", "groups_account"):
        data = LabeledFile(path, {"data_group_id": name, "group_key": "key"})
        storage.replace_table(name, data, metadata, dataset="groups", owner="shop/groups")
    assert storage.list_snapshots("groups") == ["groups_account", "groups_company"]
    assert storage.list_snapshots("GROUPS_COMPANY") == []
    assert {load.table_name for load in storage.list_loads("groups")} == {
        "groups_company",
        "groups_account",
    }
    assert len(storage.read_tables(storage.list_snapshots("groups"))) == 2
    for dataset, owner in (("others", None), ("groups", "blog/groups")):
        with pytest.raises(TableExistsError, match="belongs to"):
            storage.replace_table("groups_company", data, metadata, dataset=dataset, owner=owner)
    storage.drop_table("groups_account")
    assert storage.list_snapshots("groups") == ["groups_company"]


def test_a_cohort(storage: StorageEngine, tmp_path: Path) -> None:
    odd = {"id": 2, "count": "many", "is_visible": None, "created": "never", "name": None}
    load(
        storage,
        tmp_path,
        "cohorts",
        {
            "id": 1000,
            "name": "Cohort One",
            "description": "The first",
            "count": 150,
            "is_visible": 1,
            "created": "2019-03-19 23:49:51",
            "project_id": 1,
        },
        odd,
        {"id": "3", "is_visible": False},
    )
    rows = {row[0]: row for row in storage.execute_rows("FROM cohorts")}
    assert rows[1000][5:] == (datetime(2019, 3, 19, 23, 49, 51), '{"project_id":1}')
    assert rows[1000][1:5] == ("Cohort One", "The first", 150, True)
    assert rows[2][1:6] == (None, None, None, None, None)
    assert json.loads(rows[2][6]) == {"count": "many", "is_visible": None, "created": "never"}
    assert rows[3][4] is False


@pytest.mark.parametrize(
    ("zone", "written", "day", "time"),
    [
        ("UTC", "2022-09-07 00:00:00", date(2022, 9, 7), datetime(2022, 9, 7)),
        ("Europe/Berlin", "2022-09-07 00:00:00", date(2022, 9, 7), datetime(2022, 9, 6, 22)),
        ("Europe/Berlin", "2022-01-07", date(2022, 1, 7), datetime(2022, 1, 6, 23)),
        ("America/New_York", "2022-09-07 21:30:00", date(2022, 9, 7), datetime(2022, 9, 8, 1, 30)),
        ("Europe/Berlin", "2022-09-07T23:00:00Z", date(2022, 9, 8), datetime(2022, 9, 7, 23)),
    ],
)
def test_the_date_of_an_annotation_is_in_the_projects_zone(
    storage: StorageEngine, tmp_path: Path, zone: str, written: str, day: date, time: datetime
) -> None:
    load(storage, tmp_path, "annotations", {"id": 1, "date": written}, wall_clock_zone=zone)
    assert storage.execute_rows("SELECT date, time FROM annotations") == [(day, time)]


def test_users_and_tags_of_annotations(storage: StorageEngine, tmp_path: Path) -> None:
    user = {"id": 1, "first_name": "Ada", "last_name": "Berger"}
    dated = {"date": "2022-09-07"}
    load(
        storage,
        tmp_path,
        "annotations",
        {"id": 1, "user": user, "tags": [{"id": 5, "name": "a"}, "b"], "description": "x"} | dated,
        {"id": 2, "user": {"id": 1}, "tags": []} | dated,
        {"id": 3, "user": "Ada", "tags": None} | dated,
        {"id": 4} | dated,
    )
    assert storage.execute_rows("SELECT user_name, tags FROM annotations ORDER BY id") == [
        ("Ada Berger", ["a", "b"]),
        (None, []),
        ("Ada", None),
        (None, None),
    ]
    ((properties,),) = storage.execute_rows("SELECT properties FROM annotations WHERE id = 1")
    assert json.loads(properties) == {"user": user, "tags": [{"id": 5, "name": "a"}, "b"]}


def test_a_schema_of_the_lexicon(storage: StorageEngine, tmp_path: Path) -> None:
    schema = {
        "description": "A user played a song.",
        "properties": {"$city": {"type": "string", "description": "Where."}},
        "metadata": {"com.mixpanel": {"displayName": "Song played", "tags": ["KPI"]}},
    }
    load(
        storage,
        tmp_path,
        "lexicon",
        {"entityType": "event", "name": "Song Played", "schemaJson": schema, "version": 1},
        {"entityType": "event", "name": "", "schemaJson": "?"},
        {"entityType": "group", "name": "Company"},
    )
    rows = {row[1]: row for row in storage.execute_rows("FROM lexicon")}
    *columns, properties = rows["Song Played"]
    assert columns == ["event", "Song Played", "Song played", "A user played a song."]
    assert json.loads(properties) == {"schemaJson": schema, "version": 1}
    assert rows[""] == ("event", "", None, None, '{"schemaJson":"?"}')
    assert rows["Company"] == ("group", "Company", None, None, "{}")


def test_members_of_several_cohorts(storage: StorageEngine, tmp_path: Path) -> None:
    files = [
        LabeledFile(
            write_lines(
                tmp_path / f"{cohort}.jsonl.gz",
                *(f'{{"$distinct_id": "{user}"}}' for user in users),
                *([] if cohort == 1 else [b"broken"]),
            ),
            {"cohort_id": str(cohort)},
        )
        for cohort, users in ((1, "abb"), (2, "bc"))
    ]
    metadata = TableMetadata("cohort_members", FETCHED_AT)
    report = storage.replace_table("members", files, metadata, max_rejected_fraction=1)
    assert (report.lines_read, report.rows_stored, report.duplicates) == (6, 4, 1)
    assert storage.execute_rows("FROM members ORDER BY ALL") == [
        (1, "a"),
        (1, "b"),
        (2, "b"),
        (2, "c"),
    ]
    assert storage.execute_rows("SELECT file, line_number FROM _rejected") == [("2.jsonl.gz", 3)]
    assert storage.replace_table("members", [], metadata).lost == 4  # a project without cohorts


@pytest.mark.parametrize(
    ("table_type", "labels"),
    [("groups", {}), ("cohort_members", COMPANY), ("cohorts", {"cohort_id": "1"})],
)
def test_labels_must_be_those_of_the_table(
    storage: StorageEngine, tmp_path: Path, table_type: TableType, labels: dict[str, str]
) -> None:
    data = LabeledFile(write_lines(tmp_path / "lines.jsonl", "{}"), labels)
    with pytest.raises(ValueError, match=r"lines\.jsonl has the labels .*; .* need "):
        storage.replace_table(table_type, data, TableMetadata(table_type, FETCHED_AT))


def test_only_events_and_profiles_come_as_records(storage: StorageEngine) -> None:
    with pytest.raises(ValueError, match="groups are loaded from files of JSON Lines"):
        storage.replace_table("groups", [profile()], TableMetadata("groups", FETCHED_AT))


def test_a_snapshot_has_no_dates(storage: StorageEngine) -> None:
    metadata = TableMetadata("annotations", FETCHED_AT, "2024-01-01", "2024-01-02")
    with pytest.raises(ValueError, match="annotations have no from_date and to_date"):
        storage.replace_table("annotations", [], metadata)


def test_the_filters_of_a_snapshot_are_recorded(storage: StorageEngine) -> None:
    metadata = TableMetadata(
        "profiles", FETCHED_AT, filter_where="plan", filter_properties=["$email", "it's"]
    )
    report = storage.replace_table("profiles", [profile()], metadata)
    assert storage.get_metadata("profiles") == metadata
    assert storage.list_loads("profiles") == [report]
    assert report.origin.filter_properties == ("$email", "it's")


@file_only
@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("ALTER TABLE cohort_members ADD COLUMN more INTEGER", "unexpected column more"),
        (
            "CREATE OR REPLACE TABLE cohort_members (cohort_id BIGINT NOT NULL, "
            "distinct_id VARCHAR PRIMARY KEY)",
            "the primary key is ['distinct_id'], not cohort_id, distinct_id",
        ),
    ],
)
def test_a_changed_schema_is_named(
    storage: StorageEngine, tmp_path: Path, statement: str, problem: str
) -> None:
    load(storage, tmp_path, "cohort_members", *LINES["cohort_members"])
    storage.connection.execute(statement)
    found = storage.schema_problems(["cohort_members"], "cohort_members")
    assert found == {"cohort_members": [problem]}

"""Typed tables in other tools; the code of docs/typed-tables.md, word for word on the sample."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import duckdb
import polars as pl
import pytest

from mp_pipeline.sample import events_of_day
from mp_pipeline.sample.lexicon import list_schemas
from mp_pipeline.storage import LabeledFile, StorageEngine, TableMetadata
from mp_pipeline_tests.support.databases import query_file
from mp_pipeline_tests.support.pages import blocks
from mp_pipeline_tests.support.processes import environment, run_python
from mp_pipeline_tests.support.records import (
    DAY,
    EVENTS,
    FETCHED_AT,
    NEXT_DAY,
    event,
    window,
    write_lines,
)
from mp_pipeline_tests.support.servers import EVENTS_PER_DAY
from mp_pipeline_tests.support.waiting import PATIENCE

PAGE = "typed-tables.md"
DATABASE = Path("data/sample.duckdb")
UNUSUAL_NAMES = ("select", "1st", "Покупка", 'Q"uote', "a/b.c", "")
UNUSUAL_VALUES = {"n": -(2**63), "x": 1e300, "yes": True, "day": "'\"\n\0 ☁️", "": [1, {"a": None}]}


def load(storage: StorageEngine, day: date, directory: Path) -> None:
    """Load a day of the sample project."""
    records = events_of_day(day, events_per_day=EVENTS_PER_DAY)
    file = write_lines(directory / "day.jsonl", *map(json.dumps, records))
    list(storage.replace_events_days("events", [window(day)], [file], EVENTS))


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the Lexicon and two typed days of the sample; the second day is stale."""
    path = tmp_path_factory.mktemp("project")
    (path / DATABASE.parent).mkdir()
    with StorageEngine(path / DATABASE) as storage:
        for day in (DAY, NEXT_DAY):
            load(storage, day, path)
            storage.type_events_day("events", day)
        load(storage, NEXT_DAY, path)
        lexicon = write_lines(path / "lexicon.jsonl", *map(json.dumps, list_schemas()))
        metadata = TableMetadata("lexicon", FETCHED_AT)
        storage.replace_table("lexicon", [LabeledFile(lexicon)], metadata)
        storage.comment_typed_tables("events")
    return path


def run_block(code: str, directory: Path) -> str:
    """Run code of the page, with warnings as errors, and return what it prints."""
    done = run_python(code, directory)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


def test_documented_queries(directory: Path) -> None:
    statements = [
        each for block in blocks("sql", PAGE) for each in block.split(";") if each.strip()
    ]
    assert len(statements) == 10
    for statement in statements:
        rows = query_file(directory / DATABASE, statement)
        if "map_contains" in statement:
            assert rows == []  # the sample has no such properties
        else:
            assert rows, statement
            assert None not in rows[0], statement


def test_documented_python_code(directory: Path) -> None:
    typing, drift, pandas, polars, parquet, _ = blocks("python", PAGE)
    assert re.fullmatch(rf"{NEXT_DAY} \d+ events typed\n", run_block(typing, directory))
    assert run_block(typing, directory) == ""  # nothing is stale any more
    assert run_block(drift, directory) == ""  # rare events are left out
    assert "2024-01-15" in run_block(pandas, directory)
    assert "2024-01-15" in run_block(polars, directory)
    run_block(parquet, directory)
    with duckdb.connect() as connection:
        for files, days in (("song_played.parquet", 2), ("page_view/*/*.parquet", 2)):
            found = connection.sql(f"SELECT count(DISTINCT day) FROM '{directory / files}'")
            assert found.fetchall() == [(days,)]


@pytest.mark.parametrize(
    ("page", "asset", "rows"),
    [(PAGE, "top_songs", 100), ("operations.md", "daily_users", 2)],
)
def test_a_dagster_asset(directory: Path, tmp_path: Path, page: str, asset: str, rows: int) -> None:
    database = tmp_path / "test.duckdb"
    shutil.copy(directory / DATABASE, database)
    (code,) = [each for each in blocks("python", page) if f"def {asset}" in each]
    (tmp_path / "my_definitions.py").write_text(code)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "dagster", "asset", "materialize"),
            *("-m", "my_definitions", "--select", asset),
        ],
        cwd=tmp_path,
        env=environment(MP_PIPELINE_DATABASE=str(database)),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert query_file(database, f"SELECT count(*) FROM {asset}") == [(rows,)]


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[StorageEngine, list[str]]]:
    """A database, and its typed tables: those of the sample, and ones with unusual content."""
    with StorageEngine.memory() as storage:
        load(storage, DAY, tmp_path_factory.mktemp("sample"))
        storage.type_events_day("events", DAY)
        midnight = window(NEXT_DAY).start
        records = [
            event(f"{name} {number}", midnight, event_name=name, properties=properties)
            for name in UNUSUAL_NAMES
            for number, properties in enumerate([UNUSUAL_VALUES, {"n": None}, {}])
        ]
        records.append(event("bare", midnight, event_name="Without Properties"))
        list(storage.replace_events_days("events", [window(NEXT_DAY)], records, EVENTS))
        storage.type_events_day("events", NEXT_DAY)
        described = storage.describe_events("events")
        names = [each.table_name.removeprefix("event.") for each in described]
        assert len(names) >= 4 + len(UNUSUAL_NAMES)
        yield storage, [f'event."{name}"' for name in names]


def test_polars_reads_every_table(tables: tuple[StorageEngine, list[str]]) -> None:
    storage, names = tables
    for name in names:
        query = f"FROM {name} ORDER BY insert_id"
        assert pl.DataFrame(storage.connection.sql(query)).rows() == storage.execute_rows(query), (
            name
        )


def test_pandas_reads_every_table(tables: tuple[StorageEngine, list[str]]) -> None:
    storage, names = tables
    for name in names:
        query = f"FROM {name} ORDER BY insert_id"
        frame = storage.execute_df(query)
        rows = storage.execute_rows(query)
        found = frame.astype(object).where(frame.notna(), None)
        assert [
            (day.date(), *row) for day, *row in found.itertuples(index=False, name=None)
        ] == rows


def test_every_table_can_be_copied_to_parquet(
    tables: tuple[StorageEngine, list[str]], tmp_path: Path
) -> None:
    storage, names = tables
    for number, name in enumerate(names):
        file = tmp_path / f"{number}.parquet"
        storage.execute(f"COPY {name} TO '{file}'")
        rows = storage.execute_rows(f"FROM {name} ORDER BY insert_id")
        assert storage.execute_rows(f"FROM '{file}' ORDER BY insert_id") == rows, name
        frame = pl.read_parquet(file).with_columns(pl.col(pl.Binary).cast(pl.String))
        assert frame.sort("insert_id").rows() == rows, name

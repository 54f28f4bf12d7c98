"""The questions of docs/analysis.md: each query gives the results that the page shows."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest

from mp_pipeline.sample import events_of_day, profiles_as_of
from mp_pipeline.storage import LabeledFile, StorageEngine, TableMetadata
from mp_pipeline_tests.support.pages import DOCS, blocks
from mp_pipeline_tests.support.processes import run_python
from mp_pipeline_tests.support.records import EVENTS, window, write_lines

MARCH = [date(2024, 3, day) for day in range(1, 32)]
TYPED_DAYS = MARCH[:7]
SNAPSHOTS = (date(2024, 2, 29), date(2024, 3, 31))
DATABASE = "data/sample.duckdb"
QUESTIONS = dict(
    re.findall(
        r"^## (\d+\. .*?)\n(.*?)(?=^## )",
        (DOCS / "analysis.md").read_text(),
        re.DOTALL | re.MULTILINE,
    )
)
"""The sections with a question, by their titles."""


@pytest.fixture(scope="module")
def connection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[duckdb.DuckDBPyConnection]:
    """The sample project in March 2024, with metrics made by the code of the page."""
    directory = tmp_path_factory.mktemp("project")
    with StorageEngine(directory / DATABASE) as storage:
        records = [record for day in MARCH for record in events_of_day(day)]
        file = write_lines(directory / "events.jsonl", *map(json.dumps, records))
        list(storage.replace_events_days("events", list(map(window, MARCH)), [file], EVENTS))
        for day in TYPED_DAYS:
            storage.type_events_day("events", day)
        for day in SNAPSHOTS:
            load_profiles(storage, day, directory)
            storage.update_profile_history("profiles")
    (code,) = blocks("python", "analysis.md")
    done = run_python(code, directory)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    with duckdb.connect(str(directory / DATABASE), read_only=True) as connection:
        yield connection


def load_profiles(storage: StorageEngine, day: date, directory: Path) -> None:
    """Load the snapshot of profiles from the end of a day."""
    file = write_lines(directory / "profiles.jsonl", *map(json.dumps, profiles_as_of(day)))
    taken_at = datetime.combine(day + timedelta(days=1), time(), UTC)
    storage.replace_table("profiles", [LabeledFile(file)], TableMetadata("profiles", taken_at))


def as_table(connection: duckdb.DuckDBPyConnection, statement: str) -> str:
    """Return the result of a query as a table in Markdown."""
    result = connection.execute(statement)
    names = [name for name, *_ in result.description]
    rows = [[as_text(value) for value in row] for row in result.fetchall()]
    lines = [names, ["---"] * len(names), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def as_text(value: Any) -> str:
    return "NULL" if value is None else str(value)


def test_there_are_ten_questions() -> None:
    assert [int(title.partition(".")[0]) for title in QUESTIONS] == list(range(1, 11))


@pytest.mark.parametrize("title", QUESTIONS)
def test_a_question(connection: duckdb.DuckDBPyConnection, title: str) -> None:
    text = QUESTIONS[title]
    answers = re.findall(r"^```sql\n([^`]+)^```\n\n((?:\|.*\n)+)", text, re.MULTILINE)
    assert len(answers) == text.count("```sql") > 0
    for query, shown in answers:
        assert as_table(connection, query) == shown

"""Lines in the log during a long statement."""

import logging
import re
import threading
from pathlib import Path

import duckdb
import pytest

from mp_pipeline.storage import StorageEngine, TableMetadata
from mp_pipeline.storage.progress import logged_progress
from mp_pipeline_tests.support.records import DAY, FETCHED_AT, export_line, window, write_lines


def test_a_long_statement_says_how_far_it_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "mp_pipeline")
    percentage_logged = threading.Event()

    def note(record: logging.LogRecord) -> bool:
        if "%" in record.getMessage():
            percentage_logged.set()
        return True

    def slow(row: int) -> int:
        if row % 1000 == 0:
            percentage_logged.wait(0.02)
        return row

    caplog.handler.addFilter(note)
    with StorageEngine(tmp_path / "test.duckdb") as storage:
        session = storage.connection.cursor()
        session.execute("SET enable_progress_bar_print = false; SET enable_progress_bar = true")
        session.execute("CREATE TABLE numbers AS SELECT range AS n FROM range(500_000)")
        session.create_function("slow", slow, ["BIGINT"], "BIGINT", side_effects=True)
        with logged_progress(session, "adding up", seconds=0.1):
            session.execute("SELECT sum(slow(n)) FROM numbers").fetchall()
    for message in caplog.messages:
        assert re.fullmatch(r"adding up: (\d+ % after )?\d+ s", message)
    assert percentage_logged.is_set()


def test_it_ends_with_the_statement_even_if_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "mp_pipeline")
    logged = threading.Event()

    def note(_: logging.LogRecord) -> bool:
        logged.set()
        return True

    caplog.handler.addFilter(note)

    def fail() -> None:
        with (
            duckdb.connect() as connection,
            logged_progress(connection, "nonsense", seconds=0.01),
        ):
            assert logged.wait(60)
            connection.execute("SELEC 1")

    with pytest.raises(duckdb.ParserException):
        fail()
    lines = len(caplog.messages)
    assert "mp_pipeline progress" not in [thread.name for thread in threading.enumerate()]
    assert len(caplog.messages) == lines > 0
    assert all(message.startswith("nonsense: ") for message in caplog.messages)


def test_a_short_load_says_nothing_and_draws_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO, "mp_pipeline")
    with StorageEngine(tmp_path / "test.duckdb") as storage:
        list(
            storage.replace_events_days(
                "events",
                [window(DAY)],
                write_lines(tmp_path / "day.jsonl", export_line()),
                TableMetadata("events", FETCHED_AT),
            )
        )
    assert caplog.messages == []
    assert capfd.readouterr() == ("", "")

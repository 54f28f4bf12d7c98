"""Checks that run by themselves over many days: their results, and what they cost."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from mp_pipeline.resources import MixpanelDuckDBResource
from mp_pipeline.storage import StorageEngine, TableMetadata, day_table_name
from mp_pipeline_tests.support.dagster import Run, materialize, resources
from mp_pipeline_tests.support.databases import tamper
from mp_pipeline_tests.support.project import checks, events
from mp_pipeline_tests.support.records import FETCHED_AT, event, window

FIRST = date(2024, 1, 1)
CHECKS = [each for each in checks if each.check_key.asset_key == events.key]


class LoggingDuckDBResource(MixpanelDuckDBResource):
    """A database that has DuckDB log its statements."""

    log: str
    """The file that the number of statements of each opening is appended to."""

    @contextmanager
    def get_engine(self, read_only: bool = False) -> Iterator[StorageEngine]:
        """Open the database, and count the statements of the block."""
        with super().get_engine(read_only) as engine:
            engine.connection.execute("CALL enable_logging('QueryLog')")
            yield engine
            count = engine.execute_scalar(
                "SELECT count(*) FROM duckdb_logs() WHERE type = 'QueryLog'"
            )
        with Path(self.log).open("a") as file:
            file.write(f"{count}\n")


def load_days(directory: Path, count: int) -> None:
    """Load one day, and copy its table and what is recorded of it to the days that follow."""
    template = day_table_name("events", FIRST)
    names = [day_table_name("events", FIRST + timedelta(days=n)) for n in range(1, count)]
    others = f"range({count} - 1) others(number)"
    name = f"strftime(DATE '{FIRST}' + number::INT + 1, 'events_%Y%m%d') AS table_name"
    day = f"DATE '{FIRST}' + number::INT + 1"
    with StorageEngine(directory / "test.duckdb") as engine:
        records = [event(event_time=datetime.combine(FIRST, datetime.min.time()))]
        metadata = TableMetadata("events", FETCHED_AT)
        list(engine.replace_events_days("events", [window(FIRST)], records, metadata))
        ddl = engine.execute_scalar(
            f"SELECT sql FROM duckdb_tables() WHERE table_name = '{template}'"
        )
    tamper(
        directory,
        "BEGIN",
        *(f"{ddl.replace(template, copy)}; INSERT INTO {copy} FROM {template}" for copy in names),
        f"INSERT INTO _metadata SELECT m.* REPLACE ({name}, {day} AS from_date, {day} AS to_date) "
        f"FROM _metadata m, {others}",
        *(
            f"INSERT INTO {recorded} SELECT r.* REPLACE ({name}, {day} AS day) "
            f"FROM {recorded} r, {others}"
            for recorded in ("_tables", "_load_log")
        ),
        "COMMIT",
    )


def judge(directory: Path) -> tuple[Run, list[int]]:
    """Run the checks of the events by themselves, and return their numbers of statements too."""
    log = directory / "statements.txt"
    available = resources(directory)
    available["duckdb"] = LoggingDuckDBResource(
        database=str(directory / "test.duckdb"), log=str(log)
    )
    run = materialize([events, *CHECKS], available, only=dg.AssetSelection.checks(*CHECKS))
    return run, [int(line) for line in log.read_text().splitlines()]


def test_checks_take_the_same_statements_for_any_number_of_days(tmp_path: Path) -> None:
    counts = []
    for days in (3, 120):
        directory = tmp_path / str(days)
        directory.mkdir()
        load_days(directory, days)
        run, statements = judge(directory)
        counts.append(statements)
        for name in ("row_count", "schema"):
            assert run.checks[name].passed
            assert run.checks[name].metadata["tables"].value == days
        assert run.checks["no_gaps"].passed
        assert run.checks["consistent_settings"].passed
    few, many = counts
    assert len(few) == len(CHECKS)
    assert many == few


@pytest.mark.parametrize("number", [0, 60, 119])
def test_one_damaged_day_of_many_is_found(tmp_path: Path, number: int) -> None:
    load_days(tmp_path, 120)
    table = day_table_name("events", FIRST + timedelta(days=number))
    tamper(tmp_path, f"DELETE FROM {table}", f"ALTER TABLE {table} ADD COLUMN city VARCHAR")
    run, _ = judge(tmp_path)
    assert (run.checks["row_count"].description or "").startswith(f"{table}: ")
    assert run.checks["row_count"].metadata["failed"].value == 1
    assert run.checks["schema"].description == f"{table}: unexpected column city"
    assert run.checks["schema"].metadata["failed"].value == 1

"""A lake in an S3 server: its keys, and what happens while the server is away."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mp_pipeline.storage import S3, Lake, StorageEngine, StorageError
from mp_pipeline_tests.support.postgres import Database
from mp_pipeline_tests.support.records import DAY, EVENTS, event, window
from mp_pipeline_tests.support.s3 import REGION, S3Server
from mp_pipeline_tests.support.waiting import PATIENCE, wait_until

BUCKET = "mixpanel"
ROWS = 100
"""More rows than a lake keeps in its catalog instead of a file."""


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with S3Server() as running:
        running.create_bucket(BUCKET)
        yield running


@pytest.fixture
def lake(
    server: S3Server, postgres: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Lake:
    """An empty lake."""
    monkeypatch.setenv("PGPASSWORD", postgres.password)
    parameters = f"dbname={postgres.name} host={postgres.host} port={postgres.port}"
    return Lake.parse(
        f"ducklake:postgres:{parameters} user={postgres.user}",
        f"s3://{BUCKET}/{postgres.name}/",
        tmp_path,
        S3(server.url, REGION, server.key_id, server.secret),
    )


def load(lake: Lake) -> None:
    """Load a day."""
    records = [event(str(number)) for number in range(ROWS)]
    with StorageEngine(lake) as storage:
        list(storage.replace_events_days("events", [window()], records, EVENTS))


def count_rows(lake: Lake) -> int:
    with StorageEngine(lake, read_only=True) as storage:
        (counts,) = storage.count_rows([f"events_{DAY:%Y%m%d}"])
        assert counts.problems == []
        return counts.rows or 0


def test_a_day_is_replaced(lake: Lake) -> None:
    for _ in range(2):
        load(lake)
        assert count_rows(lake) == ROWS


def test_a_load_waits_while_the_server_is_away(
    lake: Lake, server: S3Server, caplog: pytest.LogCaptureFixture
) -> None:
    load(lake)
    server.stop()
    try:
        loading = threading.Thread(target=load, args=(lake,))
        loading.start()
        wait_until(lambda: "is repeated" in caplog.text)
    finally:
        server.start()
    loading.join(PATIENCE)
    assert count_rows(lake) == ROWS
    with StorageEngine(lake, read_only=True) as storage:
        assert len(storage.execute_rows("FROM _load_log")) == 2


def test_a_wrong_key_is_refused_at_once(
    lake: Lake, server: S3Server, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = Lake(
        lake.catalog,
        lake.data_path,
        lake.scratch,
        S3(server.url, REGION, server.key_id, "a wrong secret"),
    )
    with pytest.raises(StorageError, match="HTTP 403") as caught:
        load(wrong)
    assert "is repeated" not in caplog.text
    assert "a wrong secret" not in str(caught.value) + caplog.text

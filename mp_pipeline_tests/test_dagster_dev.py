"""A real `dagster dev`: a backfill over GraphQL, and what the UI then shows."""

import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mp_pipeline.sample import events_of_day
from mp_pipeline.storage import StorageEngine
from mp_pipeline_tests.faults import Fault, FaultyServer
from mp_pipeline_tests.support.files import REPOSITORY
from mp_pipeline_tests.support.graphql import BACKFILL_SECONDS, Webserver, dagster_dev
from mp_pipeline_tests.support.servers import credentials
from mp_pipeline_tests.support.waiting import wait_until

DAYS = ["2024-03-10", "2024-03-11", "2024-03-12"]


@dataclass(frozen=True)
class Dev(Webserver):
    """A running `dagster dev`."""

    directory: Path
    server: FaultyServer


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    directory = tmp_path_factory.mktemp("dev")
    for name in ("pyproject.toml", "workspace.yaml", "dagster.yaml"):
        shutil.copy(REPOSITORY / name, directory)
    with (
        FaultyServer() as server,
        dagster_dev(directory, credentials(server) | {"MP_PIPELINE_METRICS": "false"}) as webserver,
    ):
        yield Dev(webserver.url, directory, server)


@pytest.fixture(scope="module")
def backfill(dev: Dev) -> dict[str, Any]:
    """A finished backfill of three days, whose first request met the rate limit."""
    dev.server.faults.append(Fault("status", status=429, retry_after=1))
    backfill_id = dev.launch_backfill("events", DAYS)
    wait_until(
        lambda: dev.backfill(backfill_id)["status"] != "REQUESTED",
        BACKFILL_SECONDS,
        (dev.directory / "dev.log").read_text,
        every=1,
    )
    return dev.backfill(backfill_id)


def test_backfill_succeeds_in_one_run(backfill: dict[str, Any]) -> None:
    assert backfill["status"] == "COMPLETED_SUCCESS", backfill
    assert [run["status"] for run in backfill["runs"]] == ["SUCCESS"]


@pytest.mark.usefixtures("backfill")
def test_one_export_a_day(dev: Dev) -> None:
    exports = [request for request in dev.server.requests if request.path.endswith("/export")]
    assert [(request.query["from_date"], request.status) for request in exports] == [
        (DAYS[0], 429),
        *((day, 200) for day in DAYS),
    ]
    assert all(request.has_authorization for request in exports)


def test_the_runs_log_says_what_happened(dev: Dev, backfill: dict[str, Any]) -> None:
    messages = dev.messages(backfill["runs"][0]["runId"])
    (retry,) = [message for message in messages if "trying again" in message]
    assert "export of 2024-03-10 failed: status 429" in retry
    for day in DAYS:
        table = f"events_{day.replace('-', '')}"
        assert any(message.startswith(f"{table}: ") for message in messages)


@pytest.mark.usefixtures("backfill")
def test_rows_are_those_of_the_project(dev: Dev) -> None:
    with StorageEngine.open_existing(dev.directory / "data/mixpanel.duckdb") as storage:
        for info in storage.list_days("events"):
            expected = {
                (event["event"], event["properties"]["$insert_id"])
                for event in events_of_day(info.day)
            }
            rows = storage.execute_rows(f"SELECT event_name, insert_id FROM {info.table_name}")
            assert len(rows) == info.row_count
            assert set(rows) == expected
        assert [str(info.day) for info in storage.list_days("events")] == DAYS


@pytest.mark.usefixtures("backfill")
def test_partitions_metadata_and_checks_are_shown(dev: Dev) -> None:
    (node,) = dev.query(
        """
        {
            assetNodes(assetKeys: [{path: ["events"]}]) {
                partitionStats { numMaterialized numFailed }
                assetMaterializations {
                    partition
                    metadataEntries {
                        label
                        ... on IntMetadataEntry { intValue }
                        ... on TextMetadataEntry { text }
                    }
                }
                assetChecksOrError {
                    ... on AssetChecks {
                        checks {
                            name
                            executionForLatestMaterialization {
                                evaluation { success }
                            }
                        }
                    }
                }
            }
        }
        """
    )["assetNodes"]
    assert node["partitionStats"] == {"numMaterialized": 3, "numFailed": 0}
    shown = {
        materialization["partition"]: {
            entry["label"]: entry.get("intValue", entry.get("text"))
            for entry in materialization["metadataEntries"]
        }
        for materialization in node["assetMaterializations"]
    }
    assert sorted(shown) == DAYS
    with StorageEngine.open_existing(dev.directory / "data/mixpanel.duckdb") as storage:
        for info in storage.list_days("events"):
            metadata = shown[str(info.day)]
            assert metadata["dagster/partition_row_count"] == info.row_count
            assert metadata["dagster/table_name"] == info.table_name
            assert metadata["lines_read"] == info.row_count + metadata["duplicates"]
            assert metadata["source"] == f"project {dev.server.project_id}"
    checks = node["assetChecksOrError"]["checks"]
    passed = {
        check["name"]: check["executionForLatestMaterialization"]["evaluation"]["success"]
        for check in checks
    }
    # Yesterday is not there.
    assert passed == {
        "row_count": True,
        "schema": True,
        "consistent_settings": True,
        "latest_day": False,
        "no_gaps": True,
        "volume": True,
    }


@pytest.mark.usefixtures("backfill")
def test_loaded_days_are_typed_by_themselves(dev: Dev) -> None:
    wait_until(
        lambda: dev.partition_counts("typed_events")["numMaterialized"] == len(DAYS),
        BACKFILL_SECONDS,
        (dev.directory / "dev.log").read_text,
        every=1,
    )
    with StorageEngine.open_existing(dev.directory / "data/mixpanel.duckdb") as storage:
        typed = storage.list_typed_days("events")
        assert [(str(day.day), day.is_stale) for day in typed] == [(day, False) for day in DAYS]


@pytest.mark.usefixtures("backfill")
def test_the_secret_is_in_no_file_of_the_instance(dev: Dev) -> None:
    secret = dev.server.secret.encode()
    contents = {}
    for path in dev.directory.rglob("*"):
        with suppress(FileNotFoundError, IsADirectoryError):  # the sensor's run may end meanwhile
            contents[path] = path.read_bytes()
    assert any(path.suffix == ".db" for path in contents)
    assert [path for path, content in contents.items() if secret in content] == []


@pytest.mark.usefixtures("backfill")
def test_it_starts_and_runs_without_warnings(dev: Dev) -> None:
    log = (dev.directory / "dev.log").read_text()
    assert "Serving dagster-webserver" in log
    expected = (
        "is superseded",  # Dagster's newer command is `dg dev`
        "No cursor for event type",  # the daemon's first start on a new instance
        "failed: status 429",  # the fault of the test
    )
    warnings = [line for line in log.splitlines() if "WARN" in line.upper()]
    assert [line for line in warnings if not any(text in line for text in expected)] == []

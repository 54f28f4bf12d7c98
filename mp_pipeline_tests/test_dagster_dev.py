"""A real `dagster dev`: a backfill over GraphQL, and what the UI then shows."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from mp_pipeline.sample import Fault, SampleServer, events_of_day
from mp_pipeline.storage import StorageEngine
from mp_pipeline_tests.loopback import unused_port

PROJECT = Path(__file__).parent.parent
DAYS = ["2024-03-10", "2024-03-11", "2024-03-12"]
START_SECONDS = 90
BACKFILL_SECONDS = 240


@dataclass
class Dev:
    """A running `dagster dev`."""

    url: str
    folder: Path
    server: SampleServer

    def query(self, query: str, **variables: Any) -> dict[str, Any]:
        answer = requests.post(
            f"{self.url}/graphql", json={"query": query, "variables": variables}, timeout=30
        ).json()
        assert "errors" not in answer, answer
        data: dict[str, Any] = answer["data"]
        return data

    def is_up(self) -> bool:
        try:
            workspace = self.query(
                "{ workspaceOrError { ... on Workspace { locationEntries { loadStatus } } } }"
            )
        except requests.ConnectionError:
            return False
        entries = workspace["workspaceOrError"]["locationEntries"]
        return [entry["loadStatus"] for entry in entries] == ["LOADED"]


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    folder = tmp_path_factory.mktemp("dev")
    for name in ("pyproject.toml", "workspace.yaml", "dagster.yaml"):
        shutil.copy(PROJECT / name, folder)
    with SampleServer() as server, (folder / "dev.log").open("wb") as log:
        env = {name: value for name, value in os.environ.items() if name != "DAGSTER_HOME"} | {
            "MIXPANEL_PROJECT_ID": server.project_id,
            "MIXPANEL_SERVICE_ACCOUNT_USERNAME": server.username,
            "MIXPANEL_SERVICE_ACCOUNT_SECRET": server.secret,
            "MIXPANEL_EXPORT_URL": server.export_url,
            "MIXPANEL_QUERY_URL": server.query_url,
        }
        port = unused_port()
        process = subprocess.Popen(
            [sys.executable, "-m", "dagster", "dev", "--port", str(port)],
            cwd=folder,
            env=env,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        running = Dev(f"http://127.0.0.1:{port}", folder, server)
        try:
            deadline = time.monotonic() + START_SECONDS
            while not running.is_up():
                assert process.poll() is None, (folder / "dev.log").read_text()
                assert time.monotonic() < deadline, (folder / "dev.log").read_text()
                time.sleep(0.5)
            yield running
        finally:
            process.terminate()
            try:
                process.wait(30)
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()


@pytest.fixture(scope="module")
def backfill(dev: Dev) -> dict[str, Any]:
    """A finished backfill of three days, whose first request met the rate limit."""
    dev.server.faults.append(Fault("status", status=429, retry_after=1))
    launched = dev.query(
        """
        mutation($backfill: LaunchBackfillParams!) {
            launchPartitionBackfill(backfillParams: $backfill) {
                ... on LaunchBackfillSuccess { backfillId }
                ... on PythonError { message }
            }
        }
        """,
        backfill={"assetSelection": [{"path": ["events"]}], "partitionNames": DAYS},
    )
    backfill_id = launched["launchPartitionBackfill"]["backfillId"]
    deadline = time.monotonic() + BACKFILL_SECONDS
    while True:
        state: dict[str, Any] = dev.query(
            """
            query($id: String!) {
                partitionBackfillOrError(backfillId: $id) {
                    ... on PartitionBackfill { status error { message } runs { runId status } }
                }
            }
            """,
            id=backfill_id,
        )["partitionBackfillOrError"]
        if state["status"] != "REQUESTED":
            return state
        assert time.monotonic() < deadline, (dev.folder / "dev.log").read_text()
        time.sleep(1)


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
    events = dev.query(
        """
        query($id: ID!) {
            logsForRun(runId: $id) {
                ... on EventConnection { events { ... on MessageEvent { message } } }
            }
        }
        """,
        id=backfill["runs"][0]["runId"],
    )["logsForRun"]["events"]
    messages = [event["message"] for event in events if "message" in event]
    (retry,) = [message for message in messages if "trying again" in message]
    assert "export of 2024-03-10 failed: status 429" in retry
    for day in DAYS:
        table = f"events_{day.replace('-', '')}"
        assert any(message.startswith(f"{table}: ") for message in messages)


@pytest.mark.usefixtures("backfill")
def test_rows_are_those_of_the_project(dev: Dev) -> None:
    with StorageEngine.open_existing(dev.folder / "data/mixpanel.duckdb") as storage:
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
    with StorageEngine.open_existing(dev.folder / "data/mixpanel.duckdb") as storage:
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
        "latest_day": False,
        "no_gaps": True,
        "volume": True,
    }


@pytest.mark.usefixtures("backfill")
def test_the_secret_is_in_no_file_of_the_instance(dev: Dev) -> None:
    secret = dev.server.secret.encode()
    files = [path for path in dev.folder.rglob("*") if path.is_file()]
    assert any(path.suffix == ".db" for path in files)
    assert [path for path in files if secret in path.read_bytes()] == []

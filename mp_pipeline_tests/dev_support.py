"""What the tests of a running Dagster share: its processes, and what it answers over GraphQL."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from mp_pipeline_tests.dagster_support import environment
from mp_pipeline_tests.loopback import unused_port

PROJECT = Path(__file__).parent.parent
START_SECONDS = 90
BACKFILL_SECONDS = 240


@dataclass(frozen=True)
class Webserver:
    """The UI's API."""

    url: str

    def query(self, query: str, **variables: Any) -> dict[str, Any]:
        """The data that a query gives; errors are none of it."""
        answer = requests.post(
            f"{self.url}/graphql", json={"query": query, "variables": variables}, timeout=30
        ).json()
        assert "errors" not in answer, answer
        data: dict[str, Any] = answer["data"]
        return data

    def is_up(self) -> bool:
        """Whether it answers and has loaded the definitions."""
        try:
            workspace = self.query(
                "{ workspaceOrError { ... on Workspace { locationEntries { loadStatus"
                " locationOrLoadError { __typename } } } } }"
            )
        except requests.ConnectionError:
            return False
        entries = workspace["workspaceOrError"]["locationEntries"]
        return [
            (entry["loadStatus"], (entry["locationOrLoadError"] or {}).get("__typename"))
            for entry in entries
        ] == [("LOADED", "RepositoryLocation")]

    def launch_backfill(self, asset: str, days: Sequence[str]) -> str:
        """Ask for a backfill, as the UI does; gives its id."""
        launched = self.query(
            """
            mutation($backfill: LaunchBackfillParams!) {
                launchPartitionBackfill(backfillParams: $backfill) {
                    __typename
                    ... on LaunchBackfillSuccess { backfillId }
                    ... on PythonError { message }
                }
            }
            """,
            backfill={"assetSelection": [{"path": [asset]}], "partitionNames": list(days)},
        )["launchPartitionBackfill"]
        assert "backfillId" in launched, launched
        backfill_id: str = launched["backfillId"]
        return backfill_id

    def backfill(self, backfill_id: str) -> dict[str, Any]:
        """The state of a backfill, and its runs."""
        state: dict[str, Any] = self.query(
            """
            query($id: String!) {
                partitionBackfillOrError(backfillId: $id) {
                    ... on PartitionBackfill { status error { message } runs { runId status } }
                }
            }
            """,
            id=backfill_id,
        )["partitionBackfillOrError"]
        return state

    def launch_run(self, asset: str, day: str | None = None) -> str:
        """Ask for a run, of one day if the asset has days, as the UI does; gives its id."""
        tags = [] if day is None else [{"key": "dagster/partition", "value": day}]
        launched = self.query(
            """
            mutation($execution: ExecutionParams!) {
                launchRun(executionParams: $execution) {
                    __typename
                    ... on LaunchRunSuccess { run { runId } }
                    ... on PythonError { message }
                }
            }
            """,
            execution={
                "selector": {
                    "repositoryName": "__repository__",
                    "repositoryLocationName": "mp_pipeline",
                    "jobName": "__ASSET_JOB",
                    "assetSelection": [{"path": [asset]}],
                },
                "executionMetadata": {"tags": tags},
            },
        )["launchRun"]
        assert "run" in launched, launched
        run_id: str = launched["run"]["runId"]
        return run_id

    def run_status(self, run_id: str) -> str:
        """The status of a run."""
        status: str = self.query(
            "query($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }", id=run_id
        )["runOrError"]["status"]
        return status

    def partition_counts(self, asset: str) -> dict[str, int]:
        """How many partitions of an asset are there, and how many failed."""
        (node,) = self.query(
            """
            query($keys: [AssetKeyInput!]) {
                assetNodes(assetKeys: $keys) { partitionStats { numMaterialized numFailed } }
            }
            """,
            keys=[{"path": [asset]}],
        )["assetNodes"]
        counts: dict[str, int] = node["partitionStats"]
        return counts

    def messages(self, run_id: str) -> list[str]:
        """The messages of a run's log."""
        events = self.query(
            """
            query($id: ID!) {
                logsForRun(runId: $id) {
                    ... on EventConnection { events { ... on MessageEvent { message } } }
                }
            }
            """,
            id=run_id,
        )["logsForRun"]["events"]
        return [event["message"] for event in events if "message" in event]


def wait_until(
    condition: Callable[[], bool], seconds: float, explain: Callable[[], str], every: float = 0.5
) -> None:
    """Wait for a condition; explain why the test fails if it does not come true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, explain()
        time.sleep(every)


@contextmanager
def process(
    command: Sequence[str], directory: Path, variables: Mapping[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a group of its own, which ends with it."""
    with log.open("ab") as output:
        started = subprocess.Popen(
            list(command),
            cwd=directory,
            env=environment(**variables),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield started
    finally:
        started.terminate()
        try:
            started.wait(30)
        finally:
            if started.poll() is None:
                os.killpg(started.pid, signal.SIGKILL)
                started.wait()


@contextmanager
def dagster_dev(directory: Path, variables: Mapping[str, str]) -> Iterator[Webserver]:
    """A `dagster dev` in a directory that holds the project's files; its log is `dev.log` there."""
    port = unused_port()
    log = directory / "dev.log"
    command = [sys.executable, "-m", "dagster", "dev", "--port", str(port)]
    with process(command, directory, variables, log) as dev:
        webserver = Webserver(f"http://127.0.0.1:{port}")

        def is_up() -> bool:
            assert dev.poll() is None, log.read_text()
            return webserver.is_up()

        wait_until(is_up, START_SECONDS, log.read_text)
        yield webserver

"""A running Dagster: its processes, and its GraphQL API."""

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from mp_pipeline_tests.support.processes import process
from mp_pipeline_tests.support.servers import unused_port
from mp_pipeline_tests.support.waiting import PATIENCE, wait_until

START_SECONDS = 240
BACKFILL_SECONDS = 240


@dataclass(frozen=True)
class RunInfo:
    """A run as the UI shows it.

    Attributes:
        run_id: The ID.
        status: The status.
        started: When it started, in seconds since 1970; None before.
        ended: When it ended; None before.
        tags: The tags, without Dagster's hidden ones.
    """

    run_id: str
    status: str
    started: float | None
    ended: float | None
    tags: dict[str, str]


@dataclass(frozen=True)
class Webserver:
    """The GraphQL API of a Dagster webserver.

    Args:
        url: The URL of the UI.
        location: The name of the code location.
    """

    url: str
    location: str = field(default="mp_pipeline", kw_only=True)

    def post(self, query: str, **variables: Any) -> str:
        """Return the response to a query as text. It must not be an error."""
        response = requests.post(
            f"{self.url}/graphql", json={"query": query, "variables": variables}, timeout=PATIENCE
        ).text
        assert "errors" not in json.loads(response), response
        return response

    def query(self, query: str, **variables: Any) -> dict[str, Any]:
        """Return the data of the response to a query."""
        data: dict[str, Any] = json.loads(self.post(query, **variables))["data"]
        return data

    def is_up(self) -> bool:
        """Return whether the webserver answers and has loaded its code location."""
        try:
            workspace = self.query(
                "{ workspaceOrError { ... on Workspace { locationEntries { loadStatus"
                " locationOrLoadError { __typename } } } } }"
            )
        except (requests.ConnectionError, requests.Timeout):
            return False
        entries = workspace["workspaceOrError"]["locationEntries"]
        return [
            (entry["loadStatus"], (entry["locationOrLoadError"] or {}).get("__typename"))
            for entry in entries
        ] == [("LOADED", "RepositoryLocation")]

    def launch_backfill(self, asset: str, days: Sequence[str]) -> str:
        """Launch a backfill, as the UI does, and return its id."""
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
        """Return the status, the error and the runs of a backfill."""
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

    def list_runs(self, **tags: str) -> list[RunInfo]:
        """Return the runs with these tags, oldest first."""
        results = self.query(
            """
            query($filter: RunsFilter!) {
                runsOrError(filter: $filter) {
                    ... on Runs {
                        results { runId status startTime endTime tags { key value } }
                    }
                }
            }
            """,
            filter={"tags": [{"key": key, "value": value} for key, value in tags.items()]},
        )["runsOrError"]["results"]
        return [
            RunInfo(
                run["runId"],
                run["status"],
                run["startTime"],
                run["endTime"],
                {tag["key"]: tag["value"] for tag in run["tags"]},
            )
            for run in reversed(results)
        ]

    def terminate_run(self, run_id: str) -> None:
        """Terminate a run, as the UI does."""
        terminated = self.query(
            """
            mutation($id: String!) {
                terminateRun(runId: $id) {
                    __typename
                    ... on TerminateRunFailure { message }
                    ... on PythonError { message }
                }
            }
            """,
            id=run_id,
        )["terminateRun"]
        assert terminated["__typename"] == "TerminateRunSuccess", terminated

    def launch_run(self, asset: str, day: str | None = None, **tags: str) -> str:
        """Launch a run of an asset, as the UI does, and return its id.

        Args:
            asset: The asset's name.
            day: The partition. None for an asset without partitions.
            tags: More tags of the run.
        """
        partition = {} if day is None else {"dagster/partition": day}
        pairs = [{"key": key, "value": value} for key, value in (partition | tags).items()]
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
                    "repositoryLocationName": self.location,
                    "jobName": "__ASSET_JOB",
                    "assetSelection": [{"path": [asset]}],
                },
                "executionMetadata": {"tags": pairs},
            },
        )["launchRun"]
        assert "run" in launched, launched
        run_id: str = launched["run"]["runId"]
        return run_id

    def wait_for_run(self, run_id: str) -> str:
        """Wait until a run has ended, and return its status."""
        ended = ("SUCCESS", "FAILURE", "CANCELED")
        wait_until(lambda: self.run_status(run_id) in ended, every=0.2)
        return self.run_status(run_id)

    def run_status(self, run_id: str) -> str:
        """Return the status of a run."""
        status: str = self.query(
            "query($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }", id=run_id
        )["runOrError"]["status"]
        return status

    def partition_counts(self, asset: str) -> dict[str, int]:
        """Return the numbers of materialized and of failed partitions of an asset."""
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

    def run_pid(self, run_id: str) -> int:
        """Return the ID of the process of a run, which its log has."""
        (pid,) = re.findall(
            r"Started process for run \(pid: (\d+)\)", "\n".join(self.messages(run_id))
        )
        return int(pid)

    def messages(self, run_id: str) -> list[str]:
        """Return the messages in the log of a run."""
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


@contextmanager
def dagster_dev(directory: Path, variables: Mapping[str, str]) -> Iterator[Webserver]:
    """Run `dagster dev` while the block runs.

    Args:
        directory: A directory with the project's configuration files. The log is `dev.log` there.
        variables: Environment variables of the project and of Dagster.
    """
    port = unused_port()
    log = directory / "dev.log"
    command = [sys.executable, "-m", "dagster", "dev", "--port", str(port)]
    with process(command, directory, variables, log) as dev:
        webserver = Webserver(f"http://127.0.0.1:{port}")
        wait_until(webserver.is_up, START_SECONDS, log.read_text, every=0.5, processes=[dev])
        yield webserver

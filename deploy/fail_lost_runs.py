"""Mark the runs as failed that an earlier life of Dagster left behind, so that they are retried.

After a power failure, or when all processes are killed, a run stays `Started` in the UI and keeps
its place in the queue: Dagster's default run launcher cannot tell that its process is gone. This
must run while no process of a run is alive: before the code server, or `dagster dev`, starts.

Reads DAGSTER_HOME. Prints a line a run.
"""

import dagster as dg

UNDER_WAY = [
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def main() -> None:
    """Mark each run that is under way as failed."""
    with dg.DagsterInstance.get() as instance:
        for record in instance.get_run_records(dg.RunsFilter(statuses=UNDER_WAY)):
            run = record.dagster_run
            instance.report_run_failed(run, "The run's process is gone: Dagster was not running.")
            print(f"run {run.run_id}: marked as failed")  # noqa: T201 - for the journal


if __name__ == "__main__":
    main()

"""Mark the runs that were lost when Dagster was killed as failed, so that they are retried.

After a power failure, or when all processes are killed, a run stays `Started` in the UI and keeps
its place in the queue: Dagster's default run launcher cannot tell that its process is gone. Run
this before the code server, or `dagster dev`, starts, while no process of a run is alive.

Does nothing in a cluster (deploy/cluster), where runs are on other machines, and the launcher can
tell which of them are gone.

Reads DAGSTER_HOME, and prints one line per run.
"""

import dagster as dg

ACTIVE_STATUSES = [
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def main() -> None:
    """Mark all active runs as failed, unless Dagster itself finds those that are lost."""
    with dg.DagsterInstance.get() as instance:
        if instance.run_launcher.supports_check_run_worker_health:
            return
        for record in instance.get_run_records(dg.RunsFilter(statuses=ACTIVE_STATUSES)):
            run = record.dagster_run
            instance.report_run_failed(run, "The run's process is gone: Dagster was not running.")
            print(f"run {run.run_id}: marked as failed")  # noqa: T201 - for the journal


if __name__ == "__main__":
    main()

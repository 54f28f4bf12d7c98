"""Dagster's launcher of runs on Celery workers, which also notices when a worker is lost."""

import time
from collections.abc import Mapping
from typing import Any, Self

import dagster as dg
from dagster._core.launcher import CheckRunHealthResult, WorkerStatus
from dagster._serdes import ConfigurableClassData
from dagster_celery.launcher import CeleryRunLauncher
from dagster_celery.tags import DAGSTER_CELERY_TASK_ID_TAG

WORKER_TAG = "mp_pipeline/worker"
"""The tag of a run with the name of the worker that executes it."""

_ANSWER_SECONDS = 5.0


class WorkerRunLauncher(CeleryRunLauncher):
    """Starts runs as Celery tasks, and asks the worker of a run whether it still executes it.

    dagster-celery's own launcher reads the state of the task from Redis. That state stays `STARTED`
    when the worker is killed or its machine is lost, and so does the run. It also does not say that
    it terminates a run because a user wants it, so that Dagster would start the run again.

    Args:
        worker_timeout_seconds: The seconds after which a worker that does not answer is lost.
        inst_data: How Dagster has made this launcher.
        celery: The settings of dagster-celery's launcher.
    """

    def __init__(
        self,
        worker_timeout_seconds: int = 60,
        inst_data: ConfigurableClassData | None = None,
        **celery: Any,  # noqa: ANN401 - what Dagster has read from dagster.yaml
    ) -> None:
        super().__init__(inst_data=inst_data, **celery)
        self._timeout = worker_timeout_seconds
        self._silent_since: dict[str, float] = {}

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """Return dagster-celery's settings and ``worker_timeout_seconds``."""
        timeout = dg.Field(
            dg.IntSource,
            default_value=60,
            description="The seconds after which a worker that does not answer is lost.",
        )
        return {**super().config_type(), "worker_timeout_seconds": timeout}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]
    ) -> Self:
        """Make a launcher with the settings in ``dagster.yaml``."""
        return cls(inst_data=inst_data, **config_value)

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """Return whether the worker of a run executes it. Dagster asks when the run has started."""
        worker, task = run.tags.get(WORKER_TAG), run.tags[DAGSTER_CELERY_TASK_ID_TAG]
        if worker is None:  # its worker could not write the tag
            health: CheckRunHealthResult = super().check_run_worker_health(run)
            return health
        wait = min(_ANSWER_SECONDS, self._timeout)
        answers = self.celery.control.inspect([worker], timeout=wait).query_task(task)
        if answers:
            self._silent_since.pop(run.run_id, None)
            if task in answers[worker]:
                return CheckRunHealthResult(WorkerStatus.RUNNING)
            return _lost(f"The worker {worker} does not execute the run any more.")
        now = time.monotonic()
        silent = now - self._silent_since.setdefault(run.run_id, now)
        if silent < self._timeout:
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        del self._silent_since[run.run_id]
        return _lost(f"The worker {worker} has not answered for {silent:.0f} s.")

    def get_run_worker_debug_info(
        self,
        run: dg.DagsterRun,  # noqa: ARG002 - Dagster passes it
        include_container_logs: bool | None = True,  # noqa: ARG002 - as above
    ) -> str | None:
        """Return nothing: the health of a lost run says which worker had it."""
        return None

    def terminate(self, run_id: str) -> bool:
        """Stop a run because a user wants it, so that it is not started again."""
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        self._instance.report_run_canceling(run)
        return bool(super().terminate(run_id))


def _lost(reason: str) -> CheckRunHealthResult:
    return CheckRunHealthResult(WorkerStatus.FAILED, reason)

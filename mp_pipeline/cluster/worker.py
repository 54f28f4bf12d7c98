"""The Celery app of the workers: ``celery --app mp_pipeline.cluster.worker worker``.

Its settings are those of the run launcher in ``dagster.yaml``, so that a worker and the daemon
cannot disagree about them. Reads DAGSTER_HOME.
"""

import dagster as dg
import tenacity
from celery import Task
from celery.signals import task_prerun
from dagster_celery.tags import DAGSTER_CELERY_TASK_ID_TAG
from dagster_celery.tasks import create_execute_job_task

from mp_pipeline.cluster.run_launcher import WORKER_TAG, WorkerRunLauncher

with dg.DagsterInstance.get() as _instance:
    if not isinstance(_instance.run_launcher, WorkerRunLauncher):
        raise TypeError(
            "the run_launcher in dagster.yaml is not WorkerRunLauncher; "
            "use deploy/cluster/dagster.yaml"
        )
    app = _instance.run_launcher.celery

create_execute_job_task(app)


@task_prerun.connect
def tag_run(task_id: str, task: Task, **_: object) -> None:
    """Tag the run of a task with the name of this worker, before the run is executed."""
    with dg.DagsterInstance.get() as instance:
        for run_id in _run_ids(instance, task_id):
            instance.add_run_tags(run_id, {WORKER_TAG: task.request.hostname})


# The launcher tags the run with the task after it has sent the task. Of tags that two processes
# write at once, Dagster keeps only those of one.
@tenacity.retry(
    retry=tenacity.retry_if_not_result(bool),
    wait=tenacity.wait_fixed(0.1),
    stop=tenacity.stop_after_delay(30),
)
def _run_ids(instance: dg.DagsterInstance, task_id: str) -> list[str]:
    """Wait until Dagster knows the run of a task, and return its ID."""
    tags = {DAGSTER_CELERY_TASK_ID_TAG: task_id}
    return list(instance.get_run_ids(dg.RunsFilter(tags=tags)))

"""Dagster's run queue, which also tags each run with its Mixpanel project."""

import dagster as dg
from dagster import QueuedRunCoordinator, SubmitRunContext

from mp_pipeline.project import PROJECT_TAG


class ProjectRunCoordinator(QueuedRunCoordinator):
    """Queues runs, and gives each the tag ``mp_pipeline/project`` of its assets.

    Dagster does not copy the tags of assets to their runs, and runs of backfills and of the UI have
    no job that could. ``tag_concurrency_limits`` in ``dagster.yaml`` can then limit the runs per
    Mixpanel project. A run for assets of several projects has the IDs of all of them, and counts as
    a project of its own.

    In ``dagster.yaml``::

        run_coordinator:
          module: mp_pipeline.cluster.run_queue
          class: ProjectRunCoordinator
    """

    def submit_run(self, context: SubmitRunContext) -> dg.DagsterRun:
        """Tag a run with its Mixpanel project, and put it into the queue."""
        run = context.dagster_run
        projects = _projects(context)
        if projects:
            self._instance.add_run_tags(run.run_id, {PROJECT_TAG: "+".join(sorted(projects))})
        return super().submit_run(context)


def _projects(context: SubmitRunContext) -> set[str]:
    run = context.dagster_run
    checked = {check.asset_key for check in run.asset_check_selection or ()}
    graph = context.workspace.asset_graph
    keys = {*(run.asset_selection or ()), *checked}
    tags = (graph.get(key).tags for key in keys if graph.has(key))
    return {each[PROJECT_TAG] for each in tags if PROJECT_TAG in each}

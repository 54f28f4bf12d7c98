"""Running a project's assets in this process, and reading the results back."""

import logging
import os
import uuid
from collections.abc import Mapping
from typing import Any

import dagster as dg

from mp_pipeline.assets import snapshot_kinds
from mp_pipeline.days import to_spans
from mp_pipeline.factory import mixpanel_project
from mp_pipeline.failures import format_error, format_failed_checks, root_error
from mp_pipeline.io_manager import table_name
from mp_pipeline.partitions import range_tags
from mp_pipeline.resources import duckdb_resource
from mp_pipeline.settings import Settings
from mp_pipeline.storage import LoadReport, StorageError

EVENTS = dg.AssetKey("events")
_AFTER_LOADING = "after_loading"

_PYTHON_LOGGER = "mp_pipeline"
_INTERRUPTED = ("DagsterExecutionInterruptedError", "KeyboardInterrupt")
_OF_THE_RUN = (
    "volume",
    "count_change",
    "consistent_settings",
    "configured_filters",
    "mixpanel_counts",
    "property_drift",
)
_ACCESS_DENIED = "AuthenticationError"


def snapshot_names(settings: Settings) -> list[str]:
    """Return the names of the assets that are snapshots."""
    return [kind.type for kind in snapshot_kinds(settings)]


class Backfill:
    """Materializes the assets of a project, in the instance of DAGSTER_HOME or a temporary one.

    Checks that judge what a run has stored run too. All others judge the whole database, and
    would fail while older days are missing. Warnings fail nothing.

    Args:
        settings: The project's settings.
        handler: Receives the log lines of the runs as they are written.
        allow_shrink: Whether existing data may lose any number of its rows.

    Raises:
        DagsterInvariantViolationError: DAGSTER_HOME is not an absolute path of a directory.

    Attributes:
        failures: What failed so far, one line each.
        warnings: The checks that warned so far, one line each.
        succeeded: The names of the assets that were loaded without an error.
        access_denied: Whether Mixpanel refused the credentials, as it would again.
    """

    def __init__(
        self, settings: Settings, handler: logging.Handler, *, allow_shrink: bool = False
    ) -> None:
        self.failures: list[str] = []
        self.warnings: list[str] = []
        self.succeeded: set[str] = set()
        self.access_denied = False
        self._settings = settings
        self._handler = handler
        self._allow_shrink = allow_shrink
        self._run_ids: dict[dg.AssetKey, list[str]] = {}
        self._instance = (
            dg.DagsterInstance.get()
            if os.environ.get("DAGSTER_HOME")
            else dg.DagsterInstance.ephemeral()
        )
        project = mixpanel_project(settings)
        self._definitions = dg.Definitions(
            assets=project.assets,
            asset_checks=[
                check
                for check in project.asset_checks or ()
                if all(spec.blocking or spec.name in _OF_THE_RUN for spec in check.check_specs)
            ],
            jobs=_jobs(settings),
            resources=project.resources,
            executor=project.executor,
            loggers={"lines": _logger_definition(handler)},
        )

    def load_events(self, first: str, last: str) -> None:
        """Load the events of a range of partition keys, both inclusive.

        Raises:
            KeyboardInterrupt: The user stopped the run.
        """
        self._materialize(EVENTS, range_tags(first, last))

    def make_derived(self) -> None:
        """Type the days of events that were loaded, and make their sessions and metrics.

        Raises:
            KeyboardInterrupt: The user stopped the run.
        """
        if not _made_of_events(self._settings):
            return
        try:
            loaded = [load.day for load in self.loads() if load.day is not None]
        except StorageError:  # who asks for the loads at the end is told
            return
        for span in to_spans(loaded):
            self._run(_AFTER_LOADING, range_tags(str(span.first), str(span.last)))

    def load_snapshot(self, name: str) -> None:
        """Load a snapshot, such as ``profiles``.

        Raises:
            KeyboardInterrupt: The user stopped the run.
        """
        self._materialize(dg.AssetKey(name), {})

    def loads(self) -> list[LoadReport]:
        """Return what the runs have loaded, from the load log.

        Raises:
            StorageError: The database cannot be read.
        """
        try:
            with duckdb_resource(self._settings).get_engine(read_only=True) as engine:
                return [
                    report
                    for key, run_ids in self._run_ids.items()
                    for report in engine.list_loads(table_name(key), run_ids)
                ]
        except FileNotFoundError:  # nothing was loaded
            return []

    def _materialize(self, key: dg.AssetKey, tags: dict[str, str]) -> None:
        run_id = str(uuid.uuid4())
        self._run_ids.setdefault(key, []).append(run_id)
        config = {key.path[-1]: {"config": {"allow_shrink": self._allow_shrink}}}
        result = self._run(key.path[-1], tags, run_id=run_id, ops=config)
        if result.success:
            self.succeeded.add(key.path[-1])

    def _run(
        self,
        job: str,
        tags: dict[str, str],
        *,
        run_id: str | None = None,
        ops: Mapping[str, Any] | None = None,
    ) -> dg.ExecuteInProcessResult:
        python_logger = logging.getLogger(_PYTHON_LOGGER)
        level = python_logger.level
        # An instance that manages the logger already sends its lines to the run's log.
        if _PYTHON_LOGGER not in self._instance.managed_python_loggers:
            python_logger.addHandler(self._handler)
            python_logger.setLevel(logging.INFO)
        try:
            result = self._definitions.resolve_job_def(job).execute_in_process(
                run_config={"loggers": {"lines": {}}, "ops": dict(ops or {})},
                instance=self._instance,
                raise_on_error=False,
                tags=tags,
                run_id=run_id,
            )
        finally:
            python_logger.removeHandler(self._handler)
            python_logger.setLevel(level)
        self._collect_failures(result, "" if job == EVENTS.path[-1] else f"{job}: ")
        return result

    def _collect_failures(self, result: dg.ExecuteInProcessResult, about: str) -> None:
        errors = [event.step_failure_data.error for event in result.get_step_failure_events()]
        if not result.success and not errors:  # the run failed before its first step
            errors = [
                event.job_failure_data.error for event in result.all_events if event.is_job_failure
            ]
        names = {error.cls_name for error in map(root_error, errors) if error is not None}
        if names.intersection(_INTERRUPTED):
            raise KeyboardInterrupt
        self.access_denied |= _ACCESS_DENIED in names
        self.failures += [f"{about}{format_error(error)}" for error in errors]
        evaluations = result.get_asset_check_evaluations()
        self.failures += format_failed_checks(evaluations)
        self.warnings += format_failed_checks(evaluations, "WARN")


def _made_of_events(settings: Settings) -> list[str]:
    """Return the names of the assets that are made of events."""
    typed = ["typed_events"] if settings.mp_pipeline_typed_events else []
    metrics = ["identities", "sessions", "daily_metrics"] if settings.mp_pipeline_metrics else []
    return typed + metrics


def _jobs(settings: Settings) -> list[Any]:
    """Return a job for the events, one for each snapshot, and one for all that is made of events.

    The history of profiles is made in the run that loads them.
    """
    selections = {"events": ["events"]} | {name: [name] for name in snapshot_names(settings)}
    if settings.mp_pipeline_metrics:
        selections["profiles"].append("profile_history")
    if made_of_events := _made_of_events(settings):
        selections[_AFTER_LOADING] = made_of_events
    return [
        dg.define_asset_job(job, selection=dg.AssetSelection.assets(*names))
        for job, names in selections.items()
    ]


def _logger_definition(handler: logging.Handler) -> dg.LoggerDefinition:
    """Return a Dagster logger that sends the lines of a run's log to a handler."""

    def make_logger(_: dg.InitLoggerContext) -> logging.Logger:
        logger = logging.Logger("mp_pipeline backfill", logging.INFO)
        logger.addHandler(handler)
        return logger

    return dg.LoggerDefinition(make_logger, description="Log lines for the terminal.")

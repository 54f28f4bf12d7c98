"""The IO manager: stores what assets return in DuckDB, and reads it back as DataFrames."""

from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import closing
from datetime import date
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import dagster as dg

from mp_pipeline.days import format_days
from mp_pipeline.derived import DerivedDay, DerivedRange
from mp_pipeline.load_metadata import combine_metadata
from mp_pipeline.loads import Downloaded, Load, Target, load_data, load_downloads
from mp_pipeline.mixpanel import EventsDownload, ProfilesDownload
from mp_pipeline.plot import volume_plot
from mp_pipeline.range_run import EventsRange, load_range
from mp_pipeline.resources import MixpanelDuckDBResource
from mp_pipeline.snapshots import Snapshot
from mp_pipeline.storage import (
    DEFAULT_MAX_REJECTED_FRACTION,
    StorageEngine,
    TableNotFoundError,
    TableType,
)

if TYPE_CHECKING:
    import pandas as pd

ALLOW_MISSING_PARTITIONS = "allow_missing_partitions"
"""Metadata of an asset, or of an input (``AssetIn``): read the partitions that are loaded, and
ignore those that are not."""

Finished = Load | DerivedDay
"""A day or table that is committed."""

_DOWNLOADED = (EventsDownload, ProfilesDownload, Snapshot)
_LOADABLE = (Mapping, Path, *_DOWNLOADED)


class MixpanelDuckDBIOManager(dg.ConfigurableIOManager):
    """Stores events and profiles in DuckDB, and reads them back as pandas DataFrames.

    An asset with daily partitions becomes one table per day and a view over all of them, named
    after the asset. An asset without partitions becomes a table, or one table for each ``Snapshot``
    with a suffix. Each day or table is replaced in one transaction.

    An asset may return an ``EventsRange``, a ``DerivedRange``, downloads of
    ``mp_pipeline.mixpanel``, snapshots (``mp_pipeline.snapshots``), paths of files of JSON Lines,
    or an iterable of records (dicts of the data model). Whether paths, or no records at all, are
    events or profiles is set by the asset's metadata ``table_type``; the default is events with
    partitions, profiles without. Wrap a generator in ``dg.Output(...)``: Dagster would consume a
    bare one itself.
    """

    duckdb: dg.ResourceDependency[MixpanelDuckDBResource]
    wall_clock_zone: str = "UTC"
    """The zone whose wall clock the export's ``time`` shows; ``UTC`` if ``time`` is UTC."""
    max_rejected_fraction: float = DEFAULT_MAX_REJECTED_FRACTION
    """Fraction of the lines that may be rejected; above this the load fails."""

    min_kept_fraction: float = 0.0
    """Fraction of the stored rows of a day or table that must come again, by key; below this the
    existing data is kept."""

    def handle_output(self, context: dg.OutputContext, obj: object) -> None:
        """Load what an asset returned, and attach metadata to each of its partitions.

        Raises:
            ValueError: It cannot be loaded, a record or a name is not valid, or days are missing.
            StorageError: See ``StorageEngine.replace_events_days``. Days that the log reports as
                loaded are complete; the existing data of all others is kept.
        """
        target = self._target(context)
        finished: list[Finished] = []
        try:
            with closing(self._load(context, target, obj)) as loads:
                for load in loads:
                    finished.append(load)
                    if load.day is not None:
                        _add_partition_metadata(context, load.day, load.metadata)
                    of_all = f"; {len(finished)} of {len(target.days)} days" if target.days else ""
                    context.log.info(load.summary + of_all)
            _require_all_days(target, finished)
        except BaseException:  # including termination of the run
            _report_partial_run(context, target, finished)
            raise
        finally:
            self.duckdb.delete_downloads(context.run_id)
        if target.days is None and finished:
            context.add_output_metadata(combine_metadata([load.metadata for load in finished]))
        if target.days:
            self._add_plot(context, target, max(target.days))

    def load_input(self, context: dg.InputContext) -> "pd.DataFrame":
        """Return the rows of an asset: of one day, of several days, or of all of them.

        Raises:
            TypeError: The input is annotated with a type other than ``pandas.DataFrame``.
            TableNotFoundError: A partition or the table is missing. Partitions may be missing if
                the metadata of the input or of the asset has ``allow_missing_partitions: True``.
        """
        _require_dataframe(context)
        name = table_name(context.asset_key)
        with self.duckdb.get_engine(read_only=True) as engine:
            if context.has_asset_partitions:
                return engine.read_tables(_day_tables(engine, name, context))
            tables = [name] if engine.table_exists(name) else engine.list_snapshots(name)
            if not tables:
                raise _not_loaded(engine, "the table", name)
            return engine.read_tables(tables)

    def _target(self, context: dg.OutputContext) -> Target:
        days = timezone = None
        if context.has_asset_partitions:
            timezone = _daily_partitions(context).timezone
            days = tuple(date.fromisoformat(key) for key in context.asset_partition_keys)
        return Target(
            name=table_name(context.asset_key),
            owner=context.asset_key.to_user_string(),
            days=days,
            timezone=timezone or "UTC",
            wall_clock_zone=self.wall_clock_zone,
            max_rejected_fraction=self.max_rejected_fraction,
            min_kept_fraction=self.min_kept_fraction,
            run_id=context.run_id,
        )

    def _load(
        self, context: dg.OutputContext, target: Target, obj: object
    ) -> Generator[Finished, None, None]:
        if isinstance(obj, EventsRange):
            return load_range(obj, target, self.duckdb, context.log)
        if isinstance(obj, DerivedRange):
            return obj.run(self.duckdb)
        if isinstance(obj, str | Path):
            return load_data(obj, _table_type(context), target, self.duckdb)
        items = [obj] if isinstance(obj, _DOWNLOADED) else obj
        first, items = _peek(context, items)
        if isinstance(first, _DOWNLOADED):
            return load_downloads(cast("Iterable[Downloaded]", items), target, self.duckdb)
        return load_data(items, _table_type(context, first), target, self.duckdb)

    def _add_plot(self, context: dg.OutputContext, target: Target, day: date) -> None:
        """Add a plot of the last year to the metadata of a day.

        A plot that cannot be drawn does not fail a run whose days are loaded: the log says why.
        """
        try:
            with self.duckdb.get_engine(read_only=True) as engine:
                loads = engine.list_loads(target.name)
            if len({load.day for load in loads}) < 2:
                return
            plot = dg.MetadataValue.md(volume_plot(loads))
        except Exception as error:
            context.log.warning(f"all days are loaded, but the plot could not be drawn: {error}")
            return
        _add_partition_metadata(context, day, {"plot": plot})


def table_name(asset_key: dg.AssetKey) -> str:
    """Return the name of the table, or of the view over day tables, of an asset."""
    return "_".join(asset_key.path)


def _add_partition_metadata(
    context: dg.OutputContext, day: date, metadata: Mapping[str, Any]
) -> None:
    # Metadata of an output is copied to all partitions of a run; the asset's context tells them
    # apart.
    dg.AssetExecutionContext.get().add_asset_metadata(
        metadata, asset_key=context.asset_key, partition_key=str(day)
    )


def _require_all_days(target: Target, loads: Sequence[Finished]) -> None:
    missing = _missing_days(target, loads)
    if missing:
        raise ValueError(f"the asset returned no data for {format_days(missing)}")


def _missing_days(target: Target, loads: Sequence[Finished]) -> list[date]:
    loaded = {load.day for load in loads}
    return [day for day in target.days or () if day not in loaded]


def _report_partial_run(
    context: dg.OutputContext, target: Target, loads: Sequence[Finished]
) -> None:
    """Record the days that a failed run has loaded as materialized: Dagster records none of them.

    An error here is logged and does not hide the error that ended the run.
    """
    if not target.days or not loads:
        return
    try:
        instance = dg.AssetExecutionContext.get().instance
        for load in loads:
            instance.report_runless_asset_event(
                dg.AssetMaterialization(
                    context.asset_key,
                    partition=str(load.day),
                    metadata={"run": dg.MetadataValue.dagster_run(context.run_id)} | load.metadata,
                )
            )
        loaded = sorted(load.day for load in loads if load.day is not None)
        context.log.error(
            f"{len(loaded)} of {len(target.days)} days are loaded: {format_days(loaded)}. "
            f"Not loaded: {format_days(_missing_days(target, loads))}. "
            "Re-execute the run to resume."
        )
    except Exception as error:
        context.log.warning(f"could not record the loaded days as materialized: {error}")


def _table_type(context: dg.OutputContext, first: object = None) -> TableType:
    """Return whether an output is events or profiles: as declared, or from its first record.

    Raises:
        ValueError: The asset declares another type.
    """
    declared = (context.definition_metadata or {}).get("table_type")
    if declared not in (None, "events", "profiles"):
        raise ValueError(
            f"the asset's metadata table_type is {declared!r}; it must be events or profiles"
        )
    if declared is not None:
        return cast("TableType", declared)
    if isinstance(first, Mapping):
        return "events" if "event_name" in first else "profiles"
    return "events" if context.has_asset_partitions else "profiles"


def _peek(context: dg.OutputContext, obj: object) -> tuple[object, Iterable[Any]]:
    """Return the first item of an iterable (None if it is empty), and all of its items.

    Raises:
        ValueError: It is not an iterable of records, paths or downloads.
    """
    if isinstance(obj, Iterable) and not isinstance(obj, Mapping):
        items = iter(obj)
        head = list(islice(items, 1))
        if all(isinstance(item, _LOADABLE) for item in head):
            return next(iter(head), None), chain(head, items)
    raise ValueError(
        f"{context.asset_key.to_user_string()} returned a {type(obj).__name__}; return downloads "
        "of mp_pipeline.mixpanel, paths of files of JSON Lines, or an iterable of records "
        "(dicts), such as DataFrame.to_dict('records')"
    )


def _daily_partitions(context: dg.OutputContext) -> dg.TimeWindowPartitionsDefinition:
    """Return the asset's partitions, which must be calendar days.

    Raises:
        ValueError: They are not. The keys of weekly partitions look like days.
    """
    partitions = context.asset_partitions_def
    if not isinstance(partitions, dg.TimeWindowPartitionsDefinition) or (
        (partitions.cron_schedule, partitions.fmt) != ("0 0 * * *", "%Y-%m-%d")
    ):
        raise ValueError(
            f"{context.asset_key.to_user_string()} needs daily partitions that begin at midnight, "
            f"such as 2024-01-15, not {partitions}"
        )
    return partitions


def _require_dataframe(context: dg.InputContext) -> None:
    annotation = context.dagster_type.typing_type
    if annotation is Any:
        return
    import pandas as pd

    if annotation is not pd.DataFrame:
        raise TypeError(
            f"the input {context.name} is annotated as {annotation}: only pandas.DataFrame can "
            "be loaded. For any other type use MixpanelDuckDBResource and query the table "
            f"{table_name(context.asset_key)}."
        )


def _day_tables(engine: StorageEngine, name: str, context: dg.InputContext) -> list[str]:
    """Return the tables of the partitions that an input is for.

    Raises:
        TableNotFoundError: Partitions are missing and may not be, or none is loaded.
    """
    tables = {str(day.day): day.table_name for day in engine.list_days(name)}
    keys = context.asset_partition_keys
    found = [tables[key] for key in keys if key in tables]
    missing = [date.fromisoformat(key) for key in keys if key not in tables]
    upstream = context.upstream_output
    allowed = (context.definition_metadata or {}).get(ALLOW_MISSING_PARTITIONS) or (
        upstream is not None and (upstream.definition_metadata or {}).get(ALLOW_MISSING_PARTITIONS)
    )
    if not found or (missing and not allowed):
        advice = (
            " To read only the partitions that are loaded, set the input's metadata "
            f'{{"{ALLOW_MISSING_PARTITIONS}": True}}.'
        )
        raise _not_loaded(engine, format_days(missing) or "any day", name, advice)
    return found


def _not_loaded(
    engine: StorageEngine, what: str, name: str, advice: str = ""
) -> TableNotFoundError:
    return TableNotFoundError(
        f"{engine.name} does not contain {what} of {name}: materialize it first, then run this "
        f"again.{advice}"
    )

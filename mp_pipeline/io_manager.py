"""The IO manager: what assets return goes into day tables and profile tables in DuckDB."""

from collections.abc import Generator, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import dagster as dg

from mp_pipeline.load_metadata import days_metadata, load_metadata, sentence
from mp_pipeline.mixpanel import EventsDownload, ProfilesDownload
from mp_pipeline.partitions import day_window, days_between, export_dates, listed, listed_spans
from mp_pipeline.plot import volume_plot
from mp_pipeline.resources import MixpanelDuckDBResource
from mp_pipeline.storage import (
    DEFAULT_MAX_REJECTED_FRACTION,
    DayWindow,
    LoadReport,
    StorageEngine,
    TableData,
    TableMetadata,
    TableNotFoundError,
    TableType,
)

if TYPE_CHECKING:
    import pandas as pd

Download = EventsDownload | ProfilesDownload


@dataclass(frozen=True)
class Downloads:
    """What an asset gives to the IO manager: files, loaded and deleted one by one as they come.

    Attributes:
        files: the downloads; a lazy iterator lets a range of days load as it downloads.
        source: where they come from, kept in the load log and shown in the UI.
        context: the asset's context, which lets each day have metadata of its own (Dagster copies
            what an IO manager adds by itself to all partitions of a range), and lets the days that
            a failed run has loaded count as materialized.
        loaded_before: loads of days that need not be in the files: an earlier attempt did them.
    """

    files: Iterable[Download]
    source: str | None = None
    context: dg.AssetExecutionContext | None = None
    loaded_before: Sequence[LoadReport] = ()


@dataclass(frozen=True)
class _Load:
    """A finished load, and what the UI shows of it."""

    report: LoadReport
    metadata: dict[str, Any]


class MixpanelDuckDBIOManager(dg.ConfigurableIOManager):
    """Writes events and profiles into DuckDB, and reads them as pandas DataFrames.

    An asset with daily partitions becomes a table a day and a view over all of them, named after
    the asset; an asset without partitions becomes a table. A day or a table is replaced whole, in
    one transaction, or stays as it was.

    An asset returns ``Downloads``, a download of ``mp_pipeline.mixpanel``, paths of files of JSON
    Lines, or an iterable of records (dicts) of the data model. Whether paths or no records at all
    are events or profiles, the asset's metadata ``table_type`` says; the default is events with
    partitions, profiles without. A generator goes into ``dg.Output(...)``: Dagster takes a bare one
    for its own events.
    """

    duckdb: dg.ResourceDependency[MixpanelDuckDBResource]
    wall_clock_zone: str = "UTC"
    """The zone whose wall clock the export's ``time`` shows; ``UTC`` if it is true UTC."""
    max_rejected_fraction: float = DEFAULT_MAX_REJECTED_FRACTION
    """Share of the lines that may be rejected; with more a load fails and the old day stays."""

    def handle_output(self, context: dg.OutputContext, obj: object) -> None:
        """Load what an asset returned.

        Raises:
            ValueError: it is nothing that can be loaded, a record or a name is not valid, or days
                are missing in it; says which.
            StorageError: see ``StorageEngine.replace_events_days``. The day that failed is as it
                was; of a range, the days that the log calls loaded are whole.
        """
        if context.has_asset_partitions:
            _daily_partitions(context)
        if isinstance(obj, EventsDownload | ProfilesDownload):
            obj = Downloads([obj])
        if isinstance(obj, Downloads):
            loads = self._load_downloads(context, obj)
        else:
            table_type, data = _told_apart(context, obj)
            loads = []
            metadata = TableMetadata(table_type, datetime.now(UTC))
            self._load(context, data, metadata, loads, Downloads(()))
            self._add_output_metadata(context, loads)
        if context.has_asset_partitions:
            loaded = {str(load.report.day) for load in loads}
            missing = [key for key in context.asset_partition_keys if key not in loaded]
            if missing:
                raise ValueError(f"the asset returned no data of {listed(missing)}")

    def load_input(self, context: dg.InputContext) -> "pd.DataFrame":
        """Return the rows of an asset: of a day, of several days, or of everything.

        Without partitions, or asked for all partitions, that is all that is there.

        Raises:
            TypeError: the input is annotated as something else than a pandas DataFrame.
            TableNotFoundError: a day or the table is not there; says which and what to do.
        """
        _require_dataframe(context)
        name = table_name(context.asset_key)
        with self.duckdb.get_engine(read_only=True) as engine:
            if context.has_asset_partitions:
                tables = _day_tables(engine, name, context)
            elif engine.table_exists(name):
                tables = [name]
            else:
                raise _not_there(engine, "the table", name)
            return engine.read_tables(tables)

    def _load_downloads(self, context: dg.OutputContext, downloads: Downloads) -> list[_Load]:
        loads: list[_Load] = []
        files = iter(downloads.files)
        try:
            self._take_over(downloads, loads)
            for download in files:
                self._load_download(context, download, downloads, loads)
        except BaseException:  # a run that is terminated has days to show, too
            _report_unfinished(context, downloads, loads)
            raise
        finally:
            if isinstance(files, Generator):
                files.close()  # an error would keep it, and its downloads, alive
            self.duckdb.delete_downloads(context.run_id)
        if not context.has_asset_partitions or downloads.context is None:
            self._add_output_metadata(context, loads)
        elif loads:
            last_day = max(str(load.report.day) for load in loads)
            downloads.context.add_asset_metadata(self._plot(context), partition_key=last_day)
        return loads

    def _take_over(self, downloads: Downloads, loads: list[_Load]) -> None:
        """Show what an earlier attempt has loaded as if this run had."""
        if not downloads.loaded_before:
            return
        with self.duckdb.get_engine(read_only=True) as engine:
            for report in downloads.loaded_before:
                _add_load(loads, _Load(report, load_metadata(engine, report, None)), downloads)

    def _load_download(
        self,
        context: dg.OutputContext,
        download: Download,
        downloads: Downloads,
        loads: list[_Load],
    ) -> None:
        """Load a download and delete it.

        Raises:
            DamagedDownloadError: its files are not as they were downloaded.
        """
        if isinstance(download, EventsDownload):
            metadata = TableMetadata(
                "events",
                datetime.now(UTC),
                download.from_date.isoformat(),
                download.to_date.isoformat(),
                filter_events=None if download.events is None else list(download.events),
                filter_where=download.where,
            )
        else:
            metadata = TableMetadata("profiles", datetime.now(UTC), filter_where=download.where)
        try:
            download.verify()
            self._load(context, download.paths, metadata, loads, downloads, download)
        finally:
            download.delete()

    def _load(
        self,
        context: dg.OutputContext,
        data: TableData,
        metadata: TableMetadata,
        loads: list[_Load],
        downloads: Downloads,
        download: Download | None = None,
    ) -> None:
        """Load into the table, or into the day tables, and append what the UI shows to ``loads``.

        Raises:
            ValueError: the table, or a day of it, was loaded in this run already.
        """
        name = table_name(context.asset_key)
        provenance: dict[str, Any] = {
            "source": downloads.source,
            "run_id": context.run_id,
            "wall_clock_zone": self.wall_clock_zone,
            "expected_lines": None if download is None else download.lines,
            "max_rejected_fraction": self.max_rejected_fraction,
        }
        loaded = {load.report.day for load in loads}
        with self.duckdb.get_engine() as engine:

            def show(report: LoadReport) -> None:
                load = _Load(report, load_metadata(engine, report, download))
                _add_load(loads, load, downloads)
                context.log.info(sentence(report) + _progress(context, loads))

            if context.has_asset_partitions:
                windows = self._windows(context, download)
                _require_new({window.day for window in windows} & loaded)
                engine.replace_events_days(
                    name, windows, data, metadata, on_replaced=show, **provenance
                )
            else:
                _require_new(loaded)
                show(engine.replace_table(name, data, metadata, **provenance))

    def _add_output_metadata(self, context: dg.OutputContext, loads: Sequence[_Load]) -> None:
        """Show one load, or a table of several: Dagster copies it to all partitions of the run."""
        if len(loads) == 1:
            context.add_output_metadata(loads[0].metadata | self._plot(context))
        elif loads:
            context.add_output_metadata(days_metadata([load.report for load in loads]))

    def _plot(self, context: dg.OutputContext) -> dict[str, Any]:
        """Return the picture of the last year's days, as metadata; empty without two days.

        What is loaded stays loaded if there can be no picture: the log says why, and that is all.
        """
        if not context.has_asset_partitions:
            return {}
        try:
            with self.duckdb.get_engine(read_only=True) as engine:
                loads = engine.list_loads(table_name(context.asset_key))
            if len({load.day for load in loads}) < 2:
                return {}
            return {"plot": dg.MetadataValue.md(volume_plot(loads))}
        except Exception as error:
            context.log.warning(f"all is loaded, but there is no plot of it: {error}")
            return {}

    def _windows(self, context: dg.OutputContext, download: Download | None) -> list[DayWindow]:
        """Return the days that a download holds whole, or else those of the run.

        Raises:
            ValueError: profiles have no days, the download holds none whole, or one that the run
                is not for.
        """
        name = context.asset_key.to_user_string()
        zone = ZoneInfo(_daily_partitions(context).timezone)
        asked_for = [date.fromisoformat(key) for key in context.asset_partition_keys]
        if download is None:
            return [day_window(day, zone) for day in asked_for]
        if not isinstance(download, EventsDownload):
            raise ValueError(f"{name} has partitions; profiles have no days")
        one = timedelta(days=1)  # a zone's days are at most one off the export's dates
        windows = []
        for day in days_between(download.from_date - one, download.to_date + one):
            window = day_window(day, zone)
            first, last = export_dates(window, self.wall_clock_zone)
            if download.from_date <= first and last <= download.to_date:
                windows.append(window)
        if not windows:
            raise ValueError(
                f"the export of {download.from_date} to {download.to_date} holds no day of {zone} "
                "whole: its dates are UTC dates; ask for those that the day touches"
            )
        others = [str(window.day) for window in windows if window.day not in asked_for]
        if others:
            raise ValueError(f"the download holds {listed(others)}, which the run is not for")
        return windows


def _add_load(loads: list[_Load], load: _Load, downloads: Downloads) -> None:
    """Add a load to those of the run, and its metadata to its partition."""
    loads.append(load)
    if downloads.context is not None and load.report.day is not None:
        downloads.context.add_asset_metadata(load.metadata, partition_key=str(load.report.day))


def _progress(context: dg.OutputContext, loads: Sequence[_Load]) -> str:
    days = len(context.asset_partition_keys) if context.has_asset_partitions else 1
    return f"; {len(loads)} of {days} days" if days > 1 else ""


def _report_unfinished(
    context: dg.OutputContext, downloads: Downloads, loads: Sequence[_Load]
) -> None:
    """Say which days of a failed run are done, and let them count as materialized.

    Dagster records nothing of a step that fails.
    """
    days = [load.report.day for load in loads if load.report.day is not None]
    if downloads.context is None or not days:
        return
    for load in loads:
        downloads.context.instance.report_runless_asset_event(
            dg.AssetMaterialization(
                context.asset_key,
                partition=str(load.report.day),
                metadata={"run": dg.MetadataValue.dagster_run(context.run_id)} | load.metadata,
            )
        )
    asked_for = [date.fromisoformat(key) for key in context.asset_partition_keys]
    missing = [day for day in asked_for if day not in days]
    context.log.error(
        f"{len(days)} of {len(asked_for)} days are done, and stay: {listed_spans(sorted(days))}. "
        f"Not done: {listed_spans(missing)}. Retrying this run goes on there."
    )


def _require_new(again: Set[date | None]) -> None:
    """Refuse a second download of a day, or of a table without days: it would replace the first."""
    if again:
        days = listed(sorted(str(day) for day in again if day is not None)) or "the table"
        raise ValueError(f"the asset returned more than one download of {days}")


def table_name(asset_key: dg.AssetKey) -> str:
    """Return the table, or view over day tables, that an asset is stored in."""
    return "_".join(asset_key.path)


def _told_apart(context: dg.OutputContext, obj: object) -> tuple[TableType, TableData]:
    """Return whether an output is events or profiles, and the output, its first record included.

    Raises:
        ValueError: it is nothing that can be loaded.
    """
    declared = (context.definition_metadata or {}).get("table_type")
    if declared not in (None, "events", "profiles"):
        raise ValueError(f"the asset's metadata table_type is {declared!r}: events or profiles")
    default: TableType = "events" if context.has_asset_partitions else "profiles"
    if isinstance(obj, str | Path):
        return declared or default, obj
    items = iter(obj) if isinstance(obj, Iterable) and not isinstance(obj, Mapping) else None
    head = [] if items is None else list(islice(items, 1))
    if items is None or not all(isinstance(item, Mapping | Path) for item in head):
        raise ValueError(
            f"{context.asset_key.to_user_string()} returned a {type(obj).__name__}; return "
            "Downloads, a download of mp_pipeline.mixpanel, Paths of files of JSON Lines, or an "
            "iterable of records (dicts), such as DataFrame.to_dict('records')"
        )
    if head and isinstance(head[0], Mapping):
        default = "events" if "event_name" in head[0] else "profiles"
    return declared or default, chain(head, items)


def _daily_partitions(context: dg.OutputContext) -> dg.TimeWindowPartitionsDefinition:
    """Return the asset's partitions, which must be calendar days: keys of weeks look like days.

    Raises:
        ValueError: they are not; says what is needed.
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
            "be loaded. For anything else take the MixpanelDuckDBResource and query the table "
            f"{table_name(context.asset_key)}."
        )


def _day_tables(engine: StorageEngine, name: str, context: dg.InputContext) -> list[str]:
    """Return the tables of the partitions that an input is for.

    Raises:
        TableNotFoundError: one is missing; or none is there, if it is for all partitions.
    """
    there = {str(day.day): day.table_name for day in engine.list_days(name)}
    keys = context.asset_partition_keys
    found = [there[key] for key in keys if key in there]
    missing = [key for key in keys if key not in there]
    for_all = len(keys) == len(context.asset_partitions_def.get_partition_keys())
    if not found or (missing and not for_all):
        raise _not_there(engine, listed(missing) or "any day", name)
    return found


def _not_there(engine: StorageEngine, what: str, name: str) -> TableNotFoundError:
    return TableNotFoundError(
        f"{engine.path} does not hold {what} of {name}: materialize it first, then run this again"
    )

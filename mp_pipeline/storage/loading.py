"""Loading: rows are staged in a table beside the real one, then published in one transaction.

A crash at any point leaves the old table or the new one, whole; what it leaves of the staging
table is removed at the next open for writing.
"""

import logging
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, date, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import duckdb

from mp_pipeline.storage import catalog, parsing, scratch
from mp_pipeline.storage.catalog import run, to_utc
from mp_pipeline.storage.errors import StorageError
from mp_pipeline.storage.lines import decompress, is_gzip, number_lines, starts_with_object
from mp_pipeline.storage.models import DayWindow, LoadReport, TableMetadata
from mp_pipeline.storage.progress import logged_progress
from mp_pipeline.storage.records import Batch, write_batches
from mp_pipeline.storage.tables import TableLayout, quoted

logger = logging.getLogger(__name__)

ProgressCallback = Callable[[int], None]
"""Called with the rows inserted so far."""

UNREADABLE = (duckdb.InvalidInputException, duckdb.ConstraintException)
"""What DuckDB raises when a line is no JSON, or lacks what a row needs."""

_KEPT_OF_A_LINE = 10_000  # characters


class Staging(AbstractContextManager["Staging"]):
    """A table without its key, beside the one that it will become.

    Leaving the ``with`` block drops what was not published.
    """

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, layout: TableLayout, table_name: str
    ) -> None:
        self._connection = connection
        self._layout = layout
        suffix = uuid.uuid4().hex
        self.name = f"{catalog.LOADING_PREFIX}{table_name}_{suffix}"
        self.rejected_name = f"_rejected_{suffix}"
        self.started_at = datetime.now(UTC)
        self.bytes_read = 0
        self.inserted = 0
        self.rejected = 0
        self.repaired = 0
        self.outside_day = 0
        self.duplicates = 0

    def __enter__(self) -> Self:
        """Make the table."""
        catalog.claim_loading_table(self.name)
        try:
            self._run(self._layout.create_without_key(self.name))
            self._run(
                f"CREATE TEMP TABLE {self.rejected_name} "
                "(line_number BIGINT, reason VARCHAR, line VARCHAR)"
            )
        except BaseException:  # a with block that is not entered is not left either
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Drop what was not published."""
        try:
            catalog.drop_loading_table(self._connection, self.name)
            self._run(f"DROP TABLE IF EXISTS {self.rejected_name}")
        except (duckdb.Error, StorageError) as error:
            # The reason for leaving is the error to report; the next open removes the table.
            logger.warning("%s is left for the next open to remove: %s", self.name, error)

    @property
    def lines_read(self) -> int:
        """Lines or records read so far, blank lines not counted."""
        return self.inserted + self.rejected

    def insert_files(
        self,
        files: Sequence[Path],
        *,
        zone: str,
        strict: bool,
        progress: ProgressCallback | None = None,
    ) -> None:
        """Insert files of JSON Lines.

        Args:
            files: plain, or gzip where the name ends in ``.gz``.
            zone: time zone whose wall clock the export's ``time`` shows, ``UTC`` for true UTC.
            strict: refuse a line that cannot be a row, instead of keeping it with its reason.
            progress: called after each file.

        Raises:
            ValueError: strict, and a line cannot be a row; names file, line and reason.
            StorageError: a file is missing or damaged.
        """
        for file in files:
            if not file.is_file():
                raise StorageError(
                    f"{file} {'is not a file' if file.exists() else 'does not exist'}"
                )
            size = file.stat().st_size
            self.bytes_read += size
            if size:  # an empty gzip file is no gzip file
                where = f"{file.name}, line" if strict else None
                self._insert(file, zone=zone, where=where, lines_before=0)
            if progress is not None:
                progress(self.inserted)

    def insert_records(
        self,
        records: Iterable[Mapping[str, Any]],
        *,
        batch_size: int,
        progress: ProgressCallback | None = None,
    ) -> None:
        """Insert records of the data model, in batches.

        Args:
            records: dicts with all fields of the table.
            batch_size: records a batch.
            progress: called after each batch.

        Raises:
            ValueError: a record cannot be a row; names its position and the reason.
        """
        with (
            scratch.directory(self._connection) as directory,
            # The next batch is written while this one is inserted.
            ThreadPoolExecutor(1, "insert records") as worker,
        ):
            inserting: Future[None] | None = None
            try:
                for batch in write_batches(self._layout, records, batch_size, directory):
                    if inserting is not None:
                        inserting.result()
                        if progress is not None:
                            progress(self.inserted)
                    inserting = worker.submit(self._insert_batch, batch)
            finally:
                # If two batches fail, the first one's error is the one to report.
                if inserting is not None:
                    inserting.result()
            if inserting is not None and progress is not None:
                progress(self.inserted)

    def sort_by_time(self) -> None:
        """Put the events of each day together, so that taking a day out reads that day alone."""
        self._move_to_a_copy("ORDER BY event_time, rowid")

    def insert_window(self, other: "Staging", window: DayWindow) -> None:
        """Insert the events of a day from a staging table that holds several days."""
        inserted = self._run(
            f"INSERT INTO {quoted(self.name)} SELECT * FROM {quoted(other.name)} "
            "WHERE event_time >= ? AND event_time < ?",
            [to_utc(window.start), to_utc(window.end)],
        )
        self.inserted += inserted[0][0]

    def take_leftovers(self, other: "Staging") -> None:
        """Account here for the lines of a staging table that are on none of its days."""
        self._run(f"INSERT INTO {self.rejected_name} FROM {other.rejected_name}")
        self.started_at = other.started_at
        self.inserted += other.outside_day
        self.outside_day = other.outside_day
        self.rejected = other.rejected
        self.repaired = other.repaired
        self.bytes_read = other.bytes_read

    def delete_outside(self, windows: Sequence[DayWindow]) -> None:
        """Delete the events that are in none of the days."""
        inside = " OR ".join(["(event_time >= ? AND event_time < ?)"] * len(windows))
        bounds = [to_utc(bound) for window in windows for bound in (window.start, window.end)]
        deleted = self._run(f"DELETE FROM {quoted(self.name)} WHERE NOT ({inside})", bounds)
        self.outside_day = deleted[0][0]

    def delete_duplicates(self) -> None:
        """Leave one row for each event or profile, and make the keys unique.

        Mixpanel's rule: events with the same name, user, time and ``$insert_id`` are one, and the
        one processed last wins. Events that share only the id are different: each gets an id of
        its own, derived from its content, and keeps the original in its properties. Of profiles
        with the same id, the one read last wins.
        """
        # More than once only if an id that was made unique is one that another event came with.
        while self._find_repeated_keys():
            # One transaction: a checkpoint between the statements could renumber the rows.
            with transaction(self._connection):
                self._delete_repeated()

    def _find_repeated_keys(self) -> bool:
        """Put the keys that several rows have into ``_repeated``; return whether there are any."""
        key = self._layout.primary_key
        self._run(
            f"CREATE OR REPLACE TEMP TABLE _repeated AS SELECT {key} FROM {quoted(self.name)} "
            f"GROUP BY {key} HAVING count(*) > 1"
        )
        return self._run("SELECT count(*) FROM _repeated") != [(0,)]

    def _delete_repeated(self) -> None:
        key = self._layout.primary_key
        is_event = self._layout.type == "events"
        identity = "event_name, distinct_id, event_time, insert_id" if is_event else key
        processed = "TRY_CAST(properties->>'$.mp_processing_time_ms' AS DOUBLE) DESC NULLS LAST,"
        table = quoted(self.name)
        self._run(
            f"""
            CREATE OR REPLACE TEMP TABLE _ranked AS
            SELECT rowid AS row_id, {key} AS key, row_number() OVER (
                PARTITION BY {identity}
                ORDER BY {processed if is_event else ""} rowid DESC) AS newest
            FROM {table} WHERE {key} IN (FROM _repeated)
            """
        )
        self.duplicates += self._run(
            f"DELETE FROM {table} WHERE rowid IN (SELECT row_id FROM _ranked WHERE newest > 1)"
        )[0][0]
        if is_event:
            self._run(
                f"""
                UPDATE {table} SET
                    insert_id = insert_id || '-'
                        || content_id(event_name, event_time, distinct_id, ''),
                    properties = CASE WHEN json_exists(properties, '$."$insert_id"')
                        THEN properties ELSE json_merge_patch(
                            properties, json_object('$insert_id', insert_id)) END
                WHERE rowid IN (
                    SELECT row_id FROM _ranked WHERE newest = 1
                    QUALIFY count(*) OVER (PARTITION BY key) > 1)
                """
            )

    def _add_key(self) -> None:
        try:
            with logged_progress(self._connection, "building the key"):
                self._run(self._layout.add_key(self.name))
        except (duckdb.ConstraintException, duckdb.TransactionException):
            # A transaction of this process that began earlier could still see the rows that were
            # deleted and the ids that were changed, so they would be in the key; not in a copy's.
            self._move_to_a_copy()
            self._run(self._layout.add_key(self.name))

    def _move_to_a_copy(self, order: str = "") -> None:
        original, copy = self.name, f"{self.name}_copy"
        catalog.claim_loading_table(copy)
        self.name = copy  # what leaving the block drops
        try:
            self._run(self._layout.create_without_key(copy))
            self._run(f"INSERT INTO {quoted(copy)} SELECT * FROM {quoted(original)} {order}")
        finally:
            catalog.drop_loading_table(self._connection, original)

    def publish(
        self,
        name: str,
        metadata: TableMetadata,
        *,
        replace_table: bool,
        dataset: str | None = None,
        day: date | None = None,
        source: str | None = None,
        run_id: str | None = None,
    ) -> LoadReport:
        """Finish the table and put it in its place, in one short transaction.

        Args:
            name: the name that the table gets.
            metadata: what was fetched.
            replace_table: drop the table that has the name now.
            dataset: the dataset whose day the table is; its view is made anew.
            day: that day.
            source: where the data came from.
            run_id: what the load log is to call this run.

        Returns:
            The report of the load.
        """
        self.delete_duplicates()
        self._add_key()
        connection = self._connection
        with transaction(connection):
            kept = self._rows_kept(name) if replace_table else None
            report = self._report(name, day, source, run_id, kept)
            if replace_table:
                self._run(f"DROP TABLE IF EXISTS {quoted(name)}")
                catalog.forget_table(connection, name)
            self._run(f"ALTER TABLE {quoted(self.name)} RENAME TO {quoted(name)}")
            catalog.write_metadata(connection, name, metadata, report.rows_stored)
            catalog.append_load(connection, report, metadata)
            catalog.keep_rejected(connection, name, day, self.rejected_name)
            view = dataset or catalog.dataset_of_day_table(connection, name)
            if view is not None and (dataset or catalog.find(connection, view) == "VIEW"):
                catalog.refresh_days_view(connection, view)
        # Structured, for programs; people read the IO manager's line.
        logger.debug(
            "%s: %s rows stored in %.1f s",
            name,
            f"{report.rows_stored:,}",
            report.seconds,
            extra={"load_report": report},
        )
        return report

    def first_rejected(self, lines: int, characters: int) -> list[tuple[int, str, str]]:
        """Return number, reason and beginning of the first lines that were rejected."""
        return [
            (number, reason, line)
            for number, reason, line in self._run(
                f"SELECT line_number, reason, left(line, {int(characters)}) "
                f"FROM {self.rejected_name} ORDER BY line_number LIMIT {int(lines)}"
            )
        ]

    def _rows_kept(self, name: str) -> tuple[int, int] | None:
        """Return the rows of the table to replace, and how many of their keys are still here."""
        if catalog.find(self._connection, name) is None:
            return None
        key = self._layout.primary_key
        ((before,),) = self._run(f"SELECT count(*) FROM {quoted(name)}")
        ((kept,),) = self._run(
            f"SELECT count(*) FROM {quoted(self.name)} SEMI JOIN {quoted(name)} USING ({key})"
        )
        return before, kept

    def _report(
        self,
        table_name: str,
        day: date | None,
        source: str | None,
        run_id: str | None,
        kept: tuple[int, int] | None,
    ) -> LoadReport:
        """Return what was done, as of now; the rows are counted in the table itself."""
        ((rows,),) = self._run(f"SELECT count(*) FROM {quoted(self.name)}")
        return LoadReport(
            table_name=table_name,
            type=self._layout.type,
            day=day,
            run_id=run_id,
            source=source,
            started_at=self.started_at,
            finished_at=datetime.now(UTC),
            bytes_read=self.bytes_read,
            lines_read=self.lines_read,
            rows_stored=rows,
            duplicates=self.duplicates,
            rejected=self.rejected,
            outside_day=self.outside_day,
            repaired=self.repaired,
            gained=None if kept is None else rows - kept[1],
            lost=None if kept is None else kept[0] - kept[1],
        )

    def _insert_batch(self, batch: Batch) -> None:
        """Insert a batch of records and delete its file."""
        self.bytes_read += batch.path.stat().st_size
        self._insert(batch.path, zone="UTC", where="record", lines_before=batch.records_before)
        batch.path.unlink()

    def _insert(self, file: Path, *, zone: str, where: str | None, lines_before: int) -> None:
        """Insert a file at DuckDB's full speed or, if DuckDB refuses a line, line by line.

        Args:
            file: A file of JSON Lines.
            zone: The time zone whose wall clock the export's ``time`` shows.
            where: What an error message calls a line; None if lines that cannot be stored are kept
                as rejected lines instead.
            lines_before: The number to add to line numbers in error messages.
        """
        if not starts_with_object(file):
            self._insert_line_by_line(file, zone=zone, where=where, lines_before=lines_before)
            return
        insert = f"INSERT INTO {quoted(self.name)} "
        try:
            with logged_progress(self._connection, f"loading {file.name}"):
                inserted = self._run(insert + parsing.rows_query(self._layout, file, zone))
            self.inserted += inserted[0][0]
        except UNREADABLE as error:
            logger.info("reading %s line by line: %s", file.name, _first_line(error))
            self._insert_line_by_line(file, zone=zone, where=where, lines_before=lines_before)
        except duckdb.IOException as error:
            # DuckDB does not know all of gzip (RFC 1952): comments, header checksums, padding.
            if not (is_gzip(file) and "GZIP" in str(error)):
                raise
            logger.info("decompressing %s first: %s", file.name, _first_line(error))
            with scratch.directory(self._connection) as directory:
                plain = decompress(file, directory)
                self._insert(plain, zone=zone, where=where, lines_before=lines_before)

    def _insert_line_by_line(
        self, file: Path, *, zone: str, where: str | None, lines_before: int
    ) -> None:
        """Insert the lines of a file that can be stored, and reject the others.

        The arguments are those of ``_insert``.
        """
        columns = ", ".join(self._layout.column_names)
        with scratch.directory(self._connection) as directory:
            for lines in number_lines(file, directory):
                rows = parsing.checked_rows_query(self._layout, lines.path, lines.largest, zone)
                self._run(f"CREATE OR REPLACE TEMP TABLE _checked AS {rows}")
                rejected = self._run(
                    f"INSERT INTO {self.rejected_name} SELECT line_number, reason, "
                    f"left(line, {_KEPT_OF_A_LINE}) FROM _checked WHERE reason IS NOT NULL"
                )[0][0]
                if rejected and where is not None:
                    ((number, reason, _),) = self.first_rejected(1, 0)
                    raise ValueError(f"{where} {lines_before + number}: {reason}")
                self.rejected += rejected
                self.inserted += self._run(
                    f"INSERT INTO {quoted(self.name)} SELECT {columns} FROM _checked "
                    "WHERE reason IS NULL"
                )[0][0]
                self.repaired += self._run(
                    "SELECT count(*) FROM _checked WHERE reason IS NULL AND repaired"
                )[0][0]
        self._run("DROP TABLE IF EXISTS temp._checked")

    def _run(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return run(self._connection, sql, parameters)


@contextmanager
def transaction(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """Commit what the ``with`` block does, or roll it back on any exception."""
    try:
        run(connection, "BEGIN TRANSACTION")
        yield
    except BaseException:
        with suppress(duckdb.Error):  # it never began, or DuckDB has ended it
            run(connection, "ROLLBACK")
        raise
    run(connection, "COMMIT")


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0]

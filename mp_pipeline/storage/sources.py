"""Which sources may share a database: sample and real data never, two projects not a dataset."""

import duckdb

from mp_pipeline.storage.catalog import find_ownership, list_tables
from mp_pipeline.storage.errors import SourceMismatchError
from mp_pipeline.storage.load_log import latest_loads

SAMPLE_SOURCE = "sample"
"""The source of sample data, which never shares a database with real data."""


def check_source(connection: duckdb.DuckDBPyConnection, dataset: str, source: str | None) -> None:
    """Refuse a load that would mix sources.

    Args:
        connection: The database.
        dataset: The dataset to load into.
        source: The source of the load; None if the caller does not name it.

    Raises:
        SourceMismatchError: The dataset contains data of another source, or one of the two is
            sample data.
    """
    if source is None:
        return
    tables = [table.name for table in list_tables(connection)]
    for load in latest_loads(connection, tables).values():
        if load.source is None or load.source == source:
            continue
        ownership = find_ownership(connection, load.table_name)
        its_dataset = load.table_name if ownership is None else ownership.dataset
        if its_dataset.lower() == dataset.lower() or SAMPLE_SOURCE in (source, load.source):
            raise SourceMismatchError(
                f"this database contains data of {load.source!r} (table {load.table_name}), but "
                f"the load is of {source!r}; use a separate database file for each source"
            )

"""Which layout a database has."""

import duckdb

from mp_pipeline.storage.file_layout import FileLayout
from mp_pipeline.storage.lake import find_catalog
from mp_pipeline.storage.lake_layout import LakeLayout
from mp_pipeline.storage.layout import Layout

_FILE, _LAKE = FileLayout(), LakeLayout()


def layout_of(connection: duckdb.DuckDBPyConnection) -> Layout:
    """Return the layout of the database that a session uses."""
    return _FILE if find_catalog(connection) is None else _LAKE

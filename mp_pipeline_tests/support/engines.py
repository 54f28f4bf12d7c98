"""Databases for tests of what must be true in a file and in a lake.

Lakes need an extension of DuckDB. Here it comes from a Python package, for one version of DuckDB:
where that is installed, such tests run twice.
"""

import atexit
import functools
import importlib.util
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pytest

from mp_pipeline.storage import Lake, StorageEngine

HAS_LAKES = importlib.util.find_spec("duckdb_extension_ducklake") is not None

UNVERIFIED = {"allow_unsigned_extensions": True}
"""DuckDB takes longer to verify an extension than most tests take."""


def lake_in(directory: Path) -> Lake:
    """Return a lake whose catalog and data files are in a directory."""
    return Lake.parse(f"ducklake:{directory / 'catalog.ducklake'}", None, directory / "tmp")


def create_lake(directory: Path) -> Lake:
    """Create an empty lake in a directory: a copy, because creating one takes a second."""
    lake = lake_in(directory)
    assert lake.catalog_file is not None
    directory.mkdir(parents=True)
    shutil.copy(_empty_catalog(), lake.catalog_file)
    with duckdb.connect(str(lake.catalog_file)) as catalog:
        catalog.execute(
            "UPDATE ducklake_metadata SET value = ? WHERE key = 'data_path'", [lake.data_path]
        )
    return lake


@functools.cache
def _empty_catalog() -> Path:
    directory = tempfile.TemporaryDirectory(prefix="mp_pipeline_lake_")
    atexit.register(directory.cleanup)
    lake = lake_in(Path(directory.name))
    StorageEngine(lake).close()
    assert lake.catalog_file is not None
    return lake.catalog_file


file_only = pytest.mark.parametrize("storage", ["file"], indirect=True)
"""For tests of what a lake does not have: a table per day, keys, plans."""


LAYOUTS = ["file", "lake"] if HAS_LAKES else ["file"]
"""The layouts that tests can use here."""


@contextmanager
def open_layout(layout: str, directory: Path) -> Iterator[StorageEngine]:
    """Open an empty database of a layout; a lake is in the directory."""
    if layout == "lake":
        with StorageEngine(create_lake(directory / "lake"), config=UNVERIFIED) as engine:
            yield engine
    else:
        with StorageEngine.memory() as engine:
            yield engine


@pytest.fixture(params=LAYOUTS)
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StorageEngine]:
    """An empty database of each layout."""
    with open_layout(request.param, tmp_path) as engine:
        yield engine

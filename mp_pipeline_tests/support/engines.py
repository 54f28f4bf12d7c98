"""Databases for tests of what must be true in a file and in a lake.

Lakes need an extension of DuckDB. Here it comes from a Python package, for one version of DuckDB:
where that is installed, such tests run twice.
"""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

from mp_pipeline.storage import Lake, StorageEngine

HAS_LAKES = importlib.util.find_spec("duckdb_extension_ducklake") is not None


def lake_in(directory: Path) -> Lake:
    """Return a lake whose catalog and data files are in a directory."""
    return Lake.parse(f"ducklake:{directory / 'catalog.ducklake'}", None, directory / "tmp")


@pytest.fixture(params=["file", "lake"] if HAS_LAKES else ["file"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StorageEngine]:
    """An empty database of each layout."""
    if request.param == "lake":
        with StorageEngine(lake_in(tmp_path / "lake")) as engine:
            yield engine
    else:
        with StorageEngine.memory() as engine:
            yield engine

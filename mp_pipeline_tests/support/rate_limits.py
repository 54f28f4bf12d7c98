"""Where the tests' rate limiters record requests."""

from pathlib import Path

import pytest

from mp_pipeline.mixpanel import PostgresDatabase

AnyStore = Path | PostgresDatabase


@pytest.fixture(params=["directory", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> AnyStore:
    """A state directory, or an empty PostgreSQL database. Its text tells a process which."""
    if request.param == "directory":
        return tmp_path / "state"
    return PostgresDatabase(request.getfixturevalue("postgres").url)


def text_of(store: AnyStore) -> str:
    """Return a store as an argument of a process that uses `store_of`."""
    return str(store) if isinstance(store, Path) else store.url


def store_of(text: str) -> AnyStore:
    """Return the store that `text_of` made a text of."""
    return PostgresDatabase(text) if "://" in text else Path(text)

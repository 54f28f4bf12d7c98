"""Errors of the storage engine: they reach another process with message and attributes."""

import inspect
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

import pytest

from mp_pipeline import storage
from mp_pipeline.storage import QueryError, ShrinkRefusedError, StorageEngine, StorageError

ERRORS = sorted(
    name
    for name, value in vars(storage).items()
    if inspect.isclass(value) and issubclass(value, StorageError)
)


def fail(name: str) -> None:
    """Raise an error of that class, in another process."""
    error = getattr(storage, name)
    if issubclass(error, QueryError):
        raise error("SELEC 1", "Parser Error: what was wrong")
    if issubclass(error, ShrinkRefusedError):
        raise error([], "what was wrong, where, and what to do")
    raise error("what was wrong, where, and what to do")


def refuse_a_query() -> None:
    with StorageEngine.memory() as engine:
        engine.execute_rows("SELECT nothing FROM nowhere")


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        yield executor


def test_there_are_errors() -> None:
    assert len(ERRORS) >= 7


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_of_another_process(pool: ProcessPoolExecutor, name: str) -> None:
    error = pool.submit(fail, name).exception(60)
    assert type(error) is getattr(storage, name)
    assert "what was wrong" in str(error)


def test_a_refused_query_of_another_process(pool: ProcessPoolExecutor) -> None:
    error = pool.submit(refuse_a_query).exception(60)
    assert isinstance(error, QueryError)
    assert error.query == "SELECT nothing FROM nowhere"
    assert error.message.startswith("Catalog Error: Table with name nowhere does not exist!")
    assert str(error) == f"{error.message}\n\nThe query was:\n{error.query}"

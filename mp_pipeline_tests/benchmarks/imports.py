"""Importing the definitions, which Dagster waits for at startup."""

import time
from importlib import import_module
from pathlib import Path

from mp_pipeline_tests.benchmarks.process import Figures, run_alone
from mp_pipeline_tests.benchmarks.report import Line, Target

LIBRARIES = ("dagster", "dagster_duckdb", "duckdb")
DEFINITIONS = ("mp_pipeline.definitions",)


def imported(directory: Path, *modules: str) -> Figures:  # noqa: ARG001
    """Import modules."""
    start = time.perf_counter()
    for module in modules:
        import_module(module)
    return {"seconds": time.perf_counter() - start}


def measure(rounds: int) -> list[Line]:
    """Import both in turn, twice per round."""
    libraries, definitions = [], []
    for _ in range(2 * rounds):
        libraries.append(run_alone(imported, *LIBRARIES))
        definitions.append(run_alone(imported, *DEFINITIONS))
    alone = Line("importing", "dagster, dagster_duckdb, duckdb", libraries)
    ours = Line("importing", "mp_pipeline.definitions", definitions)
    ratio = Target("times the libraries alone", ours.seconds / alone.seconds, at_most=1.15)
    return [alone, Line(ours.section, ours.name, definitions, targets=[ratio])]

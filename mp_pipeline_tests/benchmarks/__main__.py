"""Run the sections in turn, and print one table and a JSON file."""

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rich.console import Console

from mp_pipeline_tests.benchmarks import (
    day,
    days_over_http,
    growth,
    imports,
    lake,
    metrics,
    profiles,
    sizes,
    storage,
    typed,
)
from mp_pipeline_tests.benchmarks.events import write_day
from mp_pipeline_tests.benchmarks.report import Line, table
from mp_pipeline_tests.support.engines import HAS_LAKES

PACKAGES = ("duckdb", "dagster", "orjson", "pandas", "dlt", "dagster-duckdb-pandas")


class Inputs:
    """The input files, written on first use."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def day_of(self, events: int) -> Path:
        """Return the gzip file of a day with that many events."""
        return write_day(self._directory / f"{events}.jsonl.gz", events)


def main() -> None:
    """Run the benchmark."""
    with tempfile.TemporaryDirectory(prefix="mp_pipeline-benchmark-") as directory:
        inputs = Inputs(Path(directory))
        sections: dict[str, Callable[[], list[Line]]] = {
            "day": lambda: day.measure(
                options.events, options.rounds, inputs.day_of(options.events)
            ),
            "day_http": lambda: days_over_http.measure_day(
                options.events, options.rounds, Path(directory)
            ),
            "growth": lambda: growth.measure(
                options.events,
                inputs.day_of(options.events),
                inputs.day_of(max(options.events // 10, 1)),
            ),
            "size": lambda: sizes.measure(options.events, inputs.day_of),
            "http": lambda: days_over_http.measure(options.events, Path(directory)),
            "profiles": lambda: profiles.measure(options.events, options.rounds, Path(directory)),
            "import": lambda: imports.measure(options.rounds),
            "typed": lambda: typed.measure(options.events, Path(directory)),
            "metrics": lambda: metrics.measure(10 * options.events, Path(directory)),
            "lake": lambda: lake.measure(
                options.rounds,
                inputs.day_of(options.events),
                inputs.day_of(max(options.events // 4, 1)),
                Path(directory),
            ),
            "storage": lambda: storage.measure(inputs.day_of(options.events)),
        }
        options = _options(list(sections))
        # As wide as the table, also when the output is redirected.
        console = Console(width=150, highlight=False)
        errors = Console(stderr=True, highlight=False)
        started = datetime.now(UTC)
        lines: list[Line] = []
        for name in options.sections:
            errors.print(f"{datetime.now(UTC):%H:%M:%S} {name}…")
            lines += sections[name]()
    about = _about(options.events, started)
    console.print(table(lines, ", ".join(f"{key} {value}" for key, value in about.items())))
    missed = [target for line in lines for target in line.targets if not target.met]
    console.print(f"Targets missed: {len(missed)}")
    options.json.write_text(
        json.dumps({"about": about, "lines": [asdict(line) for line in lines]}, indent=2) + "\n"
    )
    console.print(f"All figures: {options.json}")


def _options(sections: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=f"{Path(sys.executable).name} -m mp_pipeline_tests.benchmarks",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--events", type=int, default=1_000_000, help="events a day, and profiles")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each contender")
    default = [name for name in sections if name != "lake" or HAS_LAKES]
    parser.add_argument(
        "--sections", nargs="+", choices=sections, default=default, help="what to run"
    )
    parser.add_argument("--json", type=Path, default=Path("benchmark.json"), help="all figures")
    return parser.parse_args()


def _about(events: int, started: datetime) -> dict[str, str | int]:
    """Return the versions and the machine that the figures depend on."""
    about: dict[str, str | int] = {
        "date": f"{started:%Y-%m-%d}",
        "minutes": round((datetime.now(UTC) - started).total_seconds() / 60),
        "events": events,
        "cores": os.cpu_count() or 0,
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
        "machine": platform.machine(),
        "python": platform.python_version(),
    }
    return about | {name: _version(name) for name in PACKAGES}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


if __name__ == "__main__":
    main()

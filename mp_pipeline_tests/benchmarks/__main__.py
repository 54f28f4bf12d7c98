"""Run the contenders in turn, and print one table and a JSON file."""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import duckdb
from rich.console import Console
from rich.table import Table

from mp_pipeline_tests.benchmarks import contenders
from mp_pipeline_tests.benchmarks.events import write_day

console = Console(width=100, highlight=False)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m mp_pipeline_tests.benchmarks")
    parser.add_argument("--events", type=int, default=1_000_000, help="events a day")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each contender")
    parser.add_argument("--only", nargs="*", default=list(contenders.CONTENDERS))
    parser.add_argument("--json", type=Path, default=Path("benchmark.json"), help="the figures")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mp_pipeline-benchmark-") as folder:
        source = write_day(Path(folder) / "day.jsonl.gz", options.events)
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in options.only}
        for _ in range(options.rounds):
            for name in options.only:  # in turn: what else the machine does hits all alike
                runs[name].append(_run(name, options.events, source))
    figures = {name: _summary(of) for name, of in runs.items()}
    _print(figures, options.events)
    machine = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "duckdb": duckdb.__version__,
    }
    result = {"events": options.events, "machine": machine, "runs": runs, "summary": figures}
    options.json.write_text(json.dumps(result, indent=2) + "\n")
    console.print(f"All figures: {options.json}")


def _run(name: str, events: int, source: Path) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="mp_pipeline-benchmark-") as folder:
        command = [sys.executable, "-m", contenders.__name__, name, str(events)]
        result = subprocess.run(
            [*command, str(source), folder], stdout=subprocess.PIPE, text=True, check=True
        )
    figures: dict[str, float] = json.loads(result.stdout.splitlines()[-1])
    return figures


def _summary(runs: list[dict[str, float]]) -> dict[str, float]:
    """Return rows a second of the median run, and the largest peak and file."""
    rates = [run["rows"] / run["seconds"] for run in runs]
    return {
        "rows": runs[0]["rows"],
        "rows_per_second": statistics.median(rates),
        "slowest": min(rates),
        "fastest": max(rates),
        "peak_bytes": max(run["peak_bytes"] for run in runs),
        "file_bytes": max(run["file_bytes"] for run in runs),
    }


def _print(figures: dict[str, dict[str, float]], events: int) -> None:
    table = Table(title=f"One day of {events:,} events")
    table.add_column("contender")
    for column in ("rows timed", "rows/s", "range", "time ÷ floor", "peak MB", "file MB"):
        table.add_column(column, justify="right")
    floor = figures.get("floor", {}).get("rows_per_second")
    for name, of in figures.items():
        rate = of["rows_per_second"]
        table.add_row(
            name,
            f"{of['rows']:,.0f}",
            f"{rate:,.0f}",
            f"{of['slowest']:,.0f} to {of['fastest']:,.0f}",
            f"{floor / rate:.2f}" if floor else "",
            f"{of['peak_bytes'] / 1e6:,.0f}",
            f"{of['file_bytes'] / 1e6:,.0f}",
        )
    console.print(table)


if __name__ == "__main__":
    main()

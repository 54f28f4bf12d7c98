"""One day of 1, 5 and 10 times the events: time and memory."""

from collections.abc import Callable
from pathlib import Path

from mp_pipeline_tests.benchmarks.day import gzip_file
from mp_pipeline_tests.benchmarks.process import run_alone
from mp_pipeline_tests.benchmarks.report import Line, Target

TIMES = (1, 5, 10)
_MEGABYTES = {1_000_000: 800, 5_000_000: 2000, 10_000_000: 8000}
"""The targets for the peak of the whole process, by the events of the day."""


def measure(events: int, day_of: Callable[[int], Path]) -> list[Line]:
    """Load each size once; `day_of` returns the file of a day with that many events."""
    lines = []
    for times in TIMES:
        count = events * times
        run = run_alone(gzip_file, count, str(day_of(count)))
        limit = _MEGABYTES.get(count)
        peak = run["peak_bytes"] / 1e6
        targets = [Target("MB peak", peak, at_most=limit)] if limit else []
        lines.append(Line("a large day", f"gzip file of {count:,}", [run], targets=targets))
    return lines

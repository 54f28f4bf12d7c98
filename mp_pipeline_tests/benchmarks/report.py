"""The lines of the benchmark's table, and their targets."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.table import Table

from mp_pipeline_tests.benchmarks.process import Figures


@dataclass(frozen=True)
class Target:
    """A figure and its bound."""

    what: str
    value: float
    at_most: float | None = None
    at_least: float | None = None

    @property
    def met(self) -> bool:
        """Whether the figure is within its bound."""
        above = self.at_most is not None and self.value > self.at_most
        return not above and not (self.at_least is not None and self.value < self.at_least)

    def __str__(self) -> str:
        bound = f"≤ {self.at_most:g}" if self.at_least is None else f"≥ {self.at_least:g}"
        return f"{self.value:,.4g} {self.what} ({bound})"


@dataclass(frozen=True)
class Line:
    """A line of the table: something that was measured once or several times."""

    section: str
    name: str
    runs: Sequence[Figures]
    note: str = ""
    targets: list[Target] = field(default_factory=list)

    def median(self, figure: str) -> float | None:
        """Return the median of a figure, None if it was not measured."""
        values = [run[figure] for run in self.runs if figure in run]
        return statistics.median(values) if values else None

    @property
    def seconds(self) -> float:
        """The median time, in seconds."""
        return statistics.median(run["seconds"] for run in self.runs)

    @property
    def rates(self) -> list[float]:
        """Rows per second of each run with rows."""
        return [run["rows"] / run["seconds"] for run in self.runs if run.get("rows")]

    @property
    def rate(self) -> float:
        """Median rows per second."""
        return statistics.median(self.rates)


def table(lines: Sequence[Line], title: str) -> Table:
    """Return the table of all lines."""
    made = Table(title=title, title_justify="left")
    for heading in ("section", "what"):
        made.add_column(heading)
    for heading in ("rows", "seconds", "rows/s", "slowest to fastest", "peak MB", "file MB"):
        made.add_column(heading, justify="right")
    made.add_column("result (target)")
    section = ""
    for line in lines:
        if section and line.section != section:
            made.add_section()
        rates = line.rates
        peak, size = line.median("peak_bytes"), line.median("file_bytes")
        rows = line.median("rows")
        results = [f"[{'green' if each.met else 'bold red'}]{each}[/]" for each in line.targets]
        made.add_row(
            "" if line.section == section else line.section,
            line.name,
            f"{rows:,.0f}" if rows else "",
            f"{line.seconds:,.3g}" if line.median("seconds") is not None else "",
            f"{line.rate:,.0f}" if rates else "",
            f"{min(rates):,.0f} to {max(rates):,.0f}" if len(rates) > 1 else "",
            f"{peak / 1e6:,.0f}" if peak else "",
            f"{size / 1e6:,.0f}" if size else "",
            "\n".join(([line.note] if line.note else []) + results),
        )
        section = line.section
    return made

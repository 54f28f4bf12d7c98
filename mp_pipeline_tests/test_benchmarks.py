"""The benchmark, on a small day: every contender loads it, and the figures are written down."""

import json
import subprocess
import sys
from pathlib import Path

from mp_pipeline_tests.benchmarks.contenders import CONTENDERS


def test_every_contender_loads_the_day(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    result = subprocess.run(
        [
            *(sys.executable, "-m", "mp_pipeline_tests.benchmarks"),
            *("--events", "2000", "--rounds", "1", "--json", str(figures)),
        ],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    summary = json.loads(figures.read_text())["summary"]
    assert list(summary) == list(CONTENDERS)
    for name, of in summary.items():
        assert f"│ {name} " in result.stdout
        assert 1500 < of["rows"] <= 2000, name  # the sample project's days vary
        assert of["rows_per_second"] > 0
        assert of["file_bytes"] > 0

"""The benchmark, on small days: every section runs, and the figures are written down."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from mp_pipeline_tests.benchmarks import growth, typed
from mp_pipeline_tests.benchmarks.day import installed_contenders
from mp_pipeline_tests.benchmarks.events import write_day
from mp_pipeline_tests.benchmarks.process import run_alone
from mp_pipeline_tests.benchmarks.report import Line, Target, table

SECTIONS = ("day", "day_http", "profiles")  # the others take long, on any day


def test_every_section_runs_and_writes_its_figures(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    result = subprocess.run(
        [
            *(sys.executable, "-m", "mp_pipeline_tests.benchmarks", "--events", "1000"),
            *("--rounds", "1", "--json", str(figures), "--sections", *SECTIONS),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    written = json.loads(figures.read_text())
    assert written["about"]["events"] == 1000
    sections: dict[str, list[dict[str, Any]]] = {}
    for line in written["lines"]:
        sections.setdefault(line["section"], []).append(line)
        assert f" {line['name'].split()[0]}" in result.stdout
        assert all(run["seconds"] > 0 for run in line["runs"])
    assert len(sections) == len(SECTIONS)
    assert [line["name"] for line in sections["a day"]] == list(installed_contenders())
    assert [line["runs"][0]["rows"] for line in sections["profiles"]] == [1000] * 3
    for line in sections["a day"]:
        (run,) = line["runs"]
        assert 700 < run["rows"] <= 1000, line["name"]  # the sample project's days vary
        assert run["file_bytes"] > 0
        assert run["peak_bytes"] > 0


def test_a_database_of_many_days_is_measured() -> None:
    figures = run_alone(growth.many_days, 3, 5)
    assert {"load_3", "plan_3", "load_5", "plan_5"} < set(figures)
    assert figures["load_5"] > 0


def test_typed_tables_give_the_answers_of_json(tmp_path: Path) -> None:
    source = write_day(tmp_path / "day.jsonl.gz", 500)
    database = str(tmp_path / "typed.duckdb")
    assert typed.load(tmp_path, database, str(source), str(source))["rows"] == 1000
    assert typed.type_days(tmp_path, database, 2)["rows"] == 1000
    assert typed.ask(tmp_path, database)["seconds"] > 0  # or the answers differ
    changed = typed.write_changed_day(tmp_path / "changed.jsonl.gz", source)
    assert typed.year(tmp_path, str(source), str(changed), days=8)["late_ratio"] > 0
    many = typed.write_many_names(tmp_path / "many.jsonl.gz", 2000)
    assert typed.load(tmp_path, str(tmp_path / "many.duckdb"), str(many))["rows"] == 2000


def test_replacements_of_a_day_give_their_space_back(tmp_path: Path) -> None:
    figures = growth.replaced(tmp_path, str(write_day(tmp_path / "day.jsonl.gz", 2000)), times=15)
    assert figures["rows"] == 15 * 2000
    assert figures["times_first_size"] <= 2


def test_a_missed_target_shows() -> None:
    line = Line(
        "a day", "x", [{"seconds": 2.0, "rows": 10}], targets=[Target("times", 3, at_most=2)]
    )
    assert not line.targets[0].met
    assert Target("times", 3, at_least=3).met
    assert "3 times (≤ 2)" in str(list(table([line], "").columns[-1].cells))

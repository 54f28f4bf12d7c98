"""The README's commands, queries and code, word for word in a copy of the project."""

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from mp_pipeline.storage import StorageEngine

PROJECT = Path(__file__).parent.parent
README = (PROJECT / "README.md").read_text()
NEED_AN_EXTRA = {
    PROJECT / "mp_pipeline" / name
    for name in (
        "cluster/run_launcher.py",
        "cluster/worker.py",
        "explore/app.py",
        "explore/charts.py",
        "mixpanel/postgres_store.py",
    )
}


def blocks(language: str) -> list[str]:
    """The README's code blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def run(command: str, directory: Path) -> str:
    """Run a command as a new user would, and return what it printed."""
    kept = {name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR") if name in os.environ}
    kept["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    pip = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    result = subprocess.run(
        ["bash", "-c", command], cwd=directory, env=kept | pip, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of the project without what is not part of it, set up by the first command.

    What it would install is there already, from the environment of the tests: a minute less.
    """
    directory = tmp_path_factory.mktemp("checkout")
    for name in ("mp_pipeline", "mp_pipeline_tests"):
        shutil.copytree(
            PROJECT / name, directory / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name in ("README.md", "LICENSE", "pyproject.toml", "workspace.yaml", "dagster.yaml"):
        shutil.copy(PROJECT / name, directory)
    run("python3 -m venv .venv", directory)
    (site_packages,) = (directory / ".venv/lib").glob("python*/site-packages")
    (site_packages / "of_the_tests.pth").write_text(sysconfig.get_path("platlib"))
    dagster = directory / ".venv/bin/dagster"
    dagster.write_text(f"#!{dagster.with_name('python')}\nfrom dagster._cli import main\nmain()\n")
    dagster.chmod(0o755)
    printed = run(blocks("sh")[0], directory)
    assert "Database: " in printed
    assert "dagster dev" in printed
    assert "MIXPANEL_PROJECT_ID" in printed
    yield directory
    shutil.rmtree(directory)


def test_the_commands_are_the_expected_ones() -> None:
    quick_start, tests, dev, others = blocks("sh")
    assert quick_start.count("\n") == tests.count("\n") == 1
    assert tests.endswith(".venv/bin/pytest -q\n")
    assert dev == ".venv/bin/dagster dev\n"
    assert others.count("\n") == 5


def test_what_is_imported_is_installed() -> None:
    """The tests' environment has more than the first command installs."""
    distributions = importlib.metadata.packages_distributions()
    imported = {
        name.partition(".")[0]
        for path in (PROJECT / "mp_pipeline").rglob("*.py")
        if path not in NEED_AN_EXTRA
        for node in ast.walk(ast.parse(path.read_text()))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    } - {"mp_pipeline", *sys.stdlib_module_names}
    needed = {
        re.split(r"[^\w.-]", requirement)[0].replace("_", "-")
        for requirement in importlib.metadata.requires("mp-pipeline") or []
        if "extra ==" not in requirement
    }
    assert {distributions[name][0].replace("_", "-") for name in imported} <= needed


def test_first_command_loads_a_week_and_the_profiles(checkout: Path) -> None:
    with StorageEngine.open_existing(checkout / "data/sample.duckdb") as storage:
        days = storage.list_days("events")
        assert len(days) >= 7
        assert all(day.row_count > 1000 for day in days)
        assert storage.execute_scalar("SELECT count(*) FROM profiles") > 1000


def test_other_commands(checkout: Path) -> None:
    for command in blocks("sh")[3].splitlines():
        printed = run(command, checkout)
    assert printed.endswith("Everything works.\n")
    with StorageEngine.open_existing(checkout / "data/sample.duckdb") as storage:
        loaded = {str(day.day) for day in storage.list_days("events")}
    assert {"2024-03-01", "2024-03-02", "2024-03-03", "2024-03-10"} <= loaded


def test_queries(checkout: Path) -> None:
    (queries,) = blocks("sql")
    statements = [query for query in queries.split(";") if query.strip()]
    assert len(statements) == 5
    with StorageEngine.open_existing(checkout / "data/sample.duckdb") as storage:
        for statement in statements:
            rows = storage.execute_rows(statement)
            if "FROM _rejected" in statement:
                assert rows == []  # the sample has no such lines
                continue
            assert rows, statement
            assert all(value is not None for value in rows[0]), statement


def test_python_code(checkout: Path) -> None:
    (code,) = blocks("python")
    (checkout / "snippet.py").write_text(code)
    printed = run(".venv/bin/python snippet.py", checkout)
    assert "TableInfo(name='events_" in printed
    assert "Song Played" in printed


def test_it_is_short() -> None:
    assert len(README.splitlines()) < 150


def test_it_names_every_variable() -> None:
    example = (PROJECT / ".env.example").read_text()
    documented = README + (PROJECT / "docs/scale.md").read_text()
    named = set(re.findall(r"\b(?:MIXPANEL|MP_PIPELINE)_[A-Z0-9_]+\b", documented))
    assert named == set(re.findall(r"^([A-Z0-9_]+)=", example, re.MULTILINE))


def test_the_guarantees_name_tests_that_there_are() -> None:
    named = set(re.findall(r"`(test_\w+)`", (PROJECT / "docs/guarantees.md").read_text()))
    tests = "".join(path.read_text() for path in (PROJECT / "mp_pipeline_tests").glob("test_*.py"))
    assert named
    assert named - set(re.findall(r"^def (test_\w+)\(", tests, re.MULTILINE)) == set()


def test_the_pictures_of_the_docs_are_there_and_small() -> None:
    docs = "".join(path.read_text() for path in (PROJECT / "docs").glob("*.md"))
    named = re.findall(r"\]\((pictures/\w+\.png)\)", docs)
    pictures = sorted((PROJECT / "docs/pictures").iterdir())
    assert sorted(PROJECT / "docs" / name for name in named) == pictures
    assert [picture for picture in pictures if picture.stat().st_size > 200_000] == []

"""The dbt project of docs/dbt, on the sample. It needs the extra `dbt` (see conftest.py)."""

import shutil
import subprocess
import sys
from pathlib import Path

import duckdb

from mp_pipeline_tests.support.databases import query_file
from mp_pipeline_tests.support.files import REPOSITORY
from mp_pipeline_tests.support.processes import environment, run_command
from mp_pipeline_tests.support.waiting import PATIENCE

DBT = Path(sys.executable).with_name("dbt")


def test_the_project_of_the_documentation(tmp_path: Path) -> None:
    run_command(tmp_path, "backfill", "--from", "2024-03-10", "--to", "2024-03-11", "--no-profiles")
    shutil.copytree(REPOSITORY / "docs/dbt", tmp_path / "analytics")
    done = subprocess.run(
        [DBT, "build"],
        cwd=tmp_path / "analytics",
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert "Done. PASS=9 WARN=0 ERROR=0" in done.stdout, done.stdout
    ((plays,),) = query_file(
        tmp_path / "data/sample.duckdb", "SELECT count(*) FROM event.song_played"
    )
    with duckdb.connect(tmp_path / "analytics/analytics.duckdb", read_only=True) as connection:
        assert connection.sql("SELECT count(*) FROM plays").fetchall() == [(plays,)]
        for table in ("daily_plays", "artists"):
            sums = f"SELECT sum(plays), sum(listeners) > 0 FROM {table}"
            assert connection.sql(sums).fetchall() == [(plays, True)]

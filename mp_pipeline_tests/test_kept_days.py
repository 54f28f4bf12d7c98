"""Days whose events Mixpanel has deleted: neither replaced nor requested, unless told to."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from mp_pipeline.checks.days import only_here
from mp_pipeline.io_manager import MixpanelDuckDBIOManager
from mp_pipeline.project import Project
from mp_pipeline.settings import Settings
from mp_pipeline_tests.faults import Fault, FaultyServer
from mp_pipeline_tests.support.dagster import materialize, plain, resources
from mp_pipeline_tests.support.databases import query, tamper
from mp_pipeline_tests.support.processes import ONLY_LOAD, run_command
from mp_pipeline_tests.support.project import events
from mp_pipeline_tests.support.records import DAY, DAY_AFTER, DAYS, NEXT_DAY
from mp_pipeline_tests.support.runs import requested_dates
from mp_pipeline_tests.support.servers import EVENTS_PER_DAY, credentials, insert_ids_of

VARIABLES = {"MP_PIPELINE_DATABASE": "test.duckdb", "MIXPANEL_EXPORTS_PER_SECOND": "1000"}
DELETED = Fault("body", body=b"", day=NEXT_DAY, times=None)
"""Mixpanel's answer for a day whose events it has deleted."""


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer(events_per_day=EVENTS_PER_DAY, today=date(2024, 1, 22)) as running:
        yield running


def backfill(
    directory: Path,
    server: FaultyServer,
    *options: str,
    code: int = 0,
    last: date = DAY_AFTER,
    env: Mapping[str, str] | None = None,
) -> str:
    """Run `mp-pipeline backfill` for three days."""
    env = credentials(server) | ONLY_LOAD | VARIABLES | dict(env or {})
    return run_command(
        directory,
        *("backfill", "--from", str(DAY), "--to", str(last), "--no-profiles"),
        *options,
        env=env,
        code=code,
    )


def rows(directory: Path) -> dict[date, int]:
    return dict(query(directory, "SELECT event_time::DATE, count(*) FROM events GROUP BY ALL"))


ALL = {day: len(insert_ids_of(day)) for day in DAYS}


def test_a_day_that_mixpanel_has_deleted_is_kept(server: FaultyServer, tmp_path: Path) -> None:
    backfill(tmp_path, server)
    server.faults.append(replace(DELETED))
    printed = backfill(tmp_path, server, code=1)
    loaded = [line.split()[1] for line in printed.splitlines() if line.startswith("│")]
    assert loaded == [str(DAY), str(DAY_AFTER)]
    assert (
        f"Failed: events_20240116: the reload would keep 0 of {ALL[NEXT_DAY]} rows (0.0%), less "
        "than the 50% required. The existing data is kept."
    ) in printed
    assert "run it with allow_shrink: true" in printed
    assert rows(tmp_path) == ALL

    printed = backfill(tmp_path, server, "--allow-shrink")
    (line,) = [line for line in printed.splitlines() if line.startswith(f"│ {NEXT_DAY}")]
    _, _, stored, gained, lost, *_ = line.replace("│", " │ ").split("│")
    assert [stored.strip(), gained.strip(), lost.strip()] == ["0", "0", str(ALL[NEXT_DAY])]
    assert f"Warning: check volume of events: {NEXT_DAY} lost {ALL[NEXT_DAY]} of" in printed
    assert rows(tmp_path) == {day: ALL[day] for day in (DAY, DAY_AFTER)}


def test_a_smaller_fraction_may_be_required(server: FaultyServer, tmp_path: Path) -> None:
    backfill(tmp_path, server)
    server.faults.append(replace(DELETED))
    backfill(tmp_path, server, env={"MP_PIPELINE_MIN_KEPT_FRACTION": "0"})
    assert rows(tmp_path) == {day: ALL[day] for day in (DAY, DAY_AFTER)}


def test_a_refused_day_is_not_materialized(server: FaultyServer, tmp_path: Path) -> None:
    available = resources(tmp_path, server)
    available["mixpanel_duckdb"] = MixpanelDuckDBIOManager(
        duckdb=available["duckdb"], max_rejected_fraction=1, min_kept_fraction=0.5
    )
    assert materialize([events], available, days=(DAY, DAY_AFTER)).success
    server.faults.append(replace(DELETED))
    run = materialize([events], available, days=(DAY, DAY_AFTER))
    assert not run.success
    assert "events_20240116: the reload would keep 0 of" in run.error
    assert "2 of 3 days are loaded: 2024-01-15, 2024-01-17. Not loaded: 2024-01-16." in run.log
    assert rows(tmp_path) == ALL


RETENTION = {"MIXPANEL_RETENTION_DAYS": "30"}


def test_days_older_than_the_retention_are_not_requested_again(
    server: FaultyServer, tmp_path: Path
) -> None:
    backfill(tmp_path, server, last=NEXT_DAY)
    requested_dates(server)

    printed = backfill(tmp_path, server, env=RETENTION)
    assert (
        "2 of 3 days are older than MIXPANEL_RETENTION_DAYS and are kept: 2024-01-15 to 2024-01-16"
    ) in printed
    assert requested_dates(server) == [(str(DAY_AFTER),) * 2]  # it was never loaded
    assert rows(tmp_path) == ALL

    backfill(tmp_path, server, "--allow-shrink", env=RETENTION)
    assert requested_dates(server) == [(str(day),) * 2 for day in DAYS]


def judge(directory: Path, now: datetime) -> dg.AssetCheckEvaluation:
    """Run the check with a retention of 30 days."""
    check = only_here(Project(Settings(mixpanel_retention_days=30)), events, clock=lambda: now)
    run = materialize(
        [events, check], resources(directory), only=dg.AssetSelection.checks(check.check_key)
    )
    return run.checks["only_here"]


def test_days_that_exist_only_here_are_named(server: FaultyServer, tmp_path: Path) -> None:
    assert materialize([events], resources(tmp_path, server), days=(DAY, DAY_AFTER)).success
    young = judge(tmp_path, datetime(2024, 2, 14, 12, tzinfo=UTC))
    assert (young.passed, young.description) == (
        True,
        "no loaded day is older than 2024-01-15, the first that Mixpanel still has",
    )
    old = judge(tmp_path, datetime(2024, 2, 16, 12, tzinfo=UTC))
    assert (old.passed, old.description) == (
        True,
        "2024-01-15 to 2024-01-16 exist only here, and are intact",
    )
    spans: Any = plain(old.metadata["spans"])
    assert spans == [{"first": "2024-01-15", "last": "2024-01-16", "days": 2}]


def test_days_that_exist_only_here_and_are_damaged(server: FaultyServer, tmp_path: Path) -> None:
    assert materialize([events], resources(tmp_path, server), days=(DAY, DAY_AFTER)).success
    tamper(tmp_path, "DROP TABLE events_20240116")
    result = judge(tmp_path, datetime(2024, 2, 16, 12, tzinfo=UTC))
    assert (result.passed, result.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert str(result.description).startswith(
        "events_20240116 exist only here, and are damaged: there is no table 'events_20240116'"
    )

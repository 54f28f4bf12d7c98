"""Common mistakes, on the command line and in Dagster runs.

Each fails at once and says what is wrong, where, and what to do. It leaves no database and no file.
"""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import pytest

from mp_pipeline_tests.faults import Fault, FaultyServer
from mp_pipeline_tests.support.dagster import materialize, resources
from mp_pipeline_tests.support.processes import environment, run_command
from mp_pipeline_tests.support.project import events
from mp_pipeline_tests.support.servers import credentials

DAY = date(2024, 3, 10)
TWO_DAYS = ("--from", "2024-03-10", "--to", "2024-03-11")


@dataclass(frozen=True)
class Refusal:
    """A mistake that only Mixpanel notices, after one request."""

    status: int
    says: tuple[str, ...]
    """What the message contains: Mixpanel's own, and what to do."""
    body: str = ""
    """Mixpanel's response; if empty, that of the sample server."""
    secret: str | None = None
    """A wrong secret; None for the right one."""
    today: date | None = None
    """The current day for Mixpanel; None for the real one."""
    options: tuple[str, ...] = ()

    def server(self) -> FaultyServer:
        server = FaultyServer() if self.today is None else FaultyServer(today=self.today)
        if self.body:
            body = self.body.encode()
            server.faults.append(
                Fault("status", path="", status=self.status, body=body, times=None)
            )
        return server

    def secret_of(self, server: FaultyServer) -> str:
        return self.secret or server.secret


REFUSALS = {
    "bad credentials": Refusal(
        401,
        (
            "Invalid service account credentials",
            "Check the service account's username and secret and the project id "
            "(MIXPANEL_SERVICE_ACCOUNT_USERNAME, MIXPANEL_SERVICE_ACCOUNT_SECRET, "
            "MIXPANEL_PROJECT_ID)",
            "MIXPANEL_REGION=eu or MIXPANEL_REGION=in",
        ),
        secret="not-the-secret",
    ),
    "wrong region": Refusal(
        400,
        (
            "invalid project id for cluster",
            "Set the region to us, eu or in (MIXPANEL_REGION), as Mixpanel's project settings say "
            "under Data Residency",
        ),
        body='{"request": "/x", "error": "request failed with error: invalid project id for '
        'cluster."}',
    ),
    "plan without export": Refusal(
        402,
        (
            "Your plan does not allow API calls. Upgrade at mixpanel.com/pricing",
            "Ask an owner of the project to change the plan or the role",
        ),
        body='{"request": "/x", "error": "Your plan does not allow API calls. Upgrade at '
        'mixpanel.com/pricing"}',
        options=("--no-profiles",),
    ),
    "a date in Mixpanel's future": Refusal(
        400,
        (
            "to_date cannot be later than today",
            "That day has not begun in the project's time zone. Export it when it has.",
        ),
        today=DAY - timedelta(days=1),
        options=("--no-profiles",),
    ),
}


@pytest.fixture(params=list(REFUSALS))
def refusal(request: pytest.FixtureRequest) -> Refusal:
    return REFUSALS[request.param]


@pytest.fixture
def refusing(refusal: Refusal) -> Iterator[FaultyServer]:
    with refusal.server() as server:
        yield server


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer() as server:
        yield server


def requests_to(server: FaultyServer) -> list[tuple[str, int]]:
    return [(request.path, request.status) for request in server.requests]


def told(printed: str) -> str:
    """Return the only line of an output that says what failed."""
    (line,) = [each for each in printed.splitlines() if each.startswith(("Failed: ", "Error: "))]
    return line


# The command line


def test_a_backfill_that_mixpanel_refuses(
    refusal: Refusal, refusing: FaultyServer, tmp_path: Path
) -> None:
    env = credentials(refusing) | {"MIXPANEL_SERVICE_ACCOUNT_SECRET": refusal.secret_of(refusing)}
    printed = run_command(tmp_path, "backfill", *TWO_DAYS, *refusal.options, env=env, code=1)
    assert printed.startswith(f"\nDatabase: {tmp_path / 'data/mixpanel.duckdb'}\nFailed: ")
    # The profiles would be refused as well, and so would the second day.
    assert requests_to(refusing) == [("/api/2.0/export", refusal.status)]
    assert told(printed).startswith(
        f"Failed: export of 2024-03-10 failed: status {refusal.status}, Mixpanel says: "
    )
    assert f"(GET {refusing.export_url}/export, 1 attempt). " in told(printed)
    for words in refusal.says:
        assert words in told(printed)
    options = " --no-profiles" if refusal.options else ""
    assert f"To resume: mp-pipeline backfill {' '.join(TWO_DAYS)}{options}\n" in printed
    assert "Traceback" not in printed
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("refusal", ["wrong region"], indirect=True)
def test_a_check_that_mixpanel_refuses(
    refusal: Refusal, refusing: FaultyServer, tmp_path: Path
) -> None:
    env = credentials(refusing) | {"MIXPANEL_SERVICE_ACCOUNT_SECRET": refusal.secret_of(refusing)}
    printed = run_command(tmp_path, "check", env=env, code=1)
    assert requests_to(refusing) == [("/api/2.0/export", refusal.status)]
    assert f"(GET {refusing.export_url}/export, 1 attempt). " in told(printed)
    for words in refusal.says:
        assert words in told(printed)
    assert "Traceback" not in printed
    assert list(tmp_path.iterdir()) == []


WRONG_DAYS = {
    "a date in the future": (
        (*TWO_DAYS[:2], "--to", "2999-01-01"),
        "--to 2999-01-01 is after the last complete day, ",
        ": a day can be loaded once it is over in the project's time zone",
    ),
    "a first date in the future": (
        ("--from", "2999-01-01"),
        "--from 2999-01-01 is after the last complete day, ",
        ": a day can be loaded once it is over in the project's time zone",
    ),
    "start after end": (
        ("--from", "2024-03-11", "--to", "2024-03-10"),
        "--from 2024-03-11 is after --to 2024-03-10",
        ": swap them",
    ),
}


@pytest.mark.parametrize(("days", "wrong", "advice"), WRONG_DAYS.values(), ids=WRONG_DAYS)
def test_days_that_cannot_be_loaded(
    days: tuple[str, ...], wrong: str, advice: str, server: FaultyServer, tmp_path: Path
) -> None:
    printed = run_command(tmp_path, "backfill", *days, env=credentials(server), code=2)
    assert told(printed).startswith(f"Error: {wrong}")
    assert told(printed).endswith(advice)
    assert "Traceback" not in printed
    assert server.requests == []
    assert list(tmp_path.iterdir()) == []


WRONG_SETTINGS = {
    "unknown time zone": (
        {"MIXPANEL_PROJECT_TIMEZONE": "Berlin"},
        "MIXPANEL_PROJECT_TIMEZONE ('Berlin'): is not an IANA time zone, such as Europe/Berlin",
    ),
    "unknown region": (
        {"MIXPANEL_REGION": "asia"},
        "MIXPANEL_REGION ('asia'): Input should be 'us', 'eu' or 'in'",
    ),
    "incomplete credentials": (
        {"MIXPANEL_PROJECT_ID": ""},
        "MIXPANEL_PROJECT_ID must be set too: set all three credentials, or none of them to use "
        "the sample project",
    ),
    "a URL and no credentials": (
        {
            "MIXPANEL_PROJECT_ID": "",
            "MIXPANEL_SERVICE_ACCOUNT_USERNAME": "",
            "MIXPANEL_SERVICE_ACCOUNT_SECRET": "",
        },
        "MIXPANEL_EXPORT_URL or MIXPANEL_QUERY_URL is set, but the credentials are not: set "
        "MIXPANEL_PROJECT_ID, MIXPANEL_SERVICE_ACCOUNT_USERNAME, MIXPANEL_SERVICE_ACCOUNT_SECRET",
    ),
}


@pytest.mark.parametrize("command", ["backfill", "check"])
@pytest.mark.parametrize("name", WRONG_SETTINGS)
def test_settings_that_cannot_be_used(
    name: str, command: str, server: FaultyServer, tmp_path: Path
) -> None:
    variables, message = WRONG_SETTINGS[name]
    env = credentials(server) | variables
    printed = run_command(tmp_path, command, env=env, code=1)
    assert printed == f"Error: {message}\n"
    assert server.requests == []
    assert list(tmp_path.iterdir()) == []


# Dagster


def test_a_run_that_mixpanel_refuses(
    refusal: Refusal, refusing: FaultyServer, tmp_path: Path
) -> None:
    available = resources(
        tmp_path, refusing, service_account_secret=refusal.secret_of(refusing), prefetch=2
    )
    run = materialize([events], available, days=(DAY, DAY + timedelta(days=2)))
    assert not run.success
    assert requests_to(refusing) == [("/api/2.0/export", refusal.status)]
    assert f"export of 2024-03-10 failed: status {refusal.status}, Mixpanel says: " in run.error
    assert f"(GET {refusing.export_url}/export, 1 attempt). " in run.error
    for words in refusal.says:
        assert words in run.error
    assert list(tmp_path.iterdir()) == []


def dagster_materialize(
    directory: Path, *days: str, **variables: str
) -> "subprocess.CompletedProcess[str]":
    """Run `dagster asset materialize` in a directory."""
    return subprocess.run(
        [
            str(Path(sys.executable).parent / "dagster"),
            *("asset", "materialize", "-m", "mp_pipeline.definitions", "--select", "events"),
            *days,
        ],
        cwd=directory,
        env=environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )


def test_settings_that_dagster_cannot_use(server: FaultyServer, tmp_path: Path) -> None:
    variables, message = WRONG_SETTINGS["unknown time zone"]
    env = credentials(server) | variables
    done = dagster_materialize(tmp_path, "--partition", "2024-03-10", **env)
    assert done.returncode == 1
    assert done.stdout.endswith(f"SettingsError: {message}\n")
    assert server.requests == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("days", "words"),
    [
        (("--partition", "2999-01-01"), "Could not find a partition with key `2999-01-01`"),
        (
            ("--partition-range", "2024-03-11...2024-03-10"),
            "the range of days is reversed: it starts at 2024-03-11 and ends at 2024-03-10; swap",
        ),
    ],
    ids=["a date in the future", "start after end"],
)
def test_days_that_dagster_cannot_load(
    days: tuple[str, ...], words: str, server: FaultyServer, tmp_path: Path
) -> None:
    done = dagster_materialize(tmp_path, *days, **credentials(server))
    assert done.returncode == 1
    assert words in done.stdout
    assert server.requests == []
    assert list(tmp_path.iterdir()) == []

"""The settings of Dagster and the units of a server: they load, and what they name is there."""

import itertools
import re
import shlex
from pathlib import Path

import dagster as dg
import pytest

from mp_pipeline_tests.support.deployment import (
    DEPLOY,
    UNITS,
    Deployment,
    Unit,
    unit_lines,
    without_postgres,
)
from mp_pipeline_tests.support.files import REPOSITORY

SETTINGS = {
    "laptop": (REPOSITORY / "dagster.yaml").read_text(),
    "server": (DEPLOY / "dagster.yaml").read_text(),
}


@pytest.mark.parametrize("place", SETTINGS)
def test_the_settings_load(place: str, tmp_path: Path) -> None:
    (tmp_path / "dagster.yaml").write_text(without_postgres(SETTINGS[place]))
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        assert instance.run_retries_enabled
        assert instance.run_retries_max_retries == 2
        assert not instance.run_retries_retry_on_asset_or_op_failure
        assert instance.run_monitoring_enabled
        assert instance.run_monitoring_max_runtime_seconds == 24 * 60 * 60
        queue = instance.get_concurrency_config().run_queue_config
        assert queue is not None
        assert queue.max_concurrent_runs == 4
        assert queue.tag_concurrency_limits == [{"key": "dagster/backfill", "limit": 2}]
        assert not instance.telemetry_enabled


@pytest.mark.parametrize("place", SETTINGS)
def test_every_setting_is_explained(place: str) -> None:
    lines = [line.strip() for line in SETTINGS[place].splitlines()]
    for before, line in itertools.pairwise(lines):
        is_setting = re.match(r"(- )?\w+: \S", line) and not before.startswith("- ")
        if is_setting:
            assert before.startswith("#"), line


def test_no_secret_stands_in_the_settings() -> None:
    (block,) = re.findall(r"postgres_url:\n\s+#.*\n\s+(.*)\n", SETTINGS["server"])
    assert block == "env: DAGSTER_POSTGRES_URL"


@pytest.mark.parametrize("unit", UNITS)
def test_the_commands_of_a_unit_are_there(unit: Unit, tmp_path: Path) -> None:
    server = Deployment(tmp_path, 3000)
    commands = [
        shlex.split(server.adapt(line))
        for key in ("ExecStartPre", "ExecStart", "ExecStartPost")
        for line in unit_lines(unit, key)
    ]
    assert commands
    named = re.findall(r"(?<![\w/.])/[\w./-]+", " ".join(shlex.join(each) for each in commands))
    made_by_services = str(tmp_path / "code.sock")
    assert [path for path in named if not Path(path).exists()] in ([], [made_by_services] * 2)


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_restarts_and_may_write_in_its_directory_only(unit: Unit) -> None:
    assert unit_lines(unit, "Restart") == ["always"]
    assert unit_lines(unit, "User") == ["mp-pipeline"]
    assert unit_lines(unit, "ProtectSystem") == ["strict"]
    assert unit_lines(unit, "StateDirectory") == ["mp-pipeline"]
    assert unit_lines(unit, "NoNewPrivileges") == ["true"]


def test_only_the_code_server_has_mixpanels_credentials() -> None:
    files = {unit: unit_lines(unit, "EnvironmentFile") for unit in UNITS}
    dagster, mixpanel = "/etc/mp-pipeline/dagster.env", "/etc/mp-pipeline/mixpanel.env"
    assert files == {"code": [dagster, mixpanel], "daemon": [dagster], "webserver": [dagster]}


def test_the_daemon_runs_while_the_code_server_does() -> None:
    assert unit_lines("daemon", "BindsTo") == ["mp-pipeline-code.service"]
    assert "mp-pipeline-code.service" in unit_lines("daemon", "After")[0]
    assert unit_lines("code", "Upholds") == ["mp-pipeline-daemon.service"]


def test_the_readme_names_the_variables() -> None:
    readme = (DEPLOY / "README.md").read_text()
    named = set(re.findall(r"^ *([A-Z_]+)=", readme, re.MULTILINE))
    known = set(re.findall(r"^([A-Z_]+)=", (REPOSITORY / ".env.example").read_text(), re.MULTILINE))
    assert named - known == {"DAGSTER_HOME", "DAGSTER_POSTGRES_URL"}
    assert "chmod 600" in readme

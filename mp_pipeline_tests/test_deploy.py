"""The settings of Dagster and the units of a server: they load, and what they name is there."""

import itertools
import re
import shlex
import tomllib
from pathlib import Path

import dagster as dg
import pytest
from dagster_shared.yaml_utils import load_yaml_from_path

from mp_pipeline.project import PROJECT_TAG
from mp_pipeline_tests.support.cluster import DAGSTER_YAML
from mp_pipeline_tests.support.deployment import (
    DEPLOY,
    SERVICES,
    UNITS,
    Deployment,
    Unit,
    unit_lines,
    without_launcher,
    without_postgres,
)
from mp_pipeline_tests.support.files import REPOSITORY

SETTINGS = {
    "laptop": (REPOSITORY / "dagster.yaml").read_text(),
    "server": (DEPLOY / "dagster.yaml").read_text(),
    "cluster": DAGSTER_YAML.read_text(),
}
KUBERNETES = DEPLOY / "cluster/kubernetes"
LIMITS = {
    "laptop": (4, [{"key": "dagster/backfill", "limit": 2}]),
    "server": (4, [{"key": "dagster/backfill", "limit": 2}]),
    "cluster": (
        6,
        [
            {"key": PROJECT_TAG, "value": {"applyLimitPerUniqueValue": True}, "limit": 4},
            {"key": "dagster/backfill", "limit": 4},
        ],
    ),
}


@pytest.mark.parametrize("place", SETTINGS)
def test_the_settings_load(place: str, tmp_path: Path) -> None:
    settings = without_launcher(without_postgres(SETTINGS[place]))
    (tmp_path / "dagster.yaml").write_text(settings)
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        assert instance.run_retries_enabled
        assert instance.run_retries_max_retries == 2
        assert instance.run_retries_retry_on_asset_or_op_failure == (place == "cluster")
        assert instance.run_monitoring_enabled
        assert instance.run_monitoring_max_runtime_seconds == 24 * 60 * 60
        queue = instance.get_concurrency_config().run_queue_config
        assert queue is not None
        assert (queue.max_concurrent_runs, queue.tag_concurrency_limits) == LIMITS[place]
        assert not instance.telemetry_enabled


@pytest.mark.parametrize("place", SETTINGS)
def test_every_setting_is_explained(place: str) -> None:
    lines = [line.strip() for line in SETTINGS[place].splitlines()]
    for before, line in itertools.pairwise(lines):
        is_setting = re.match(r"(- )?\w+: \S", line) and not before.startswith(("- ", "module: "))
        if is_setting:
            assert before.startswith("#"), line


@pytest.mark.parametrize("place", ["server", "cluster"])
def test_no_secret_stands_in_the_settings(place: str) -> None:
    urls = re.findall(r"(postgres_url|broker|backend):\n\s+#.*\n\s+env: (\w+)\n", SETTINGS[place])
    expected = {"postgres_url": "DAGSTER_POSTGRES_URL"}
    if place == "cluster":
        broker = "DAGSTER_CELERY_BROKER_URL"
        expected |= {"broker": broker, "backend": broker}
    assert dict(urls) == expected


@pytest.mark.parametrize("unit", SERVICES)
def test_the_commands_of_a_unit_are_there(unit: Unit, tmp_path: Path) -> None:
    server = Deployment(tmp_path)
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


def test_only_the_code_server_and_the_workers_have_mixpanels_credentials() -> None:
    files = {unit: unit_lines(unit, "EnvironmentFile") for unit in UNITS}
    dagster, mixpanel = "/etc/mp-pipeline/dagster.env", "/etc/mp-pipeline/mixpanel.env"
    assert files == {
        "code": [dagster, mixpanel],
        "daemon": [dagster],
        "webserver": [dagster],
        "worker@": [dagster, mixpanel],
    }


def test_the_daemon_runs_while_the_code_server_does() -> None:
    assert unit_lines("daemon", "BindsTo") == ["mp-pipeline-code.service"]
    assert "mp-pipeline-code.service" in unit_lines("daemon", "After")[0]
    assert unit_lines("code", "Upholds") == ["mp-pipeline-daemon.service"]


def test_kubernetes_has_the_limits_of_the_cluster() -> None:
    values = load_yaml_from_path(str(KUBERNETES / "values.yaml"))
    settings = load_yaml_from_path(str(DAGSTER_YAML))
    assert isinstance(values, dict)
    assert isinstance(settings, dict)
    runs = values["concurrency"]["runs"]
    assert (runs["maxConcurrentRuns"], runs["tagConcurrencyLimits"]) == LIMITS["cluster"]
    retries = values["dagsterDaemon"]["runRetries"]
    assert [retries["maxRetries"], retries["retryOnAssetOrOpFailure"]] == [2, True]
    queue = values["dagsterDaemon"]["runCoordinator"]["config"]["customRunCoordinator"]
    assert queue == settings["run_coordinator"]


def test_the_image_has_what_the_dockerfile_copies_and_installs() -> None:
    dockerfile = (KUBERNETES / "Dockerfile").read_text()
    ignored = (KUBERNETES / "Dockerfile.dockerignore").read_text().splitlines()
    copied = {
        name for line in re.findall(r"^COPY (.+) \S+$", dockerfile, re.M) for name in line.split()
    }
    assert copied == {line[1:] for line in ignored if line.startswith("!")}
    assert [name for name in copied if not (REPOSITORY / name).exists()] == []
    (extras,) = re.findall(r"pip install --no-cache-dir '\.\[([\w,]+)\]'", dockerfile)
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    installed = {
        each for name in extras.split(",") for each in project["optional-dependencies"][name]
    }
    for package in ("dagster-k8s", "psycopg", "duckdb-extension-ducklake"):
        assert any(each.startswith(package) for each in installed)


def test_the_readme_names_the_variables() -> None:
    readme = (DEPLOY / "README.md").read_text()
    named = set(re.findall(r"^ *([A-Z_]+)=", readme, re.MULTILINE))
    example = (REPOSITORY / ".env.example").read_text()
    known = set(re.findall(r"^([A-Z0-9_]+)=", example, re.MULTILINE))
    assert named - known == {"DAGSTER_HOME", "DAGSTER_POSTGRES_URL"}
    assert "chmod 600" in readme

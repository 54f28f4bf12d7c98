"""The package as a library: its imports read no environment, and its examples run."""

import doctest
import pkgutil
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import mp_pipeline
from mp_pipeline import mixpanel
from mp_pipeline.factory import mixpanel_project
from mp_pipeline.mixpanel import MixpanelClient, RateLimits
from mp_pipeline.sample import SampleServer, events_of_day
from mp_pipeline.settings import Settings
from mp_pipeline.storage import StorageEngine
from mp_pipeline_tests.support.processes import run_python

DEFINITIONS = "mp_pipeline.definitions"
NEED_AN_EXTRA = {
    "mp_pipeline.cluster.run_launcher",
    "mp_pipeline.cluster.worker",
    "mp_pipeline.explore.app",
    "mp_pipeline.explore.charts",
}
MODULES = [
    module.name
    for module in pkgutil.walk_packages(mp_pipeline.__path__, "mp_pipeline.")
    if module.name not in {DEFINITIONS, *NEED_AN_EXTRA}
]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert doctest.testmod(import_module(name)).failed == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "what",
    [
        mixpanel,
        MixpanelClient,
        RateLimits,
        SampleServer,
        Settings,
        StorageEngine,
        StorageEngine.create_profiles_table,
        StorageEngine.replace_events_days,
        StorageEngine.replace_table,
        StorageEngine.execute_df,
        events_of_day,
        mixpanel_project,
    ],
)
def test_what_users_call_has_an_example(what: Any) -> None:
    assert doctest.DocTestParser().get_examples(what.__doc__)


IMPORT = """
    from importlib import import_module

    for name in {names}:
        import_module(name)
"""
BROKEN = {"MIXPANEL_REGION": "nowhere", "MIXPANEL_START_DATE": "soon"}


def test_only_the_definitions_read_the_environment(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("MP_PIPELINE_LOCK_TIMEOUT=-1\n")
    others = run_python(IMPORT.format(names=MODULES), tmp_path, **BROKEN)
    assert (others.returncode, others.stdout, others.stderr) == (0, "", "")
    assert {path.name for path in tmp_path.iterdir()} == {".env"}
    definitions = run_python(IMPORT.format(names=[DEFINITIONS]), tmp_path, **BROKEN)
    assert definitions.returncode == 1
    for name in [*BROKEN, "MP_PIPELINE_LOCK_TIMEOUT"]:
        assert name in definitions.stderr

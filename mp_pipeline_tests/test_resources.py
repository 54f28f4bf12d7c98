"""The resources: a Mixpanel project and its secrets, and a database that processes share."""

import json
import os
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pytest
from dagster_duckdb import DuckDBResource
from pydantic import SecretStr

from mp_pipeline.factory import mixpanel_project
from mp_pipeline.partitions import range_tags
from mp_pipeline.resources import (
    MixpanelDuckDBResource,
    MixpanelResource,
    duckdb_resource,
    mixpanel_resource,
)
from mp_pipeline.sample import SampleServer, events_of_day
from mp_pipeline.settings import Settings
from mp_pipeline.storage import DatabaseLockedError, StorageError
from mp_pipeline_tests.support.dagster import database, materialize, mixpanel, resources
from mp_pipeline_tests.support.databases import query, query_column
from mp_pipeline_tests.support.files import files_in
from mp_pipeline_tests.support.processes import run_python
from mp_pipeline_tests.support.project import events, profiles
from mp_pipeline_tests.support.records import DAY
from mp_pipeline_tests.support.servers import EVENTS_PER_DAY, insert_ids_of

USERNAME = "robot.7a3f"
SECRET = "correct-horse-battery"


@pytest.fixture(scope="module")
def server() -> Iterator[SampleServer]:
    with SampleServer(username=USERNAME, secret=SECRET, events_per_day=EVENTS_PER_DAY) as running:
        yield running


# The Mixpanel project and its secrets


def test_mixpanel_resource_shows_no_secrets(server: SampleServer) -> None:
    resource = mixpanel(server)
    with resource.get_client() as client:
        for shown in (repr(resource), str(resource), f"{resource}", f"{[resource]}", repr(client)):
            assert server.project_id in shown
            assert SECRET not in shown
            assert USERNAME not in shown


def test_secrets_are_not_in_the_event_log(server: SampleServer, tmp_path: Path) -> None:
    wrong = resources(
        tmp_path,
        server,
        service_account_username="intruder.9",
        service_account_secret="wrong-horse",
    )
    run = materialize([events, profiles], wrong, days=(DAY, DAY))
    assert not run.success
    assert "Invalid service account credentials" in run.log
    assert "MIXPANEL_SERVICE_ACCOUNT_SECRET" in run.log
    assert "wrong-horse" not in run.log
    assert "intruder.9" not in run.log


def test_an_error_message_with_the_resource_shows_no_secret(
    server: SampleServer, tmp_path: Path
) -> None:
    @dg.asset
    def clumsy(mixpanel: MixpanelResource) -> None:
        raise RuntimeError(f"cannot go on with {mixpanel!r}")

    run = materialize([clumsy], resources(tmp_path, server))
    assert f"cannot go on with MixpanelResource(project_id='{server.project_id}'" in run.error
    assert SECRET not in run.log
    assert USERNAME not in run.log


REAL_PROJECT = """
    import json, sys, warnings

    import dagster as dg
    from dagster._core.remote_representation.external_data import RepositorySnap
    from mp_pipeline.definitions import defs

    # Dagster's own code causes these.
    for message in ("Property `ScheduleDefinition.environment_vars`", "InitResourceContext"):
        warnings.filterwarnings("ignore", message)
    repository = defs.get_repository_def()
    shown = dg.serialize_value(RepositorySnap.from_def(repository))
    with dg.DagsterInstance.ephemeral() as instance:
        job = defs.resolve_job_def("events_job")
        result = job.execute_in_process(instance=instance, partition_key="2024-01-15")
        log = [str(record) for record in instance.all_logs(result.run_id)]
    json.dump({"shown": shown, "log": log, "success": result.success}, sys.stdout)
"""


def test_secrets_stay_in_the_environment(server: SampleServer, tmp_path: Path) -> None:
    done = run_python(
        REAL_PROJECT,
        tmp_path,
        MIXPANEL_PROJECT_ID=server.project_id,
        MIXPANEL_SERVICE_ACCOUNT_USERNAME=USERNAME,
        MIXPANEL_SERVICE_ACCOUNT_SECRET=SECRET,
        MIXPANEL_EXPORT_URL=server.export_url,
        MIXPANEL_QUERY_URL=server.query_url,
        MP_PIPELINE_DATABASE="test.duckdb",
    )
    assert done.returncode == 0, done.stderr
    assert SECRET not in done.stdout + done.stderr
    assert USERNAME not in done.stdout + done.stderr
    answer = json.loads(done.stdout)
    # The UI knows only the names of the variables; a run reads their values.
    assert '"MIXPANEL_SERVICE_ACCOUNT_SECRET"' in answer["shown"]
    assert '"MIXPANEL_SERVICE_ACCOUNT_USERNAME"' in answer["shown"]
    assert server.export_url in answer["shown"]
    assert answer["success"]
    assert any("events_20240115" in line for line in answer["log"])
    assert set(query_column(tmp_path, "SELECT insert_id FROM events")) == insert_ids_of(DAY)


def test_filters_reach_mixpanel(server: SampleServer, tmp_path: Path) -> None:
    names, where = ["Search", "Page View"], 'properties["plan"] == "free"'
    available = resources(tmp_path, server, events=names, where=where)
    run = materialize([events], available, day=DAY)
    expected = {
        each["properties"]["$insert_id"]
        for each in events_of_day(DAY, events_per_day=EVENTS_PER_DAY)
        if each["event"] in names and each["properties"]["plan"] == "free"
    }
    assert 0 < len(expected) < len(insert_ids_of(DAY))
    assert set(query_column(tmp_path, "SELECT insert_id FROM events")) == expected
    assert run.metadata["2024-01-15"]["filter_events"] == names
    assert run.metadata["2024-01-15"]["filter_where"] == where


@pytest.mark.parametrize(
    "settings",
    [
        Settings(
            mixpanel_project_id="7",
            mixpanel_service_account_username=SecretStr(USERNAME),
            mixpanel_service_account_secret=SecretStr(SECRET),
        ),
        Settings(mp_pipeline_rate_limits=SecretStr(f"postgresql://{USERNAME}:{SECRET}@db.test/db")),
    ],
    ids=["Mixpanel", "PostgreSQL"],
)
def test_credentials_in_code_are_refused(settings: Settings) -> None:
    for use in (mixpanel_resource, mixpanel_project):
        with pytest.raises(ValueError, match="would be visible in Dagster's UI") as caught:
            use(settings)
        assert "load_settings(prefix=...)" in str(caught.value)
        assert SECRET not in str(caught.value)


def test_settings_in_code_without_credentials_are_the_sample_project() -> None:
    resource = mixpanel_resource(Settings(mixpanel_events=("Search",), mixpanel_prefetch=3))
    assert (resource.source, resource.events, resource.prefetch) == ("sample", ["Search"], 3)


# The database


def test_connection_is_closed_after_an_exception(tmp_path: Path) -> None:
    resource = database(tmp_path)
    with pytest.raises(duckdb.CatalogException), resource.get_connection() as connection:
        connection.execute("FROM nothing")
    with pytest.raises(duckdb.ConnectionException):
        connection.execute("SELECT 1")
    assert other_process(tmp_path, "print('free')") == "free\n"


def test_engine_is_closed_after_an_exception(tmp_path: Path) -> None:
    resource = database(tmp_path)
    with pytest.raises(RuntimeError, match="on the way"), resource.get_engine():
        raise RuntimeError("on the way")
    assert other_process(tmp_path, "print('free')") == "free\n"


def test_a_read_only_connection_cannot_write(tmp_path: Path) -> None:
    resource = database(tmp_path)
    with resource.get_connection() as connection:
        connection.execute("CREATE TABLE plays AS SELECT 1 AS song")
    with resource.get_connection(read_only=True) as connection:
        assert connection.sql("FROM plays").fetchall() == [(1,)]
        with pytest.raises(duckdb.InvalidInputException, match="read-only"):
            connection.execute("DROP TABLE plays")


def test_two_processes_read_at_the_same_time(tmp_path: Path) -> None:
    resource = database(tmp_path)
    with resource.get_connection() as connection:
        connection.execute("CREATE TABLE plays AS SELECT 1 AS song")
    with holder(tmp_path, read_only=True), resource.get_connection(read_only=True) as connection:
        assert connection.sql("FROM plays").fetchall() == [(1,)]


def test_reading_a_missing_database(tmp_path: Path) -> None:
    resource = database(tmp_path)
    with pytest.raises(StorageError, match=r"test\.duckdb"), resource.get_connection(True):
        pass
    with pytest.raises(FileNotFoundError, match=r"test\.duckdb"), resource.get_engine(True):
        pass
    assert files_in(tmp_path) == set()


def test_a_file_that_is_not_a_database(tmp_path: Path) -> None:
    (tmp_path / "test.duckdb").write_text("not a database\n" * 1000)
    with (
        pytest.raises(StorageError, match=r"cannot open the database .*test\.duckdb"),
        database(tmp_path).get_connection(),
    ):
        pass


def test_database_in_memory() -> None:
    resource = MixpanelDuckDBResource(database=":memory:")
    with resource.get_connection() as connection:
        assert connection.sql("SELECT 42").fetchall() == [(42,)]
    with pytest.raises(ValueError, match=":memory:"), resource.get_engine():
        pass


def test_connection_config_is_passed_on(tmp_path: Path) -> None:
    resource = database(tmp_path, connection_config={"threads": 1})
    with resource.get_connection() as connection:
        assert connection.sql("SELECT current_setting('threads')").fetchall() == [(1,)]


def test_the_options_of_the_settings_reach_duckdb(tmp_path: Path) -> None:
    settings = Settings(
        mp_pipeline_database=tmp_path / "test.duckdb",
        mp_pipeline_memory_limit="1GiB",
        mp_pipeline_threads=1,
        mp_pipeline_temp_directory=tmp_path / "spill",
    )
    with duckdb_resource(settings).get_engine() as engine:
        assert engine.execute_rows(
            "SELECT current_setting('memory_limit'), current_setting('threads'), "
            "current_setting('temp_directory')"
        ) == [("1.0 GiB", 1, str(tmp_path / "spill"))]


def test_text_without_an_offset_is_utc(tmp_path: Path) -> None:
    with database(tmp_path).get_connection() as connection:
        seconds = connection.sql("SELECT epoch('2024-01-15'::TIMESTAMPTZ)").fetchall()
    assert seconds == [(1705276800,)]


def test_assets_of_a_user_take_it_by_either_type(tmp_path: Path) -> None:
    @dg.asset
    def written(duckdb: DuckDBResource) -> None:
        with duckdb.get_connection() as connection:
            connection.execute("CREATE TABLE top_songs AS SELECT 'Blue' AS song")

    @dg.asset(deps=[written], io_manager_key="in_memory")
    def read(duckdb: MixpanelDuckDBResource) -> list[Any]:
        with duckdb.get_connection(read_only=True) as connection:
            return connection.sql("FROM top_songs").fetchall()

    run = materialize([written, read], resources(tmp_path))
    assert run.error == ""
    assert run.outputs("read") == [("Blue",)]


# The file's lock


def other_process(directory: Path, code: str) -> str:
    """Run code in a process that has the database open for writing, and return its output."""
    opened = "import duckdb\nconnection = duckdb.connect('test.duckdb')\n"
    done = run_python(opened + code, directory)
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def holder(directory: Path, *, read_only: bool = False) -> Iterator["subprocess.Popen[str]"]:
    """Start a process that holds the database until its input is closed or the block ends."""
    code = """
        import duckdb, sys
        connection = duckdb.connect("test.duckdb", read_only=sys.argv[1] == "True")
        print("open", flush=True)
        sys.stdin.read()
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), str(read_only)],
        cwd=directory,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        yield process


@pytest.mark.parametrize("read_only", [False, True])
def test_a_locked_database_names_its_holder(tmp_path: Path, read_only: bool) -> None:
    with holder(tmp_path) as process:
        begin = time.monotonic()
        with (
            pytest.raises(DatabaseLockedError) as caught,
            database(tmp_path, lock_timeout=0.3).get_connection(read_only),
        ):
            pass
        waited = time.monotonic() - begin
    assert f"(PID {process.pid})" in str(caught.value)
    assert "test.duckdb is in use" in str(caught.value)
    assert "waited 0.3 s" in str(caught.value)
    assert str(caught.value).endswith("The setting is MP_PIPELINE_LOCK_TIMEOUT, in seconds.")
    assert waited >= 0.3


def test_a_writer_waits_for_a_reader(tmp_path: Path) -> None:
    with database(tmp_path).get_connection():
        pass
    with (
        holder(tmp_path, read_only=True) as process,
        pytest.raises(DatabaseLockedError, match=f"PID {process.pid}"),
        database(tmp_path).get_engine(),
    ):
        pass


def test_a_run_that_finds_the_database_locked_fails_and_says_so(
    server: SampleServer, tmp_path: Path
) -> None:
    with holder(tmp_path) as process:
        run = materialize([events], resources(tmp_path, server), day=DAY)
    assert not run.success
    assert f"(PID {process.pid}) holds it" in run.error
    # The download was deleted: the next run fetches the day again.
    again = materialize([events], resources(tmp_path, server), day=DAY)
    assert again.success
    assert query(tmp_path, "SELECT count(*) FROM events") == [(len(insert_ids_of(DAY)),)]


# Downloads


def age(path: Path) -> None:
    """Make a file or directory look more than a day old."""
    yesterday = time.time() - 25 * 60 * 60
    os.utime(path, (yesterday, yesterday))


def test_downloads_of_killed_runs_are_deleted_after_a_day(tmp_path: Path) -> None:
    duckdb = database(tmp_path)
    for run_id in ("own", "running", "killed"):
        directory = duckdb.download_directory(run_id)
        directory.mkdir(parents=True)
        (directory / "events_2024-01-15.part").touch()
    age(duckdb.download_directory("killed"))
    duckdb.delete_downloads("own")
    parent = duckdb.download_directory("own").parent
    assert [directory.name for directory in parent.iterdir()] == ["running"]
    assert files_in(parent) == {"running/events_2024-01-15.part"}


def test_only_directories_of_runs_are_deleted(tmp_path: Path) -> None:
    duckdb = database(tmp_path)
    parent = duckdb.download_directory("own").parent
    parent.mkdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious.txt").touch()
    (parent / "link").symlink_to(elsewhere)
    (parent / "dangling").symlink_to(tmp_path / "nothing")
    (parent / ".DS_Store").touch()
    for path in (elsewhere, parent / ".DS_Store"):
        age(path)
    duckdb.delete_downloads("own")  # which downloaded nothing
    assert files_in(tmp_path) == {"elsewhere/precious.txt", "test.downloads/.DS_Store"}
    assert (parent / "link").is_symlink()


def test_what_cannot_be_deleted_among_the_downloads_does_not_fail_a_run(
    server: SampleServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    parent = database(tmp_path).download_directory("own").parent
    elsewhere = tmp_path / "elsewhere"
    for directory in (parent, elsewhere):
        directory.mkdir()
    (parent / ".DS_Store").touch()
    (parent / "link").symlink_to(elsewhere)
    for path in (parent / ".DS_Store", elsewhere):
        age(path)
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize(
            [events],
            resources=resources(tmp_path, server),
            instance=instance,
            tags=range_tags("2024-01-15", "2024-01-16"),
        )
        partitions = instance.get_materialized_partitions(events.key)
    assert result.success
    assert partitions == {"2024-01-15", "2024-01-16"}
    assert query(tmp_path, "SELECT count(DISTINCT event_time::DATE) FROM events") == [(2,)]
    assert "could not delete downloads: " in caplog.text
    assert files_in(tmp_path) == {"test.duckdb", "test.downloads/.DS_Store"}
    assert [path.name for path in parent.iterdir() if path.is_dir()] == ["link"]


DELETE_AS_SOMEBODY_ELSE = """
    import os
    from pathlib import Path
    from mp_pipeline.resources import MixpanelDuckDBResource

    duckdb = MixpanelDuckDBResource(database=str(Path("test.duckdb").absolute()))
    if os.geteuid() == 0:  # root can delete everything
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    own = duckdb.download_directory("own")
    own.mkdir()
    (own / "events_2024-01-16.jsonl.gz").touch()
    duckdb.delete_downloads("own")
"""


def test_downloads_of_another_user_are_logged_and_left_alone() -> None:
    with tempfile.TemporaryDirectory(prefix="mp_pipeline-test-") as name:
        place = Path(name)
        killed = place / "test.downloads" / "killed"
        killed.mkdir(parents=True)
        (killed / "events_2024-01-15.jsonl.gz").touch()
        killed.chmod(0o555)
        age(killed)
        for directory in (place, place / "test.downloads"):
            directory.chmod(0o777)
        done = run_python(DELETE_AS_SOMEBODY_ELSE, place)
        assert done.returncode == 0, done.stderr
        assert "could not delete downloads: " in done.stderr
        assert files_in(place) == {"test.downloads/killed/events_2024-01-15.jsonl.gz"}
        assert not (place / "test.downloads" / "own").exists()
        killed.chmod(0o755)

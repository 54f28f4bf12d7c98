"""Servers of tests that are a program with a directory of its own."""

import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from mp_pipeline_tests.support.processes import stop_process
from mp_pipeline_tests.support.waiting import wait_until


class Program(ABC):
    """A server that runs while its ``with`` block does, and whose directory is gone then.

    Attributes:
        directory: The directory.
    """

    directory: Path
    _process: "subprocess.Popen[bytes] | None" = None

    @abstractmethod
    def command(self) -> Sequence[str | Path]:
        """Prepare the directory, and return the command that starts the server."""

    @abstractmethod
    def answers(self) -> bool:
        """Return whether the server can be used."""

    @property
    def variables_of_process(self) -> Mapping[str, str] | None:
        """The environment of the process, None for that of the tests."""
        return None

    def __enter__(self) -> Self:
        self._temporary = tempfile.TemporaryDirectory(prefix="mp_pipeline_server_")
        self.directory = Path(self._temporary.name)
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._temporary.cleanup()

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        log = self.directory / "log"
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                self.command(),
                cwd=self.directory,
                env=self.variables_of_process,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        wait_until(self.answers, explain=log.read_text, processes=[self._process])

    def stop(self) -> None:
        """Stop the server; what it keeps in its directory stays."""
        if self._process is not None:
            stop_process(self._process)
            self._process = None

    def restart(self) -> None:
        """Stop the server, and start it with the same directory on the same port."""
        self.stop()
        self.start()

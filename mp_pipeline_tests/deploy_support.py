"""The services of `deploy/`: their units, and the same commands in a directory of a test."""

import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mp_pipeline_tests.dev_support import PROJECT

DEPLOY = PROJECT / "deploy"

Unit = Literal["code", "daemon", "webserver"]
UNITS: tuple[Unit, ...] = ("code", "daemon", "webserver")


def unit_lines(unit: Unit, key: str) -> list[str]:
    """The values of a setting of a unit, in order."""
    lines = (DEPLOY / f"mp-pipeline-{unit}.service").read_text().splitlines()
    return [line.removeprefix(f"{key}=") for line in lines if line.startswith(f"{key}=")]


def without_postgres(settings: str) -> str:
    """Dagster's settings with its own SQLite as the storage: Postgres needs more than Python."""
    return re.sub(r"^storage:\n(?:  .*\n)+", "", settings, flags=re.MULTILINE)


@dataclass(frozen=True)
class Server:
    """A directory that stands for the server's, and the port of its UI."""

    directory: Path
    port: int

    def __post_init__(self) -> None:
        workspace = (DEPLOY / "workspace.yaml").read_text()
        (self.directory / "workspace.yaml").write_text(self.here(workspace))

    def command(self, unit: Unit, key: str = "ExecStart") -> list[str]:
        """The command of a unit, with this environment's programs and this directory's files."""
        (command,) = unit_lines(unit, key)
        return shlex.split(self.here(command))

    def here(self, text: str) -> str:
        """A text with the server's paths and port replaced."""
        for path, replacement in {
            "/opt/mp-pipeline/.venv/bin": str(Path(sys.executable).parent),
            "/opt/mp-pipeline/deploy/workspace.yaml": str(self.directory / "workspace.yaml"),
            "/opt/mp-pipeline": str(PROJECT),
            "/run/mp-pipeline": str(self.directory),
            "--port 3000": f"--port {self.port}",
        }.items():
            text = text.replace(path, replacement)
        return text

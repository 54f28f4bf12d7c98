"""The services of `deploy/`: their units, and the same commands in a test's directory."""

import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mp_pipeline_tests.support.files import REPOSITORY

DEPLOY = REPOSITORY / "deploy"

Unit = Literal["code", "daemon", "webserver", "worker@"]
SERVICES: tuple[Unit, ...] = ("code", "daemon", "webserver")
"""The units of a server, in `deploy/`."""
UNITS: tuple[Unit, ...] = (*SERVICES, "worker@")
"""All units; the last one is in `deploy/cluster/`."""


def unit_lines(unit: Unit, key: str) -> list[str]:
    """Return the values of a setting in a unit file, in their order."""
    (file,) = DEPLOY.rglob(f"mp-pipeline-{unit}.service")
    lines = file.read_text().splitlines()
    return [line.removeprefix(f"{key}=") for line in lines if line.startswith(f"{key}=")]


def without_postgres(settings: str) -> str:
    """Return Dagster's settings with its default storage, SQLite, in place of Postgres."""
    return re.sub(r"^storage:\n(?:  .*\n)+", "", settings, flags=re.MULTILINE)


def without_launcher(settings: str) -> str:
    """Return Dagster's settings with its default launcher, which needs no other package."""
    return re.sub(r"^run_launcher:\n(?:  .*\n)+", "", settings, flags=re.MULTILINE)


@dataclass(frozen=True)
class Deployment:
    """A directory that stands for the machine of a deployment.

    Args:
        directory: The directory.
        port: The port of the UI.
    """

    directory: Path
    port: int = 3000

    def __post_init__(self) -> None:
        workspace = (DEPLOY / "workspace.yaml").read_text()
        (self.directory / "workspace.yaml").write_text(self.adapt(workspace))

    def command(self, unit: Unit, key: str = "ExecStart") -> list[str]:
        """Return the command of a unit, with this environment's programs and directory."""
        (command,) = unit_lines(unit, key)
        return shlex.split(self.adapt(command))

    def adapt(self, text: str) -> str:
        """Replace the paths and the port of the real machine in a text."""
        for path, replacement in {
            "/opt/mp-pipeline/.venv/bin": str(Path(sys.executable).parent),
            "/opt/mp-pipeline/deploy/workspace.yaml": str(self.directory / "workspace.yaml"),
            "/opt/mp-pipeline": str(REPOSITORY),
            "/run/mp-pipeline": str(self.directory),
            "--port 3000": f"--port {self.port}",
            "%i": "1",
            "%H": self.directory.name,
        }.items():
            text = text.replace(path, replacement)
        return text

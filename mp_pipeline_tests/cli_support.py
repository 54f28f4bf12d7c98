"""Running the command `mp-pipeline` as a user does."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from mp_pipeline.sample import SampleServer
from mp_pipeline_tests.dagster_support import environment

COMMAND = str(Path(sys.executable).parent / "mp-pipeline")


def run(
    directory: Path, *arguments: str, code: int = 0, env: Mapping[str, str] | None = None
) -> str:
    """Run the command in a directory, and return what it printed to stdout and stderr."""
    result = subprocess.run(
        [COMMAND, *arguments],
        cwd=directory,
        env=environment(**(env or {})),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    assert result.returncode == code, result.stdout
    return result.stdout


def credentials(server: SampleServer) -> dict[str, str]:
    """Return the variables for a server's project."""
    return {
        "MIXPANEL_PROJECT_ID": server.project_id,
        "MIXPANEL_SERVICE_ACCOUNT_USERNAME": server.username,
        "MIXPANEL_SERVICE_ACCOUNT_SECRET": server.secret,
        "MIXPANEL_EXPORT_URL": server.export_url,
        "MIXPANEL_QUERY_URL": server.query_url,
    }

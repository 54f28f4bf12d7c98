"""Running the command `mp-pipeline` as a user does."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from mp_pipeline.sample import SampleServer

COMMAND = str(Path(sys.executable).parent / "mp-pipeline")


def environment(**variables: str) -> dict[str, str]:
    ours = ("MIXPANEL_", "MP_PIPELINE_", "DAGSTER_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return kept | variables


def run(folder: Path, *arguments: str, code: int = 0, env: Mapping[str, str] | None = None) -> str:
    """Run the command in a folder, and return all that it printed."""
    result = subprocess.run(
        [COMMAND, *arguments],
        cwd=folder,
        env=environment(**(env or {})),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    assert result.returncode == code, result.stdout
    return result.stdout


def credentials(server: SampleServer) -> dict[str, str]:
    return {
        "MIXPANEL_PROJECT_ID": server.project_id,
        "MIXPANEL_SERVICE_ACCOUNT_USERNAME": server.username,
        "MIXPANEL_SERVICE_ACCOUNT_SECRET": server.secret,
        "MIXPANEL_EXPORT_URL": server.export_url,
        "MIXPANEL_QUERY_URL": server.query_url,
    }

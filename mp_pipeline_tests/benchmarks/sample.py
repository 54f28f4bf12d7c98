"""The sample project, served from a process of its own."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from mp_pipeline.mixpanel import MixpanelClient


@dataclass(frozen=True)
class Account:
    """How to reach the served project: the variables that the server prints."""

    variables: dict[str, str]

    def client(self) -> MixpanelClient:
        """Return a client of the project."""
        return MixpanelClient(
            self.variables["MIXPANEL_PROJECT_ID"],
            self.variables["MIXPANEL_SERVICE_ACCOUNT_USERNAME"],
            self.variables["MIXPANEL_SERVICE_ACCOUNT_SECRET"],
            export_url=self.variables["MIXPANEL_EXPORT_URL"],
            query_url=self.variables["MIXPANEL_QUERY_URL"],
        )


@contextmanager
def sample_server(events_per_day: int) -> Iterator[Account]:
    """Serve the sample project for the ``with`` block."""
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "mp_pipeline.sample", "--no-limits", "--port", "0"),
            *("--events-per-day", str(events_per_day)),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    variables: dict[str, str] = {}
    try:
        while "MIXPANEL_QUERY_URL" not in variables:  # the last one that it prints
            line = server.stdout.readline()
            if not line:
                raise RuntimeError("the sample server has ended")
            if line.startswith("export "):
                name, _, value = line.removeprefix("export ").strip().partition("=")
                variables[name] = value.strip("'\"")
        yield Account(variables)
    finally:
        server.terminate()
        server.wait()
        server.stdout.close()

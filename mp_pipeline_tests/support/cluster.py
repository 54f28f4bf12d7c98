"""A cluster of `deploy/cluster`: machines with directories of their own, and the processes on them.

The commands are those of the units, and the settings are `deploy/cluster/dagster.yaml`.
"""

import os
import re
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from mp_pipeline_tests.support.deployment import DEPLOY, Deployment, Unit
from mp_pipeline_tests.support.graphql import START_SECONDS, Webserver
from mp_pipeline_tests.support.processes import environment, process
from mp_pipeline_tests.support.servers import unused_port
from mp_pipeline_tests.support.waiting import PATIENCE, wait_until

DAGSTER_YAML = DEPLOY / "cluster/dagster.yaml"

QUICK = {
    r"dequeue_interval_seconds: \d+": "dequeue_interval_seconds: 1",
    r"poll_interval_seconds: \d+": "poll_interval_seconds: 1",
    r"worker_timeout_seconds: \d+": "worker_timeout_seconds: 2",
}
"""Settings of daemons that look every second, so that a test does not wait long."""


def cluster_settings(changes: Mapping[str, str]) -> str:
    """Return `deploy/cluster/dagster.yaml` with some lines replaced.

    Args:
        changes: What replaces a pattern, which must occur once.
    """
    settings = DAGSTER_YAML.read_text()
    for pattern, replacement in changes.items():
        settings, times = re.subn(pattern, replacement, settings)
        assert times == 1, pattern
    return settings


@dataclass
class Machine:
    """A directory that stands for a machine: the services' one, or that of a worker.

    Args:
        directory: The directory. It is made, and contains everything that the machine writes:
            HOME, DAGSTER_HOME and the state directory. Its name is that of the host.
        settings: The text of `dagster.yaml`.
        variables: The variables of `dagster.env` and `mixpanel.env`, which are the same on all
            machines.
        prefix: The beginning of all commands, such as `ip netns exec first`.
    """

    directory: Path
    settings: str
    variables: Mapping[str, str]
    prefix: Sequence[str] = ()
    port: int = field(default_factory=unused_port)
    _running: dict[Unit, tuple[ExitStack, "subprocess.Popen[bytes]"]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("home", "dagster", "state"):
            (self.directory / name).mkdir(parents=True)
        (self.directory / "dagster/dagster.yaml").write_text(self.settings)
        self._deployment = Deployment(self.directory, self.port)

    @property
    def environment(self) -> dict[str, str]:
        """The variables of all processes on the machine."""
        return {
            "HOME": str(self.directory / "home"),
            "DAGSTER_HOME": str(self.directory / "dagster"),
            "MP_PIPELINE_STATE_DIRECTORY": str(self.directory / "state"),
            **self.variables,
        }

    def run(self, unit: Unit, key: str) -> str:
        """Run what a unit does before or after its start, and return what it printed."""
        return subprocess.run(
            [*self.prefix, *self._deployment.command(unit, key)],
            cwd=self.directory,
            env=environment(**self.environment),
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            timeout=PATIENCE,
        ).stdout

    def start(self, unit: Unit) -> None:
        """Start a unit's process. Its log is `unit.log` in the directory."""
        stack = ExitStack()
        command = [*self.prefix, *self._deployment.command(unit)]
        log = self.directory / f"{unit}.log"
        started = process(command, self.directory, self.environment, log)
        self._running[unit] = stack, stack.enter_context(started)

    def send(self, unit: Unit, number: signal.Signals) -> None:
        """Send a signal to a unit's process and all that it has started, as systemd does."""
        os.killpg(self._running[unit][1].pid, number)

    def kill(self, unit: Unit) -> None:
        """Kill a unit's process with all that it has started."""
        self.send(unit, signal.SIGKILL)
        self.forget(unit)

    def forget(self, unit: Unit) -> None:
        """Wait for the end of a unit's process."""
        self._running.pop(unit)[0].close()

    def restart_ended(self) -> list[Unit]:
        """Start the units again whose processes have ended, as systemd does, and return them."""
        ended = [unit for unit, (_, started) in self._running.items() if started.poll() is not None]
        for unit in ended:
            self.forget(unit)
            self.start(unit)
        return ended

    def kill_all(self) -> None:
        """Kill all processes on the machine, as if it were switched off."""
        for unit in list(self._running):
            self.kill(unit)

    def log(self) -> str:
        """Return the last lines of the machine's logs."""
        logs = self.directory.glob("*.log")
        host = self.directory.name
        return "\n".join(f"{host}/{log.name}:\n{log.read_text()[-4000:]}" for log in logs)


class Cluster:
    """Machines that share PostgreSQL and Redis. All their processes end with the block.

    Args:
        directory: The parent of the machines' directories.
        postgres_url: The URL of an empty database, as SQLAlchemy takes it.
        redis_url: The URL of a Redis database.
        variables: More environment variables of all machines.
        settings: The text of `dagster.yaml`.
    """

    def __init__(
        self,
        directory: Path,
        postgres_url: str,
        redis_url: str,
        variables: Mapping[str, str],
        settings: str,
    ) -> None:
        self._directory = directory
        self._settings = settings
        self._variables = {
            "DAGSTER_POSTGRES_URL": postgres_url,
            "DAGSTER_CELERY_BROKER_URL": redis_url,
            "DAGSTER_EVENT_LOG_CONSUMER_DAEMON_INTERVAL_SECONDS": "1",
            **variables,
        }
        self.services = self.add_machine("services")
        self.webserver = Webserver(f"http://127.0.0.1:{self.services.port}")
        self.workers: dict[str, Machine] = {}
        """The machines with a worker, by the worker's name."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for machine in (*self.workers.values(), self.services):
            machine.kill_all()

    def add_machine(self, name: str, prefix: Sequence[str] = (), **variables: str) -> Machine:
        """Return a new machine.

        Args:
            name: The name of its directory.
            prefix: The beginning of all commands.
            variables: More environment variables of this machine.
        """
        machine_variables = self._variables | variables
        return Machine(self._directory / name, self._settings, machine_variables, prefix)

    def start_services(self) -> None:
        """Start the code server, and the webserver when it answers; the daemon is not started."""
        self.services.run("code", "ExecStartPre")
        self.services.start("code")
        self.services.run("code", "ExecStartPost")
        self.services.start("webserver")

    def start_worker(self, host: str, prefix: Sequence[str] = (), **variables: str) -> None:
        """Start a worker, `worker-1@host`, on a machine of its own, which is made if necessary.

        It takes runs as soon as it is ready; `wait_until_ready` waits for that.

        Args:
            host: The name of the machine's directory.
            prefix: The beginning of all commands of a new machine.
            variables: More environment variables of a new machine.
        """
        name = f"worker-1@{host}"
        if name not in self.workers:
            self.workers[name] = self.add_machine(host, prefix, **variables)
        self.workers[name].start("worker@")

    def wait_until_ready(self) -> None:
        """Wait until the webserver answers, and all workers can take runs."""
        self.wait_until(self.webserver.is_up, START_SECONDS)
        self.wait_until(lambda: all(" ready." in each.log() for each in self.workers.values()))

    def wait_until(self, condition: Callable[[], bool], seconds: float = PATIENCE) -> None:
        """Wait until a condition is true; a test that waits too long shows all logs."""
        wait_until(condition, seconds, self.logs, every=0.25)

    def logs(self) -> str:
        """Return the last lines of all logs."""
        return "\n".join(each.log() for each in (self.services, *self.workers.values()))

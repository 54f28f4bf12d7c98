"""Subprocesses: services, Python code, and the command line as a user runs it."""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from mp_pipeline_tests.support.waiting import PATIENCE, wait_until

COMMAND = str(Path(sys.executable).parent / "mp-pipeline")

ONLY_LOAD = {"MP_PIPELINE_TYPED_EVENTS": "false", "MP_PIPELINE_METRICS": "false"}
"""Variables of tests that are about loading alone, which is faster."""

_PREFIXES = ("MIXPANEL_", "MP_PIPELINE_", "DAGSTER_")
_HOLD = """
    from time import sleep
    with StorageEngine(sys.argv[1]):
        print("open", flush=True)
        sleep(600)
"""
_STORAGE_IMPORTS = "import sys\nfrom mp_pipeline.storage import *\n"


def environment(**variables: str) -> dict[str, str]:
    """Return the environment with these variables, and no others of the project or of Dagster."""
    others = {name: value for name, value in os.environ.items() if not name.startswith(_PREFIXES)}
    return others | variables


def run_command(
    directory: Path, *arguments: str, code: int = 0, env: Mapping[str, str] | None = None
) -> str:
    """Run `mp-pipeline` in a directory, and return what it printed to stdout and stderr.

    Args:
        directory: The working directory.
        arguments: The arguments of the command.
        code: The exit code that the command must have.
        env: Environment variables of the project and of Dagster.
    """
    result = subprocess.run(
        [COMMAND, *arguments],
        cwd=directory,
        env=environment(**(env or {})),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert result.returncode == code, result.stdout
    return result.stdout


def python_command(code: str, *arguments: object) -> list[str]:
    """Return the command that runs Python code. Warnings are errors in it."""
    texts = [str(argument) for argument in arguments]
    return [sys.executable, "-W", "error", "-c", textwrap.dedent(code), *texts]


def run_python(code: str, directory: Path, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Run Python code in a directory, with these environment variables."""
    return _run_to_end(python_command(code), directory, variables)


def storage_command(code: str, *arguments: object) -> list[str]:
    """Return the command that runs Python code that uses `sys` and the storage engine."""
    return python_command(_STORAGE_IMPORTS + textwrap.dedent(code), *arguments)


def run_storage_code(
    code: str, *arguments: object, **variables: str
) -> "subprocess.CompletedProcess[str]":
    """Run Python code that uses `sys` and the storage engine."""
    return _run_to_end(storage_command(code, *arguments), None, variables)


@contextmanager
def process(
    command: Sequence[str], directory: Path, variables: Mapping[str, str], log: Path
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a service while the block runs.

    Args:
        command: The command and its arguments.
        directory: The working directory.
        variables: Environment variables of the project and of Dagster.
        log: The file to which the service's output is appended.
    """
    with log.open("ab") as output:
        started = subprocess.Popen(
            list(command),
            cwd=directory,
            env=environment(**variables),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield started
    finally:
        stop_process(started)


@contextmanager
def holding(database: Path) -> Iterator[int]:
    """Let another process hold a database for writing while the block runs; yield its PID."""
    log = database.with_name("holder.log")
    log.write_text("")  # of an earlier process
    with process(storage_command(_HOLD, database), database.parent, {}, log) as holder:
        wait_until(lambda: "open" in log.read_text(), explain=log.read_text, processes=[holder])
        yield holder.pid


def stop_process(started: "subprocess.Popen[bytes]") -> None:
    """Terminate a process that leads a session, and kill it if it takes too long to end.

    How fast it ends depends on the machine, and is not what the tests of a service are about.
    """
    started.terminate()
    try:
        started.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        os.killpg(started.pid, signal.SIGKILL)
        started.wait()


def _run_to_end(
    command: Sequence[str], directory: Path | None, variables: Mapping[str, str]
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        list(command),
        cwd=directory,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )

"""Running a function in its own process, to measure its time and memory alone."""

import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

Figures = dict[str, float]
"""``rows`` and ``seconds``, or whatever the function measured; and the two that are added here."""


def run_alone(function: Callable[..., Figures], *arguments: str | int) -> Figures:
    """Call a function in a new process, with an empty directory and then the arguments.

    Returns:
        Its return value, the ``peak_bytes`` of memory of the process and the ``file_bytes`` of
        the databases in the directory.
    """
    with tempfile.TemporaryDirectory(prefix="mp_pipeline-benchmark-") as directory:
        command = [sys.executable, "-m", __name__, function.__module__, function.__qualname__]
        done = subprocess.run(
            [*command, directory, json.dumps(arguments)],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    return figures


def main() -> None:
    """Call the function named on the command line; print its figures as a line of JSON."""
    module, name, directory, arguments = sys.argv[1:]
    function: Callable[..., Any] = getattr(import_module(module), name)
    figures = function(Path(directory), *json.loads(arguments))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts kilobytes
    files = [*Path(directory).glob("*.duckdb"), *Path(directory).glob("*.duckdb.wal")]
    figures |= {"peak_bytes": peak, "file_bytes": sum(file.stat().st_size for file in files)}
    sys.stdout.write("\n" + json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()

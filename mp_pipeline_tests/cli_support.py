"""Names that have moved to `mp_pipeline_tests.support`."""

from mp_pipeline_tests.support.processes import COMMAND
from mp_pipeline_tests.support.processes import run_command as run
from mp_pipeline_tests.support.servers import credentials

__all__ = ["COMMAND", "credentials", "run"]

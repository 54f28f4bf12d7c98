"""Names that have moved to `mp_pipeline_tests.support`."""

from mp_pipeline_tests.support.deployment import (
    DEPLOY,
    UNITS,
    Deployment,
    Unit,
    unit_lines,
    without_postgres,
)

Server = Deployment

__all__ = ["DEPLOY", "UNITS", "Server", "Unit", "unit_lines", "without_postgres"]

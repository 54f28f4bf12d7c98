"""Names that have moved to `mp_pipeline_tests.support`."""

from mp_pipeline_tests.support.files import REPOSITORY as PROJECT
from mp_pipeline_tests.support.graphql import (
    BACKFILL_SECONDS,
    START_SECONDS,
    Webserver,
    dagster_dev,
)
from mp_pipeline_tests.support.processes import process
from mp_pipeline_tests.support.waiting import wait_until

__all__ = [
    "BACKFILL_SECONDS",
    "PROJECT",
    "START_SECONDS",
    "Webserver",
    "dagster_dev",
    "process",
    "wait_until",
]

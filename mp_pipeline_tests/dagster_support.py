"""Names that have moved to `mp_pipeline_tests.support`."""

from mp_pipeline_tests.support.dagster import (
    Run,
    asset,
    daily,
    database,
    materialize,
    mixpanel,
    plain,
    resources,
)
from mp_pipeline_tests.support.databases import query, tamper
from mp_pipeline_tests.support.databases import query_column as column
from mp_pipeline_tests.support.files import files_in
from mp_pipeline_tests.support.processes import environment
from mp_pipeline_tests.support.processes import run_python as python
from mp_pipeline_tests.support.records import DAY, DAY_AFTER, DAYS, NEXT_DAY, event, profile
from mp_pipeline_tests.support.servers import EVENTS_PER_DAY, insert_ids_of, lines_of

__all__ = [
    "DAY",
    "DAYS",
    "DAY_AFTER",
    "EVENTS_PER_DAY",
    "NEXT_DAY",
    "Run",
    "asset",
    "column",
    "daily",
    "database",
    "environment",
    "event",
    "files_in",
    "insert_ids_of",
    "lines_of",
    "materialize",
    "mixpanel",
    "plain",
    "profile",
    "python",
    "query",
    "resources",
    "tamper",
]

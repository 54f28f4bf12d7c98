"""Asset checks: the tables are whole, no day is missing, the amounts are the usual ones."""

from mp_pipeline.assets import events, profiles
from mp_pipeline.checks.amounts import count_change, volume
from mp_pipeline.checks.days import latest_day, no_gaps
from mp_pipeline.checks.tables import row_count, schema

blocking_checks = [
    row_count(events, "events"),
    schema(events, "events"),
    row_count(profiles, "profiles"),
    schema(profiles, "profiles"),
]
"""Those that judge what a run has stored, and nothing else: if one fails, so has the load."""

checks = [
    *blocking_checks,
    latest_day(events),
    no_gaps(events),
    volume(events),
    count_change(profiles),
]
"""All checks."""

"""Parts of the queries of funnels and retention: events with their users, and a check of arguments.

The view ``user_events`` would do, but checks of each row whether its ID is nobody's take time.
"""

from mp_pipeline.storage.metrics.names import name_of
from mp_pipeline.storage.tables import literal, quoted
from mp_pipeline.storage.user_ids import not_nobody

USER = "coalesce(identity.user_id, event.distinct_id)"
"""The SQL expression for the user of a row of ``from_events``."""

IS_SOMEBODY = not_nobody("user_id")
"""The SQL condition that a user is one."""

ROW = "hash(event.event_time, event.insert_id)"
"""The SQL expression that tells events apart; an insert ID is unique in its day alone."""


def from_events(dataset: str) -> str:
    """Return the SQL that selects from events, ``event``, and their users, ``identity``."""
    return f"""
        FROM {quoted(dataset)} AS event LEFT JOIN (
            SELECT distinct_id, user_id FROM _identities
            WHERE dataset = {literal(dataset.lower())} AND user_id <> distinct_id
        ) AS identity ON identity.distinct_id = event.distinct_id
    """


def checked(dataset: str, macro: str, conditions: dict[str, str], query: str) -> str:
    """Return the SQL for the rows of a query; it raises an error if the arguments are not valid.

    Args:
        dataset: The dataset.
        macro: The macro that has the arguments.
        conditions: Conditions on the arguments, and what to say if they do not hold.
        query: The query, with a column ``users``.
    """
    name = name_of(dataset, macro)
    cases = " ".join(
        f"WHEN ({condition}) IS NOT TRUE THEN error({literal(f'{name}: {problem}')})"
        for condition, problem in conditions.items()
    )
    # A query of its own, because a condition in the other one is not checked if it has no rows.
    return (
        f"({query} UNION ALL BY NAME "
        f"SELECT 0 AS users FROM (SELECT CASE {cases} ELSE true END AS valid) WHERE NOT valid)"
    )

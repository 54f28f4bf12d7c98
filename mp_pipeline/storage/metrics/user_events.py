"""Parts of the queries of funnels and retention: events with their users, and a check of arguments.

Users are hashes of 64 bits: joining texts takes twice as long, and of a million users two have the
same hash in one of 40 million databases.
"""

from mp_pipeline.storage.metrics.names import name_of
from mp_pipeline.storage.tables import literal, quoted
from mp_pipeline.storage.typed.fast_events import fast_events

USER = "coalesce(identity.user, hash(event.distinct_id))"
"""The SQL expression for the user of a row of ``from_events``."""

IS_SOMEBODY = f"{USER} <> hash('')"
"""The SQL condition that a row of ``from_events`` is of a user: ``_identities`` has ``''`` for IDs
of nobody."""

ROW = "hash(event.event_time, event.insert_id)"
"""The SQL expression that tells events apart; an insert ID is unique in its day alone."""


def from_events(dataset: str, events: str | None = None) -> str:
    """Return the SQL that selects from events, ``event``, and their users, ``identity``.

    Args:
        dataset: The dataset.
        events: The SQL for its events; None for those without properties, which is faster.
    """
    return f"""
        FROM {events or quoted(fast_events(dataset))} AS event LEFT JOIN (
            SELECT hash(distinct_id) AS id, hash(user_id) AS user FROM _identities
            WHERE dataset = {literal(dataset.lower())} AND user_id <> distinct_id
        ) AS identity ON identity.id = hash(event.distinct_id)
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

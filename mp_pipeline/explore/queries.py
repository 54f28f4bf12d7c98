"""What the page asks the database: one query per function.

Days are those of the project's time zone. The file is open for reading while one query runs, so a
load waits for that query at most.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import duckdb

from mp_pipeline.settings import Settings
from mp_pipeline.storage import DatabaseLockedError, StorageEngine, StorageError
from mp_pipeline.storage.typed.names import pointer

if TYPE_CHECKING:
    import pandas as pd

_Parameters = ParamSpec("_Parameters")
_Answer = TypeVar("_Answer")

_LOCK_TIMEOUT = 0.5  # seconds; a user who waits longer wants to know why
_DATASET = "events"

BUCKETS = {"day": 14, "week": 8, "month": 6}
"""The last bucket of retention that the page shows, by unit."""


class UnavailableError(Exception):
    """The database has no answer now; the message says what to do."""


@dataclass(frozen=True)
class Contents:
    """What a user can choose from.

    Attributes:
        days: The loaded days, oldest first; at least one.
        events: The names of all events, most frequent first; at least one.
    """

    days: list[date]
    events: list[str]


def ask(
    settings: Settings,
    query: Callable[Concatenate[StorageEngine, _Parameters], _Answer],
    *args: _Parameters.args,
    **kwargs: _Parameters.kwargs,
) -> _Answer:
    """Open the database, return what a query finds, and close it again.

    Args:
        settings: The settings, which name the database.
        query: A function of this module.
        args: Its arguments after the engine.
        kwargs: Its keyword arguments.

    Raises:
        UnavailableError: The database is in use or missing, or does not have the data yet.
    """
    try:
        with StorageEngine(
            settings.database,
            read_only=True,
            lock_timeout=_LOCK_TIMEOUT,
            config=settings.database_options,
        ) as storage:
            return query(storage, *args, **kwargs)
    except DatabaseLockedError as error:
        raise UnavailableError(
            f"Another process is writing to the database. Retry when it is done. {error}"
        ) from error
    except (FileNotFoundError, StorageError, duckdb.Error) as error:
        raise UnavailableError(str(error)) from error


def contents(storage: StorageEngine) -> Contents:
    """Return what the database contains.

    Raises:
        UnavailableError: No day is loaded, or none has events.
    """
    days = [info.day for info in storage.list_days(_DATASET)]
    if not days:
        raise UnavailableError("No day is loaded yet: materialize events.")
    rows = storage.execute_rows(
        "SELECT event_name FROM events GROUP BY ALL ORDER BY count(*) DESC, event_name"
    )
    if not rows:
        raise UnavailableError("The loaded days have no events: materialize other days of events.")
    return Contents(days, [name for (name,) in rows])


def events_per_day(
    storage: StorageEngine, first: date, last: date, *, shown: int = 9
) -> "pd.DataFrame":
    """Return ``day``, ``event`` and ``events``; all but the most frequent are ``other events``."""
    return _select(
        storage,
        """
        WITH counted AS (
            SELECT day, event_name, count(*) AS events FROM events
            WHERE day BETWEEN $first AND $last GROUP BY ALL
        ), ranked AS (
            SELECT event_name, row_number() OVER (ORDER BY sum(events) DESC, event_name) AS place
            FROM counted GROUP BY event_name
        )
        SELECT day, if(place <= $shown, event_name, 'other events') AS event,
            sum(events)::BIGINT AS events
        FROM counted JOIN ranked USING (event_name) GROUP BY ALL ORDER BY day, min(place)
        """,
        {"first": first, "last": last, "shown": shown},
    )


def active_users(storage: StorageEngine, first: date, last: date) -> "pd.DataFrame":
    """Return ``day``, ``metric`` (DAU, WAU or MAU) and ``users``.

    Raises:
        UnavailableError: The metrics of these days are not computed.
    """
    _require(storage, "daily_metrics", "identities, sessions and daily_metrics")
    found = _select(
        storage,
        """
        SELECT day, metric, users FROM (
            SELECT day, dau AS "DAU", wau AS "WAU", mau AS "MAU" FROM daily_metrics
            WHERE day BETWEEN $first AND $last
        ) UNPIVOT (users FOR metric IN ("DAU", "WAU", "MAU")) ORDER BY ALL
        """,
        {"first": first, "last": last},
    )
    if found.empty:
        raise UnavailableError("No metrics of these days: materialize daily_metrics for them.")
    return found


def described_events(storage: StorageEngine) -> "pd.DataFrame":
    """Return the dictionary: a row for each event, most frequent first.

    Raises:
        UnavailableError: No day is typed.
    """
    import pandas as pd

    _require(storage, "event_dictionary", "typed_events")
    return pd.DataFrame(
        {
            "event": each.event,
            "table": each.table_name,
            "events": each.events,
            "share": f"{each.fraction:.1%}",
            "first day": str(each.first_day),
            "last day": str(each.last_day),
            "properties": each.properties,
        }
        for each in storage.describe_events(_DATASET)
    )


def described_properties(storage: StorageEngine, event: str) -> "pd.DataFrame":
    """Return the properties of an event, most often filled first.

    Raises:
        UnavailableError: No day is typed.
    """
    import pandas as pd

    _require(storage, "event_dictionary", "typed_events")
    return pd.DataFrame(
        {
            "property": each.property,
            "filled": f"{each.filled_fraction:.1%}",
            "column": each.column_name or "",
            "type": each.column_type or "",
            "first day": str(each.first_day),
            "last day": str(each.last_day),
        }
        for each in storage.describe_properties(_DATASET, event)
    )


def property_names(storage: StorageEngine, event: str) -> list[str]:
    """Return the properties of an event in its typed days, sorted by name."""
    return sorted(each.property for each in storage.describe_properties(_DATASET, event))


def top_values(
    storage: StorageEngine, event: str, prop: str, first: date, last: date, *, shown: int = 15
) -> "pd.DataFrame":
    """Return the most frequent values of a property: ``value``, ``events`` and ``fraction``."""
    return _select(
        storage,
        """
        SELECT coalesce(left(json_extract_string(properties, $pointer), 80), '(none)') AS value,
            count(*) AS events, count(*) / sum(count(*)) OVER () AS fraction
        FROM events WHERE event_name = $event AND day BETWEEN $first AND $last
        GROUP BY value ORDER BY events DESC, value LIMIT $shown
        """,
        {"event": event, "pointer": pointer(prop), "first": first, "last": last, "shown": shown},
    )


def funnel(
    storage: StorageEngine,
    steps: Sequence[str],
    first: date,
    last: date,
    window: int,
    breakdown: str | None = None,
    *,
    shown: int = 8,
) -> "pd.DataFrame":
    """Return the steps of a funnel.

    Args:
        storage: The database.
        steps: The events, in order.
        first: The first day on which users enter.
        last: The last one.
        window: The number of days that users have for all steps.
        breakdown: A property of the first step, or None.
        shown: The number of values of this property to return, most users first.

    Returns:
        ``step``, ``event``, ``users``, ``from_start``, ``from_previous`` (fractions),
        ``median_seconds`` and ``p90_seconds``; before these, ``value`` if there is a breakdown.

    Raises:
        UnavailableError: Identities are not computed.
    """
    _require(storage, "user_events", "identities")
    values = {"steps": list(steps), "first": first, "last": last, "window": window}
    if breakdown is None:
        return _select(
            storage, "FROM funnel($steps, $first, $last, within := to_days($window))", values
        )
    return _select(
        storage,
        """
        SELECT coalesce(value, '(none)') AS value, * EXCLUDE (value, entered, place) FROM (
            SELECT *, dense_rank() OVER (ORDER BY entered DESC, value) AS place FROM (
                SELECT *, max(users) OVER (PARTITION BY value) AS entered
                FROM funnel_by($steps, $first, $last, $property, within := to_days($window)))
        ) WHERE place <= $shown ORDER BY place, step
        """,
        values | {"property": breakdown, "shown": shown},
    )


def retention(
    storage: StorageEngine,
    birth_event: str | None,
    return_event: str | None,
    first: date,
    last: date,
    unit: str,
    *,
    cohorts: int = 31,
) -> "pd.DataFrame":
    """Return the retention of the latest cohorts.

    Args:
        storage: The database.
        birth_event: The event with which a user enters a cohort; None for any.
        return_event: The event with which a user is retained; None for any.
        first: The first day.
        last: The last one.
        unit: A key of ``BUCKETS``.
        cohorts: The number of cohorts.

    Returns:
        ``cohort``, ``bucket``, ``users``, ``retained``, ``fraction`` and ``complete``, without
        buckets that had not begun.

    Raises:
        UnavailableError: Identities are not computed.
    """
    _require(storage, "user_events", "identities")
    return _select(
        storage,
        """
        SELECT * FROM retention($birth_event, $return_event, $first, $last,
            unit := $unit, last_bucket := $last_bucket)
        WHERE complete OR retained > 0
        QUALIFY dense_rank() OVER (ORDER BY cohort DESC) <= $cohorts ORDER BY cohort, bucket
        """,
        {
            "birth_event": birth_event,
            "return_event": return_event,
            "first": first,
            "last": last,
            "unit": unit,
            "last_bucket": BUCKETS[unit],
            "cohorts": cohorts,
        },
    )


def most_active_users(
    storage: StorageEngine, first: date, last: date, *, shown: int = 20
) -> "pd.DataFrame":
    """Return ``user_id``, ``events`` and ``last_event`` (UTC) of the users with most events.

    Raises:
        UnavailableError: Identities are not computed.
    """
    _require(storage, "user_events", "identities")
    return _select(
        storage,
        """
        SELECT user_id, count(*) AS events, max(event_time) AS last_event FROM user_events
        WHERE day BETWEEN $first AND $last AND user_id IS NOT NULL
        GROUP BY user_id ORDER BY events DESC, user_id LIMIT $shown
        """,
        {"first": first, "last": last, "shown": shown},
    )


def timeline(
    storage: StorageEngine, distinct_id: str, first: date, last: date, *, shown: int = 1000
) -> "pd.DataFrame":
    """Return the latest events of a user, newest first.

    Args:
        storage: The database.
        distinct_id: Any of the user's IDs.
        first: The first day.
        last: The last one.
        shown: The number of events at most.

    Returns:
        ``event_time`` (UTC), ``event``, ``distinct_id`` and ``properties`` (JSON).

    Raises:
        UnavailableError: Identities are not computed.
    """
    _require(storage, "user_events", "identities")
    return _select(
        storage,
        """
        SELECT event_time, event_name AS event, distinct_id, properties FROM events
        WHERE day BETWEEN $first AND $last AND distinct_id IN (
            SELECT distinct_id FROM identities WHERE user_id =
                (SELECT user_id FROM identities WHERE distinct_id = $distinct_id))
        ORDER BY event_time DESC, event, insert_id LIMIT $shown
        """,
        {"distinct_id": distinct_id, "first": first, "last": last, "shown": shown},
    )


def _require(storage: StorageEngine, view: str, assets: str) -> None:
    """Check that a view exists.

    Raises:
        UnavailableError: It does not; names the assets that create it.
    """
    if not storage.table_exists(view):
        raise UnavailableError(f"Not there yet: materialize {assets}.")


def _select(storage: StorageEngine, sql: str, values: Mapping[str, Any]) -> "pd.DataFrame":
    return storage.connection.execute(sql, values).df()

"""Which user IDs an event, or a line that was rejected, contains, and which of them are one person.

Source: Mixpanel's identity management. An event names its user in ``distinct_id``. These
properties name the same person: ``$user_id``, ``$distinct_id_before_identity``, and those that only
the events ``$identify``, ``$create_alias``, ``$merge`` and ``$hotshard_events`` have.
``$device_id`` belongs to the first user of the device: later users of a shared device are other
people.
"""

from mp_pipeline.storage.tables import literal, quoted

_NOBODY = (
    "",
    "-1",
    "0",
    "00000000-0000-0000-0000-000000000000",
    "[object object]",
    "anon",
    "anonymous",
    "false",
    "guest",
    "n/a",
    "na",
    "nan",
    "nil",
    "none",
    "null",
    "true",
    "undefined",
    "unknown",
)
"""Texts that broken tracking code sends as the ID of many users."""

MAX_IDS = 500
"""IDs that Mixpanel links to one user at most."""

DEVICE_PREFIX = "$device:"
"""What a ``distinct_id`` that stands for a device starts with."""

IDENTITY_EVENTS = ("$identify", "$create_alias", "$merge")
"""Events that only say which IDs are the same person: no activity of a user."""

_NAMES = (
    "$user_id",
    "$distinct_id_before_identity",
    "$identified_id",
    "$anon_id",
    "alias",
    "mp_original_distinct_id",
)
_ONLY_IN = {
    "$identified_id": "$identify",
    "$anon_id": "$identify",
    "alias": "$create_alias",
    "mp_original_distinct_id": "$hotshard_events",
}
"""Properties that name a user only in events of this name."""

# In a line that may not be valid JSON: the properties above, and a string or number after them.
_IDS_OF_A_LINE = (
    r'"(?:\$?distinct_id|\$user_id|\$distinct_id_before_identity|\$identified_id|\$anon_id|alias'
    r'|mp_original_distinct_id)"\s*:\s*("(?:[^"\\]|\\.)*"|[^\s,}\]]+)'
)


def is_nobody(user_id: str) -> bool:
    """Return whether an ID stands for no user in particular.

    Example:
        >>> is_nobody("Anonymous"), is_nobody("u1")
        (True, False)
    """
    return user_id.strip().lower() in _NOBODY


def not_nobody(expression: str) -> str:
    """Return the SQL condition that an expression is the ID of a user."""
    return f"lower(trim({expression})) NOT IN ({', '.join(map(literal, _NOBODY))})"


def possible_ids_of_event() -> str:
    """Return the SQL expression for texts that include all IDs in an event: cheap, not exact.

    The IDs in ``distinct_id`` and in the lists of ``$merge`` are left out.
    """
    pointers = ", ".join(literal(f"/{name}") for name in _NAMES)
    return f"json_extract_string(properties, [{pointers}])"


def merged_ids_of_event() -> str:
    """Return the SQL expression for the IDs in the list of ``$merge``: a list of text."""
    return (
        "CASE WHEN event_name = '$merge' "
        """THEN json_extract_string(properties, '$."$distinct_ids"[*]') ELSE [] END"""
    )


def named_ids_of_event() -> str:
    """Return the SQL expression for the IDs in an event: a list of structs of ``id`` and ``name``.

    ``name`` is the column or property that contains the ID.
    """
    values = possible_ids_of_event()
    names = ", ".join(map(literal, _NAMES))
    events = ", ".join(literal(_ONLY_IN.get(name, "")) for name in _NAMES)
    fields = f"list_zip({values}, [{names}], [{events}])"
    of_event = f"list_filter({fields}, lambda f: f[1] IS NOT NULL AND f[3] IN ('', event_name))"
    return (
        "list_concat([{id: distinct_id, name: 'distinct_id'}], "
        f"list_transform({of_event}, lambda f: {{id: f[1], name: f[2]}}), "
        f"list_transform({merged_ids_of_event()}, lambda id: {{id: id, name: '$distinct_ids'}}))"
    )


def pairs_of_same_person(table: str) -> str:
    """Return the query for the pairs of IDs that events say are the same person.

    Its columns are ``id``, ``other`` and ``since``, the time of the first event that says so. Of a
    device and a user, ``id`` is the device. Which users of a device are one person is up to the
    caller.

    Args:
        table: The table of events, quoted.
    """
    names = ("$device_id", "$user_id", "$distinct_id_before_identity", *_ONLY_IN)
    pointers = ", ".join(literal(f"/{name}") for name in names)
    value = {name: f"ids[{number}]" for number, name in enumerate(names, 1)}
    columns = ", ".join(f"{value[name]} AS {quoted(name)}" for name in names)
    events = ", ".join(map(literal, IDENTITY_EVENTS))
    # Many events name the same IDs: pairs are made of the different ones.
    return f"""
        WITH named AS (
            SELECT event_name, distinct_id, properties, {columns}, min(event_time) AS since FROM (
                SELECT distinct_id, event_time,
                    CASE WHEN event_name IN ({events}) THEN event_name END AS event_name,
                    CASE WHEN event_name = '$merge' THEN properties END AS properties,
                    json_extract_string(properties, [{pointers}]) AS ids
                FROM {table}
            ) GROUP BY ALL
        ), linked(id, other, since) AS (
            SELECT CASE WHEN starts_with("$device_id", '{DEVICE_PREFIX}') THEN "$device_id"
                ELSE '{DEVICE_PREFIX}' || "$device_id" END, "$user_id", since FROM named
            WHERE {not_nobody('"$device_id"')}
            UNION ALL
            SELECT "$distinct_id_before_identity", distinct_id, since FROM named
            UNION ALL
            SELECT "$anon_id", "$identified_id", since FROM named WHERE event_name = '$identify'
            UNION ALL
            SELECT alias, distinct_id, since FROM named WHERE event_name = '$create_alias'
            UNION ALL
            SELECT ids[1], unnest(ids[2:]), since FROM (
                SELECT since, list_filter({merged_ids_of_event()},
                    lambda id: id IS NOT NULL AND {not_nobody("id")}) AS ids
                FROM named WHERE event_name = '$merge')
        ), sorted AS (
            SELECT *, starts_with(other, '{DEVICE_PREFIX}')
                AND NOT starts_with(id, '{DEVICE_PREFIX}') AS is_device_last
            FROM linked WHERE id <> other AND {not_nobody("id")} AND {not_nobody("other")}
        )
        SELECT if(is_device_last, other, id) AS id, if(is_device_last, id, other) AS other,
            min(since) AS since
        FROM sorted GROUP BY ALL
    """


def is_event_of(users: str) -> str:
    """Return the SQL condition that an event contains the ID of a user.

    Args:
        users: A table whose column ``id`` contains the IDs.
    """
    ids = f"(SELECT list(id) FROM {users})"
    exact = f"list_transform({named_ids_of_event()}, lambda named: named.id)"
    return (  # the cheap conditions first
        f"(distinct_id IN (SELECT id FROM {users}) OR event_name = '$merge' "
        f"OR list_has_any({possible_ids_of_event()}, {ids})) AND list_has_any({exact}, {ids})"
    )


def ids_of_line(line: str) -> str:
    """Return the SQL expression for the IDs in a line that may not be valid JSON.

    Args:
        line: The SQL expression for the line.
    """
    found = f"regexp_extract_all({line}, {literal(_IDS_OF_A_LINE)}, 1)"
    return f"list_transform({found}, lambda found: coalesce(TRY_CAST(found AS JSON)->>'$', found))"

"""Comments on typed tables: what events and properties are called, and what they mean."""

from itertools import groupby
from operator import itemgetter

import duckdb

from mp_pipeline.storage.inspection import schema_problems
from mp_pipeline.storage.statements import execute, transaction
from mp_pipeline.storage.tables import literal, quoted
from mp_pipeline.storage.typed.names import lexicon_name
from mp_pipeline.storage.typed.registry import qualified_schema


def comment_tables(connection: duckdb.DuckDBPyConnection, dataset: str) -> int:
    """Bring the comments on the typed tables of a dataset, and on their columns, up to date.

    They end with the descriptions of the Lexicon, if it is loaded. Each table is one transaction:
    within one, each comment takes longer than the one before.

    Returns:
        The number of comments that changed.
    """
    meanings = _read_meanings(connection, dataset)
    changed = 0
    schema = qualified_schema(connection, dataset)
    described = execute(connection, _DESCRIBED, [dataset, dataset])
    for table, rows in groupby(described, key=itemgetter(0)):
        name = f"{schema}.{quoted(table)}"
        with transaction(connection):
            for _, event, prop, column, filled, total, comment in rows:
                if column is None:
                    wanted, kind = f"Event: {event}", f"TABLE {name}"
                else:
                    wanted = f"Property: {prop}, filled in {_percent(filled, total)} of the events"
                    kind = f"COLUMN {name}.{quoted(column)}"
                if meaning := meanings.get((event, prop)):
                    wanted = f"{wanted}. {meaning}"
                wanted = wanted.replace("\0", "\N{SYMBOL FOR NULL}")  # not possible in SQL
                if wanted != comment:
                    execute(connection, f"COMMENT ON {kind} IS {literal(wanted)}")
                    changed += 1
    return changed


def _read_meanings(
    connection: duckdb.DuckDBPyConnection, dataset: str
) -> dict[tuple[str, str | None], str]:
    """Return the Lexicon's descriptions by event and property; None is the event itself."""
    table = lexicon_name(dataset)
    if schema_problems(connection, [table], "lexicon")[table]:  # such as: it does not exist
        return {}
    return {
        (event, prop): meaning
        for event, prop, meaning in execute(connection, _MEANINGS.format(lexicon=quoted(table)))
        if meaning
    }


_MEANINGS = """
    WITH events AS (
        SELECT name, description, json_extract(properties, '$.schemaJson.properties') AS properties
        FROM {lexicon} WHERE entity = 'event'
    ), named AS (
        SELECT name, unnest(json_keys(properties)) AS property, properties FROM events
    )
    SELECT name, NULL, description FROM events
    UNION ALL
    SELECT name, property,
        properties->>('/' || replace(replace(property, '~', '~0'), '/', '~1') || '/description')
    FROM named
"""
"""The descriptions of events and of their properties, by name."""

_DESCRIBED = """
    WITH known AS (
        SELECT dataset, event_name, schema_name, table_name, NULL AS property,
            NULL AS column_name
        FROM _event_tables
        UNION ALL
        SELECT dataset, event_name, schema_name, table_name, property, column_name
        FROM _event_columns JOIN _event_tables USING (dataset, event_name)
    ), counted AS (
        SELECT dataset, event_name, property, sum(events) AS events FROM _property_days
        WHERE dataset = lower(?) AND json_type IS DISTINCT FROM 'NULL'
        GROUP BY ALL
    ), commented AS (
        SELECT schema_name, table_name, NULL AS column_name, comment
        FROM duckdb_tables() WHERE database_name = current_database()
        UNION ALL
        SELECT schema_name, table_name, column_name, comment
        FROM duckdb_columns() WHERE database_name = current_database()
    )
    SELECT known.table_name, known.event_name, known.property, known.column_name,
        coalesce(filled.events, 0), total.events, comment
    FROM known
    JOIN counted AS total ON total.dataset = known.dataset
        AND total.event_name = known.event_name AND total.property IS NULL
    LEFT JOIN counted AS filled ON filled.dataset = known.dataset
        AND filled.event_name = known.event_name AND filled.property = known.property
    JOIN commented ON commented.schema_name = known.schema_name
        AND commented.table_name = known.table_name
        AND commented.column_name IS NOT DISTINCT FROM known.column_name
    WHERE known.dataset = lower(?)
    ORDER BY known.table_name, known.column_name
"""


def _percent(part: int, total: int) -> str:
    """Return a fraction as whole percents, but only what is complete as 100 %.

    Example:
        >>> _percent(1, 1000), _percent(500, 1000), _percent(999, 1000), _percent(5, 5)
        ('less than 1 %', '50 %', '99 %', '100 %')
    """
    percent = 100 * part // total
    return f"{percent} %" if percent or not part else "less than 1 %"

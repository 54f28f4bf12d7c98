"""SQL that turns lines of JSON into rows of the data model's tables.

Two shapes of line are understood, and may be mixed in one file:

- a line of Mixpanel's export or a profile of its engage API, under Mixpanel's rules: a missing
  ``distinct_id`` is stored as ``''``, a missing ``$insert_id`` is derived from the event's content;
- a record of the data model (``event_name``, ``event_time``, …), all of whose fields must be there.

Each table type has two queries. ``rows`` reads files with ``read_json``, at DuckDB's speed; a line
that cannot be a row makes the whole statement fail. ``judged_rows`` reads numbered lines (made by
``lines.py``) and gives, for each, the row or the reason why there is none.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import duckdb

from mp_pipeline.storage.statements import execute
from mp_pipeline.storage.tables import TableLayout

_MACROS = (
    # Numbers beyond 1e10 are milliseconds (a time in seconds reaches that in 2286). The bounds are
    # the years 1 to 9999, which every reader of the table understands.
    """
    CREATE OR REPLACE TEMP MACRO time_from_number(number) AS
        CASE WHEN number BETWEEN -62135596800000 AND 253402300799999 THEN
            make_timestamp(
                CASE WHEN abs(number) > 10000000000 THEN (number * 1000)::BIGINT
                ELSE (number * 1000000)::BIGINT END)
        END
    """,
    """
    CREATE OR REPLACE TEMP MACRO with_offset_of_the_day_before(wall, zone) AS
        wall - ((wall - INTERVAL 1 DAY)
            - timezone('UTC', timezone(zone, wall - INTERVAL 1 DAY)))
    """,
    # What a wall clock showed, in UTC. An hour that comes twice is the first of the two, an hour
    # that is skipped counts on with the offset before it: both as Python's zoneinfo has it.
    """
    CREATE OR REPLACE TEMP MACRO time_from_wall_clock(wall, zone) AS
        CASE
            WHEN zone = 'UTC' THEN wall
            WHEN timezone(zone, timezone('UTC', with_offset_of_the_day_before(wall, zone))) = wall
                THEN with_offset_of_the_day_before(wall, zone)
            ELSE timezone('UTC', timezone(zone, wall))
        END
    """,
    # ISO 8601 text: an offset makes it absolute, without one it is the wall clock of the zone.
    r"""
    CREATE OR REPLACE TEMP MACRO time_from_text(text, zone) AS
        CASE
            WHEN starts_with(text, '0000') OR NOT regexp_full_match(text,
                '\d{4}-\d{2}-\d{2}([Tt ]\d{2}:\d{2}(:\d{2}(\.\d+)?)?([Zz]|[+-]\d{2}(:?\d{2})?)?)?')
                THEN NULL
            WHEN regexp_matches(text, ':.*([Zz]|[+-]\d{2}(:?\d{2})?)$')
                THEN timezone('UTC', TRY_CAST(upper(text) AS TIMESTAMPTZ))
            ELSE time_from_wall_clock(TRY_CAST(upper(text) AS TIMESTAMP), zone)
        END
    """,
    """
    CREATE OR REPLACE TEMP MACRO time_from(text, zone) AS
        CASE
            WHEN TRY_CAST(text AS DECIMAL(38, 6)) IS NULL THEN time_from_text(text, zone)
            ELSE time_from_wall_clock(time_from_number(TRY_CAST(text AS DECIMAL(38, 6))), zone)
        END
    """,
    # The same content always gives the same id, so that loading a day again changes nothing.
    """
    CREATE OR REPLACE TEMP MACRO content_id(event_name, event_time, distinct_id, content) AS
        md5(to_json([event_name, epoch_us(event_time)::VARCHAR, distinct_id, content])::VARCHAR)
    """,
)

_EVENT_LINE = {
    "event": "VARCHAR",
    "event_name": "VARCHAR",
    "event_time": "VARCHAR",
    "distinct_id": "VARCHAR",
    "insert_id": "VARCHAR",
    "properties": "JSON",
}

# Everything that a row needs is extracted from `properties` at once, and what has a column of its
# own is taken out of it: one pass each is much cheaper than one a key.
_EVENT_ROWS = """
    WITH fields AS (
        SELECT *,
            event IS NULL AS is_record,
            CASE WHEN event IS NULL THEN [event_time, distinct_id, insert_id]
                ELSE json_extract_string(
                    properties, ['$.time', '$.distinct_id', '$."$insert_id"'])
            END AS promoted
        FROM ({lines})
    ),
    parsed AS (
        SELECT * REPLACE (
                CASE WHEN NOT is_record THEN event
                    WHEN json_type(properties) = 'OBJECT' THEN event_name END AS event_name,
                time_from(promoted[1], CASE WHEN is_record THEN 'UTC' ELSE {zone} END)
                    AS event_time,
                CASE WHEN is_record THEN promoted[2] ELSE coalesce(promoted[2], '') END
                    AS distinct_id,
                CASE WHEN is_record THEN promoted[3] ELSE coalesce(promoted[3], '') END
                    AS insert_id,
                CASE WHEN is_record THEN properties
                    ELSE json_merge_patch(
                        properties, '{{"time":null,"distinct_id":null,"$insert_id":null}}')
                END AS properties
            ),
            CASE
                WHEN coalesce(event, fields.event_name) IS NULL THEN 'no event name'
                WHEN coalesce(json_type(fields.properties), '') <> 'OBJECT'
                    THEN 'properties is not an object'
                WHEN promoted[1] IS NULL THEN if(is_record, 'no event_time', 'no time')
                WHEN time_from(promoted[1], 'UTC') IS NULL
                    THEN if(is_record, 'event_time', 'time') || ' cannot be read: '
                        || left(promoted[1], 100)
                WHEN is_record AND promoted[2] IS NULL THEN 'no distinct_id'
                WHEN is_record AND promoted[3] IS NULL THEN 'no insert_id'
            END AS reason
        FROM fields
    )
    SELECT * REPLACE (
        CASE WHEN insert_id = ''
            THEN content_id(event_name, event_time, distinct_id, properties::VARCHAR)
            ELSE insert_id END AS insert_id)
    FROM parsed
"""

_PROFILE_LINE = {
    "$distinct_id": "VARCHAR",
    "$properties": "JSON",
    "distinct_id": "VARCHAR",
    "properties": "JSON",
    "last_seen": "VARCHAR",
}

# A `$last_seen` that cannot be read stays in the properties: the rest of the profile is good.
_PROFILE_ROWS = """
    WITH fields AS (
        SELECT * REPLACE (
                coalesce("$distinct_id", distinct_id) AS distinct_id,
                if("$distinct_id" IS NULL, properties, coalesce("$properties", '{{}}'))
                    AS properties,
                if("$distinct_id" IS NULL, last_seen, "$properties"->>'$."$last_seen"')
                    AS last_seen
            ),
            "$distinct_id" IS NULL AS is_record
        FROM ({lines})
    ),
    parsed AS (
        SELECT * REPLACE (
                time_from(last_seen, 'UTC') AS last_seen,
                CASE WHEN NOT is_record
                    AND (last_seen IS NULL OR time_from(last_seen, 'UTC') IS NOT NULL)
                    THEN json_merge_patch(properties, '{{"$last_seen":null}}')
                    ELSE properties END AS properties
            ),
            CASE
                WHEN distinct_id IS NULL THEN 'no distinct_id'
                WHEN is_record AND properties IS NULL THEN 'no properties'
                WHEN json_type(properties) <> 'OBJECT' THEN 'properties is not an object'
                WHEN is_record AND fields.last_seen IS NOT NULL
                    AND time_from(fields.last_seen, 'UTC') IS NULL
                    THEN 'last_seen cannot be read: ' || left(fields.last_seen, 100)
            END AS reason
        FROM fields
    )
    SELECT * REPLACE (if(reason IS NULL, distinct_id, NULL) AS distinct_id) FROM parsed
"""

_LINES = {"events": _EVENT_LINE, "profiles": _PROFILE_LINE}
_ROWS = {"events": _EVENT_ROWS, "profiles": _PROFILE_ROWS}


def create_macros(connection: duckdb.DuckDBPyConnection) -> None:
    """Create the macros that the queries of this module use, for this connection only."""
    for macro in _MACROS:
        execute(connection, macro)


def rows(layout: TableLayout, files: Sequence[Path], zone: str) -> str:
    """Return the query that gives the rows of files of JSON Lines.

    Args:
        layout: the table that they are for.
        files: plain, or gzip where the name ends in ``.gz``; not empty.
        zone: time zone whose wall clock the export's ``time`` shows, ``UTC`` for true UTC.
    """
    columns = ", ".join(
        f"{_literal(name)}: {_literal(type_)}" for name, type_ in _LINES[layout.type].items()
    )
    names = ", ".join(_file(file) for file in files)
    lines = (
        f"SELECT * FROM read_json([{names}], format = 'newline_delimited', "
        f"columns = {{{columns}}}, hive_partitioning = false)"
    )
    select = ", ".join(layout.column_names)
    return f"SELECT {select} FROM ({_ROWS[layout.type].format(lines=lines, zone=_literal(zone))})"


def judged_rows(layout: TableLayout, numbered_lines: Path, largest_line: int, zone: str) -> str:
    """Return the query that gives a row, or the reason why there is none, for each line.

    Its columns are those of the table, and ``line_number``, ``line``, ``mended`` and ``reason``
    (NULL where the row is good).

    Args:
        layout: the table that the rows are for.
        numbered_lines: what ``lines.number_lines`` writes.
        largest_line: size of the file's largest line in bytes.
        zone: as for ``rows``.
    """
    fields = ", ".join(
        f'{_field(name, type_)} AS "{name}"' for name, type_ in _LINES[layout.type].items()
    )
    lines = f"""
        SELECT line_number, line, mended, refused, document IS NULL AS no_document, {fields}
        FROM (
            SELECT *, CASE WHEN json_type(TRY_CAST(line AS JSON)) = 'OBJECT'
                THEN TRY_CAST(line AS JSON) END AS document
            FROM read_json({_file(numbered_lines)}, format = 'newline_delimited',
                columns = {{line_number: 'BIGINT', line: 'VARCHAR', mended: 'BOOLEAN',
                    refused: 'VARCHAR'}},
                hive_partitioning = false,
                maximum_object_size = {max(largest_line + 1, 16 * 1024 * 1024)})
        )
    """
    select = ", ".join(layout.column_names)
    return f"""
        SELECT {select}, line_number, line, mended,
            CASE
                WHEN refused IS NOT NULL THEN refused
                WHEN NOT no_document THEN reason
                WHEN TRY_CAST(line AS JSON) IS NULL THEN 'not valid JSON'
                ELSE 'not a JSON object'
            END AS reason
        FROM ({_ROWS[layout.type].format(lines=lines, zone=_literal(zone))})
    """


def _field(name: str, type_: str) -> str:
    path = _literal(f'$."{name}"')
    if type_ == "VARCHAR":
        return f"document->>{path}"
    return f"CASE WHEN json_type(document, {path}) <> 'NULL' THEN document->{path} END"


def _file(path: Path) -> str:
    """Return a path as a literal that is no pattern: DuckDB reads ``*``, ``?`` and ``[`` as one."""
    return _literal(re.sub(r"[*?\[]", r"[\g<0>]", str(path)))


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"

r"""SQL queries that turn lines of JSON into rows of the data model's tables.

A file may contain lines of two shapes, in any mix:

- An event of Mixpanel's export, or a profile of its engage API. A missing ``distinct_id`` is stored
  as ``''``; a missing ``$insert_id`` is derived from the event's content.
- A record of the data model (``event_name``, ``event_time``, …). All of its fields are required,
  except a profile's ``last_seen``.

Groups and cohort members are profiles of the engage API, whose other columns are labels of the
file. Cohorts, annotations and the schemas of the Lexicon are the objects that Mixpanel's APIs list.
What has no column of its own, or cannot be read, stays in ``properties``.

Each table type has two queries. ``rows_query`` reads files with ``read_json`` at DuckDB's full
speed; one line that cannot be stored makes the whole statement fail. ``checked_rows_query`` reads
the numbered lines that ``lines.py`` writes, and returns for each line either the row or the reason
why there is none. Both start from the same JSON columns and share the rest of the SQL, so a line
gives the same row whichever query reads it.

**Text of ids and names.** Mixpanel usually sends strings, but a name, ``distinct_id`` or
``$insert_id`` may be any JSON value. It is stored as the text that DuckDB's ``->>`` operator
returns:

=====================  ===================================================================
JSON value             stored text
=====================  ===================================================================
string                 its characters
integer                its digits, however many; ``-0`` is ``0``
other number           the shortest digits that give the same 64-bit float: ``1.50`` is
                       ``1.5``, ``1e5`` is ``100000.0``; written with an exponent from 1e21
                       and below 1e-6 (``1e21``, ``1e-7``); kept as sent if it is too large
                       for a float (``1e999``)
true, false            ``true``, ``false``
object, array          compact JSON
null                   the same as a missing value
=====================  ===================================================================

This is also the text that ``properties->>'$.name'`` shows for any other property, so an id joins
with a profile's ``$distinct_id`` and with ids inside ``properties``. The digits exactly as
Mixpanel sent them are not available: DuckDB normalizes numbers when it reads JSON columns.

**Times.** A time is stored in UTC, in whole microseconds. Digits beyond that are dropped, always
towards the past, so that no event moves into the next day. Accepted are:

- A number of seconds since 1970, or of milliseconds if it is beyond 1e10 in either direction (a
  time in seconds reaches 1e10 in 2286). As text, only plain decimal digits count as a number, with
  an optional minus sign and fraction: no ``+``, blanks, ``_``, exponent or hexadecimal digits. A
  number nearer to 0 than a microsecond is not a time.
- ISO 8601 text: ``2024-01-15``, or date and time separated by ``T``, ``t`` or a blank, with
  optional seconds, fraction and offset (``Z``, ``z``, ``+05``, ``+0530``, ``+05:30``). ``24:00:00``
  is the next midnight. Not accepted are second 60, which TIMESTAMP cannot store, week dates
  (``2024-W03-1``), ordinal dates (``2024-015``) and dates without hyphens.

An offset may reach ±15:59, the widest that any place has ever used (Alaska and Manila in the 19th
century) and the limit that PostgreSQL sets as well. Times outside the years 1 to 9999 are rejected,
because Python's ``datetime`` cannot read them back.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import duckdb

from mp_pipeline.storage.lines import is_gzip
from mp_pipeline.storage.models import TableType
from mp_pipeline.storage.statements import execute
from mp_pipeline.storage.tables import TableLayout, literal

_ISO_8601 = (
    r"\d{4}-\d{2}-\d{2}"
    r"([Tt ]"
    r"(([01]\d|2[0-3]):[0-5]\d(:[0-5]\d(\.\d+)?)?|24:00(:00(\.0+)?)?)"
    r"([Zz]|[+-](0\d|1[0-5])(:?[0-5]\d)?)?"
    r")?"
)

_MACROS = (
    """
    CREATE OR REPLACE TEMP MACRO time_from_integer(number) AS
        CASE
            WHEN abs(number) <= 10000000000 THEN make_timestamp(number * 1000000)
            WHEN number BETWEEN -62135596800000 AND 253402300799999
                THEN make_timestamp(number * 1000)
        END
    """,
    # DECIMAL, because a DOUBLE cannot hold microseconds exactly.
    """
    CREATE OR REPLACE TEMP MACRO time_from_decimal(number) AS
        CASE
            WHEN abs(number) <= 10000000000 THEN make_timestamp((number * 1000000)::BIGINT)
            WHEN number >= -62135596800000 AND number < 253402300800000
                THEN make_timestamp(floor(number * 1000)::BIGINT)
        END
    """,
    # A cast to DECIMAL rounds, so further decimals are cut off before it. That rounds a negative
    # number towards 0, which the last line puts right.
    r"""
    CREATE OR REPLACE TEMP MACRO floor_to_6_decimals(text) AS
        CASE
            WHEN instr(text, '.') >= length(text) - 6 THEN TRY_CAST(text AS DECIMAL(38, 6))
            ELSE TRY_CAST(regexp_extract(text, '-?\d+(\.\d{1,6})?') AS DECIMAL(38, 6))
                - if(regexp_matches(text, '^-\d+\.\d{6}\d*[1-9]'), 0.000001, 0)
        END
    """,
    # DuckDB 1.5 reads an offset only after seconds.
    """
    CREATE OR REPLACE TEMP MACRO with_seconds(text) AS
        CASE WHEN text[17] = ':' THEN text ELSE text[:16] || ':00' || text[17:] END
    """,
    # Text with an offset is absolute. Any other time shows the wall clock of a zone.
    """
    CREATE OR REPLACE TEMP MACRO has_offset(text) AS
        regexp_matches(text[17:], '[Zz+-]')
    """,
    f"""
    CREATE OR REPLACE TEMP MACRO time_from_iso_text(text) AS
        CASE
            WHEN NOT regexp_full_match(text, '{_ISO_8601}') THEN NULL
            WHEN has_offset(text)
                THEN timezone('UTC', TRY_CAST(with_seconds(upper(text)) AS TIMESTAMPTZ))
            ELSE TRY_CAST(upper(text) AS TIMESTAMP)
        END
    """,
    # Nearly all times are integers of 10 or 13 digits: they take the cheapest branch.
    r"""
    CREATE OR REPLACE TEMP MACRO time_from(text) AS
        CASE
            WHEN NOT regexp_full_match(text, '-?\d+(\.\d+)?') THEN time_from_iso_text(text)
            WHEN length(text) <= 15 AND NOT contains(text, '.')
                THEN time_from_integer(text::BIGINT)
            ELSE time_from_decimal(floor_to_6_decimals(text))
        END
    """,
    """
    CREATE OR REPLACE TEMP MACRO with_offset_of_the_day_before(wall, zone) AS
        wall - ((wall - INTERVAL 1 DAY)
            - timezone('UTC', timezone(zone, wall - INTERVAL 1 DAY)))
    """,
    # Converts what a wall clock showed to UTC as Python's zoneinfo does: the first of the two
    # if an hour comes twice; the offset from before the gap if an hour is skipped.
    """
    CREATE OR REPLACE TEMP MACRO time_from_wall_clock(wall, zone) AS
        CASE
            WHEN timezone(zone, timezone('UTC', with_offset_of_the_day_before(wall, zone))) = wall
                THEN with_offset_of_the_day_before(wall, zone)
            ELSE timezone('UTC', timezone(zone, wall))
        END
    """,
    """
    CREATE OR REPLACE TEMP MACRO in_years_1_to_9999(moment) AS
        CASE
            WHEN moment >= TIMESTAMP '0001-01-01'
                AND moment <= TIMESTAMP '9999-12-31 23:59:59.999999' THEN moment
        END
    """,
    r"""
    CREATE OR REPLACE TEMP MACRO integer_from(text) AS
        CASE WHEN regexp_full_match(text, '-?\d+') THEN TRY_CAST(text AS BIGINT) END
    """,
    # The same content always gives the same id, so that reloading a day changes nothing.
    """
    CREATE OR REPLACE TEMP MACRO content_id(event_name, event_time, distinct_id, content) AS
        md5(to_json([event_name, epoch_us(event_time)::VARCHAR, distinct_id, content])::VARCHAR)
    """,
)

_EVENT_FIELDS = ("event", "event_name", "event_time", "distinct_id", "insert_id", "properties")

# All fields that a row needs are extracted from `properties` at once, and the fields that have
# columns of their own are removed at once: one pass each is much cheaper than one per key.
#
# `rows_query` does not select `reason`, so DuckDB does not compute it there. Instead, a line that
# cannot be stored has NULL in a column that is NOT NULL.
_EVENT_ROWS = """
    WITH fields AS (
        SELECT *,
            event IS NULL AS is_record,
            coalesce(event, event_name)->>'$' AS name,
            CASE WHEN event IS NULL
                THEN [event_time->>'$', distinct_id->>'$', insert_id->>'$']
                ELSE json_extract_string(
                    properties, ['$.time', '$.distinct_id', '$."$insert_id"'])
            END AS promoted
        FROM ({lines})
    ),
    shown AS (
        SELECT *, time_from(promoted[1]) AS shown_time FROM fields
    ),
    timed AS (
        SELECT *, CASE
                WHEN {zone} = 'UTC' OR is_record OR has_offset(promoted[1]) THEN shown_time
                ELSE time_from_wall_clock(shown_time, {zone})
            END AS time
        FROM shown
    ),
    parsed AS (
        SELECT * REPLACE (
                CASE WHEN NOT is_record OR json_type(properties) = 'OBJECT' THEN name END
                    AS event_name,
                in_years_1_to_9999(time) AS event_time,
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
                WHEN name IS NULL THEN 'no event name'
                WHEN coalesce(json_type(timed.properties), '') <> 'OBJECT'
                    THEN 'properties is not an object'
                WHEN promoted[1] IS NULL THEN if(is_record, 'no event_time', 'no time')
                WHEN in_years_1_to_9999(time) IS NULL
                    THEN if(is_record, 'event_time', 'time') || ' cannot be read: '
                        || left(promoted[1], 100)
                WHEN is_record AND promoted[2] IS NULL THEN 'no distinct_id'
                WHEN is_record AND promoted[3] IS NULL THEN 'no insert_id'
            END AS reason
        FROM timed
    )
    SELECT * REPLACE (
        CASE WHEN insert_id = ''
            THEN content_id(event_name, event_time, distinct_id, properties::VARCHAR)
            ELSE insert_id END AS insert_id)
    FROM parsed
"""

_PROFILE_FIELDS = ("$distinct_id", "$properties", "distinct_id", "properties", "last_seen")

# A `$last_seen` that cannot be read stays in the properties: the rest of the profile is good.
_PROFILE_ROWS = """
    WITH fields AS (
        SELECT * REPLACE (
                coalesce("$distinct_id", distinct_id)->>'$' AS distinct_id,
                if("$distinct_id" IS NULL, properties, coalesce("$properties", '{{}}'))
                    AS properties,
                if("$distinct_id" IS NULL, last_seen->>'$', "$properties"->>'$."$last_seen"')
                    AS last_seen
            ),
            "$distinct_id" IS NULL AS is_record
        FROM ({lines})
    ),
    timed AS (
        SELECT * REPLACE (in_years_1_to_9999(time) AS time)
        FROM (SELECT *, time_from(last_seen) AS time FROM fields)
    ),
    parsed AS (
        SELECT * REPLACE (
                time AS last_seen,
                CASE WHEN NOT is_record AND (last_seen IS NULL OR time IS NOT NULL)
                    THEN json_merge_patch(properties, '{{"$last_seen":null}}')
                    ELSE properties END AS properties
            ),
            CASE
                WHEN distinct_id IS NULL THEN 'no distinct_id'
                WHEN is_record AND properties IS NULL THEN 'no properties'
                WHEN json_type(properties) <> 'OBJECT' THEN 'properties is not an object'
                WHEN is_record AND timed.last_seen IS NOT NULL AND time IS NULL
                    THEN 'last_seen cannot be read: ' || left(timed.last_seen, 100)
            END AS reason
        FROM timed
    )
    SELECT * REPLACE (if(reason IS NULL, distinct_id, NULL) AS distinct_id) FROM parsed
"""

_ID_PROBLEM = """
    WHEN shown_id IS NULL THEN 'no id'
    WHEN id IS NULL THEN 'id is not an integer: ' || left(shown_id, 100)
"""

_COHORT_FIELDS = ("id", "name", "description", "count", "is_visible", "created")

_COHORT_ROWS = f"""
    WITH fields AS (
        SELECT * REPLACE (
                integer_from(id->>'$') AS id,
                name->>'$' AS name,
                description->>'$' AS description,
                integer_from(count->>'$') AS count,
                in_years_1_to_9999(time_from(created->>'$')) AS created
            ),
            id->>'$' AS shown_id,
            CASE WHEN is_visible->>'$' IN ('1', 'true') THEN true
                WHEN is_visible->>'$' IN ('0', 'false') THEN false END AS visible
        FROM ({{lines}})
    )
    SELECT *,
        json_merge_patch(
            json_merge_patch(document, '{{{{"id":null,"name":null,"description":null}}}}'),
            if(count IS NULL, '{{{{}}}}', '{{{{"count":null}}}}'),
            if(visible IS NULL, '{{{{}}}}', '{{{{"is_visible":null}}}}'),
            if(created IS NULL, '{{{{}}}}', '{{{{"created":null}}}}')
        ) AS properties,
        CASE {_ID_PROBLEM} END AS reason
    FROM fields
"""

_ANNOTATION_FIELDS = ("id", "date", "description", "user", "tags")

# The date shows the wall clock of the project's time zone.
_ANNOTATION_ROWS = f"""
    WITH fields AS (
        SELECT * REPLACE (
                integer_from(id->>'$') AS id,
                date->>'$' AS date,
                description->>'$' AS description,
                [coalesce(tag->>'$.name', tag->>'$') for tag in json_extract(tags, '$[*]')] AS tags
            ),
            id->>'$' AS shown_id,
            CASE json_type("user")
                WHEN 'OBJECT' THEN nullif(
                    concat_ws(' ', "user"->>'$.first_name', "user"->>'$.last_name'), '')
                ELSE "user"->>'$'
            END AS user_name
        FROM ({{lines}})
    ),
    timed AS (
        SELECT *, in_years_1_to_9999(
                CASE WHEN has_offset(date) THEN time_from(date)
                    ELSE time_from_wall_clock(time_from(date), {{zone}}) END
            ) AS time
        FROM fields
    )
    SELECT * REPLACE (timezone({{zone}}, timezone('UTC', time))::DATE AS date),
        json_merge_patch(document, '{{{{"id":null,"date":null,"description":null}}}}')
            AS properties,
        CASE {_ID_PROBLEM}
            WHEN date IS NULL THEN 'no date'
            WHEN time IS NULL THEN 'date cannot be read: ' || left(date, 100)
        END AS reason
    FROM timed
"""

_SCHEMA_FIELDS = ("entityType", "name", "schemaJson")

_SCHEMA_ROWS = """
    WITH fields AS (
        SELECT * REPLACE (name->>'$' AS name),
            "entityType"->>'$' AS entity,
            "schemaJson"->>'$.metadata."com.mixpanel".displayName' AS display_name,
            "schemaJson"->>'$.description' AS description
        FROM ({lines})
    )
    SELECT *,
        json_merge_patch(document, '{{"entityType":null,"name":null}}') AS properties,
        CASE WHEN entity IS NULL THEN 'no entityType' WHEN name IS NULL THEN 'no name' END AS reason
    FROM fields
"""


@dataclass(frozen=True)
class _LineFormat:
    """How a line becomes a row.

    Attributes:
        fields: The fields that the rows need, as JSON columns.
        rows: The SQL that makes rows of them, with their ``reason``.
        needs_document: Whether the rows need the whole line, too, as the column ``document``.
    """

    fields: tuple[str, ...]
    rows: str
    needs_document: bool = False


_FORMATS: dict[TableType, _LineFormat] = {
    "events": _LineFormat(_EVENT_FIELDS, _EVENT_ROWS),
    "profiles": _LineFormat(_PROFILE_FIELDS, _PROFILE_ROWS),
    "groups": _LineFormat(_PROFILE_FIELDS, _PROFILE_ROWS),
    "cohort_members": _LineFormat(_PROFILE_FIELDS, _PROFILE_ROWS),
    "cohorts": _LineFormat(_COHORT_FIELDS, _COHORT_ROWS, needs_document=True),
    "annotations": _LineFormat(_ANNOTATION_FIELDS, _ANNOTATION_ROWS, needs_document=True),
    "lexicon": _LineFormat(_SCHEMA_FIELDS, _SCHEMA_ROWS, needs_document=True),
}


def create_macros(connection: duckdb.DuckDBPyConnection) -> None:
    """Create the macros that the queries of this module use, for this connection only."""
    for macro in _MACROS:
        execute(connection, macro)


def rows_query(layout: TableLayout, file: Path, zone: str, labels: Mapping[str, str]) -> str:
    """Return the query that reads the rows of a file of JSON Lines at DuckDB's full speed.

    The statement fails if a line cannot be stored.

    Args:
        layout: The table that the rows are for.
        file: The file; gzip if its name ends in ``.gz``, otherwise plain.
        zone: The time zone whose wall clock the source's times show; ``UTC`` if they are true UTC.
        labels: The values of the table's labels.

    Returns:
        A ``SELECT`` of the table's columns, in order.
    """
    line_format = _FORMATS[layout.type]
    options = (
        f"{_file(file)}, format = 'newline_delimited', "
        f"compression = '{'gzip' if is_gzip(file) else 'uncompressed'}', hive_partitioning = false"
    )
    if line_format.needs_document:
        fields = ", ".join(map(_field, line_format.fields))
        objects = f"SELECT json AS document FROM read_ndjson_objects({options})"
        lines = f"SELECT document, {fields} FROM ({objects})"
    else:
        columns = ", ".join(f"{literal(name)}: 'JSON'" for name in line_format.fields)
        lines = f"SELECT *{_labels(labels)} FROM read_json({options}, columns = {{{columns}}})"
    select = ", ".join(layout.column_names)
    return f"SELECT {select} FROM ({line_format.rows.format(lines=lines, zone=literal(zone))})"


def checked_rows_query(
    layout: TableLayout,
    numbered_lines: Path,
    largest_line: int,
    zone: str,
    labels: Mapping[str, str],
) -> str:
    """Return the query that reads, for each line, its row or the reason why there is none.

    Args:
        layout: The table that the rows are for.
        numbered_lines: A file that ``lines.number_lines`` wrote.
        largest_line: The size of that file's largest line, in bytes.
        zone: As for ``rows_query``.
        labels: As for ``rows_query``.

    Returns:
        A ``SELECT`` of the table's columns and of ``line_number``, ``line``, ``repaired`` and
        ``reason`` (NULL if the row is good).
    """
    line_format = _FORMATS[layout.type]
    document = "document, " if line_format.needs_document else ""
    fields = ", ".join(map(_field, line_format.fields))
    lines = f"""
        SELECT line_number, line, repaired, {document}{fields}{_labels(labels)},
            CASE
                WHEN line_problem IS NOT NULL THEN line_problem
                WHEN TRY_CAST(line AS JSON) IS NULL THEN 'not valid JSON'
                WHEN document IS NULL THEN 'not a JSON object'
            END AS line_problem
        FROM (
            SELECT *, CASE WHEN json_type(TRY_CAST(line AS JSON)) = 'OBJECT'
                THEN TRY_CAST(line AS JSON) END AS document
            FROM read_json({_file(numbered_lines)}, format = 'newline_delimited',
                columns = {{line_number: 'BIGINT', line: 'VARCHAR', repaired: 'BOOLEAN',
                    line_problem: 'VARCHAR'}},
                compression = 'uncompressed',
                hive_partitioning = false,
                maximum_object_size = {max(largest_line + 1, 16 * 1024 * 1024)})
        )
    """
    select = ", ".join(layout.column_names)
    return f"""
        SELECT {select}, line_number, line, repaired, coalesce(line_problem, reason) AS reason
        FROM ({line_format.rows.format(lines=lines, zone=literal(zone))})
    """


def _field(name: str) -> str:
    """Return the SQL that extracts a field as ``read_json`` does: NULL for JSON's null."""
    path = literal(f'$."{name}"')
    return (
        f"CASE WHEN json_type(document, {path}) <> 'NULL' "
        f'THEN json_extract(document, {path}) END AS "{name}"'
    )


def _labels(labels: Mapping[str, str]) -> str:
    """Return the SQL that adds a column for each label."""
    return "".join(f", {literal(text)} AS {name}" for name, text in labels.items())


def _file(path: Path) -> str:
    """Return a path as a literal, with the characters escaped that DuckDB reads as a pattern."""
    return literal(re.sub(r"[*?\[]", r"[\g<0>]", str(path)))

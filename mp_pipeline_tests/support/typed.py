"""Typed rows, compared with the JSON that they were made from."""

import json
from datetime import date
from decimal import Decimal
from typing import Any

from mp_pipeline.storage import StorageEngine
from mp_pipeline_tests.support.databases import rows_of

Row = dict[str, Any]


def compare_with_json(storage: StorageEngine, dataset: str = "events") -> list[str]:
    """Return what the typed rows of a dataset have otherwise than its day tables."""
    columns: dict[str, dict[str, tuple[str, str]]] = {}
    for each in storage.describe_properties(dataset):
        if each.column_name is not None and each.column_type is not None:
            of_event = columns.setdefault(each.event, {})
            of_event[each.property] = (each.column_name, each.column_type)
    typed = _typed_rows(storage, dataset)
    problems: list[str] = []
    for info in storage.list_days(dataset):
        table = rows_of(storage, info.table_name)
        shown = _shown(storage, table)
        for event, moment, user, insert_id, text in storage.execute_rows(f"FROM {table}"):
            where = f"{event!r} {insert_id}"
            row = typed.pop((event, insert_id), None)
            if row is None:
                problems.append(f"{where}: no typed row")
                continue
            if (info.day, moment, user) != (row["day"], row["event_time"], row["distinct_id"]):
                problems.append(f"{where}: {row}")
            properties = _read(text)
            of_event = columns.get(event, {})
            for prop in properties.keys() | of_event.keys():
                value = properties.get(prop)
                if prop in of_event:
                    name, type_ = of_event[prop]
                    if not _is_same(row[name], type_, value, shown.get((insert_id, prop))):
                        problems.append(f"{where} {prop!r}: {row[name]!r} {type_}, not {value!r}")
                elif value is not None:
                    problems.append(f"{where} {prop!r}: no column for {value!r}")
    return problems + [f"{event!r} {insert_id}: not in JSON" for event, insert_id in typed]


def typed_days(storage: StorageEngine, dataset: str = "events") -> list[tuple[date, int, bool]]:
    """Return the typed days of a dataset, their events, and whether they are stale."""
    return [(day.day, day.events, day.is_stale) for day in storage.list_typed_days(dataset)]


def _typed_rows(storage: StorageEngine, dataset: str) -> dict[tuple[str, str], Row]:
    """Return the rows of all typed tables, by event and insert ID."""
    rows = {}
    for described in storage.describe_events(dataset):
        schema, table = described.table_name.split(".", 1)
        relation = storage.execute(f'SELECT * FROM {schema}."{table}"')
        for values in relation.fetchall():
            row = dict(zip(relation.columns, values, strict=True))
            rows[described.event, row["insert_id"]] = row
    return rows


def _shown(storage: StorageEngine, table: str) -> dict[tuple[str, str], str | None]:
    """Return what DuckDB's ``->>`` shows of each property, by insert ID and name."""
    return {
        (insert_id, prop): shown
        for insert_id, prop, shown in storage.execute_rows(
            "SELECT insert_id, prop, "
            "properties->>('/' || replace(replace(prop, '~', '~0'), '/', '~1')) "
            f"FROM (SELECT *, unnest(json_keys(properties)) AS prop FROM {table})"
        )
    }


def _read(text: str) -> dict[str, Any]:
    """Return an object of JSON: the first value of a repeated name, all digits of a number."""
    properties: dict[str, Any] = json.loads(
        text,
        object_pairs_hook=lambda pairs: dict(reversed(pairs)),
        parse_int=Decimal,
        parse_float=Decimal,
    )
    return properties


def _is_same(typed: object, type_: str, value: object, shown: str | None) -> bool:
    """Return whether a typed value is that of JSON, which ``->>`` shows as that text."""
    if value is None or typed is None:
        return value is typed
    if type_ == "VARCHAR":
        return typed == (value if isinstance(value, str) else shown)
    if type_ == "JSON":
        return isinstance(value, dict | list) and typed == shown
    if type_ == "BOOLEAN":
        return typed is value
    if not isinstance(value, Decimal):
        return False
    if isinstance(typed, float):
        # The digits of a fraction are the shortest ones of the float; an integer is exact.
        return value in (Decimal(repr(typed)), Decimal(typed))
    return typed == value

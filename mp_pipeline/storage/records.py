"""Turning an iterator of records (dicts) into files of JSON Lines that DuckDB reads."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mp_pipeline.storage.tables import TableLayout

_TIME_FIELDS = {"event_time", "last_seen"}
# A record within itself ends as a RecursionError without the slower check, too.
_encode = json.JSONEncoder(check_circular=False).encode


@dataclass(frozen=True)
class Batch:
    """Some records in a file of JSON Lines."""

    path: Path
    records_before: int
    """How many records came in the batches before this one."""


def write_batches(
    layout: TableLayout, records: Iterable[Mapping[str, Any]], batch_size: int, folder: Path
) -> Iterator[Batch]:
    """Write records to files, a batch a file.

    Args:
        layout: the table that they are for; its columns are the required fields.
        records: dicts of the data model.
        batch_size: records a batch.
        folder: where the files go. Each is deleted when the next one is asked for.

    Raises:
        ValueError: a record is not a dict, lacks a field, or holds what JSON cannot; names the
            field and the record's position, counted from 1.
    """
    remaining = iter(records)
    written = 0
    more = True
    while more:
        path = folder / "batch.jsonl"
        count = 0
        more = False
        with path.open("w", encoding="ascii") as file:
            for record in remaining:
                count += 1
                file.write(_line(layout, record, written + count) + "\n")
                if count == batch_size:
                    more = True
                    break
        if count:
            yield Batch(path, written)
        path.unlink()
        written += count


def _line(layout: TableLayout, record: Mapping[str, Any], position: int) -> str:
    if not isinstance(record, Mapping):
        raise ValueError(f"record {position} is a {type(record).__name__}, not a dict")
    fields = {}
    for column in layout.columns:
        name = column.name
        if name not in record:
            raise ValueError(f"record {position}: no {name}")
        value = record[name]
        if name in _TIME_FIELDS:
            value = _time(value, name, position)
        if value is None and name != "last_seen":
            raise ValueError(f"record {position}: no {name} (it is None)")
        if name == "properties" and not isinstance(value, Mapping):
            raise ValueError(
                f"record {position}: properties is a {type(value).__name__}, not a dict"
            )
        fields[name] = value
    try:
        return _encode(fields)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"record {position}: cannot be written as JSON: {error}") from error


def _time(value: object, name: str, position: int) -> object:
    if isinstance(value, datetime):
        try:
            moment = value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
        except OverflowError as error:
            raise ValueError(
                f"record {position}: {name} is not in the years 1 to 9999: {value}"
            ) from error
        return moment.isoformat()
    if value is None or (isinstance(value, str | int | float) and not isinstance(value, bool)):
        return value
    raise ValueError(
        f"record {position}: {name} is a {type(value).__name__}, not a datetime or ISO 8601 text"
    )

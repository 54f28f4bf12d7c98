"""Turning an iterator of records (dicts) into files of JSON Lines that DuckDB reads."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from math import isfinite
from pathlib import Path
from typing import Any, cast

import orjson

from mp_pipeline.storage.models import TableType
from mp_pipeline.storage.scratch import ScratchFile
from mp_pipeline.storage.tables import TableLayout

_TIME_FIELDS: dict[TableType, str] = {"events": "event_time", "profiles": "last_seen"}
_OPTIONS = (
    orjson.OPT_APPEND_NEWLINE
    | orjson.OPT_PASSTHROUGH_DATETIME
    | orjson.OPT_PASSTHROUGH_DATACLASS
    | orjson.OPT_PASSTHROUGH_SUBCLASS
)
# A record within itself ends as a RecursionError without the slower check, too.
_encode_anything = json.JSONEncoder(check_circular=False).encode


@dataclass(frozen=True)
class Batch:
    """Some records in a file of JSON Lines."""

    path: Path
    records_before: int
    """How many records came in the batches before this one."""


def write_batches(
    layout: TableLayout, records: Iterable[Mapping[str, Any]], batch_size: int, directory: Path
) -> Iterator[Batch]:
    """Write records to files, a batch a file.

    Args:
        layout: the table that they are for; its columns are the required fields.
        records: dicts of the data model.
        batch_size: records a batch.
        directory: where the files go. They are the caller's to delete.

    Raises:
        ValueError: a record is not a dict, lacks a field, or holds what JSON cannot; names the
            field and the record's position, counted from 1.
        StorageError: a file cannot be written.
    """
    remaining = iter(records)
    written = 0
    more = True
    while more:
        path = directory / f"records_{written}.jsonl"
        count = 0
        with ScratchFile(path) as file:
            for record in islice(remaining, batch_size):
                count += 1
                file.write(_line(layout, record, written + count))
        if count:
            yield Batch(path, written)
        more = count == batch_size
        written += count


def _line(layout: TableLayout, record: Mapping[str, Any], position: int) -> bytes:
    if not isinstance(record, Mapping):
        raise ValueError(f"record {position} is a {type(record).__name__}, not a dict")
    try:
        fields = {name: record[name] for name in layout.column_names}
    except KeyError as error:
        raise ValueError(f"record {position}: no {error.args[0]}") from None
    time_field = _TIME_FIELDS[layout.type]
    fields[time_field] = _time(fields[time_field], time_field, position)
    for name, value in fields.items():
        if value is None and name != "last_seen":
            raise ValueError(f"record {position}: no {name} (it is None)")
    properties = fields["properties"]
    if not isinstance(properties, Mapping):
        raise ValueError(
            f"record {position}: properties is a {type(properties).__name__}, not a dict"
        )
    try:
        return _encode(fields)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"record {position}: cannot be written as JSON: {error}") from error


def _encode(fields: dict[str, Any]) -> bytes:
    """Return a line of JSON: by orjson, or by the slower encoder for what orjson cannot keep."""
    try:
        line = orjson.dumps(fields, option=_OPTIONS)
    except TypeError:  # such as integers beyond 64 bits, lone surrogates, keys that are no text
        pass
    else:
        # orjson writes NaN and the infinities as null.
        if b"null" not in line or not _has_not_finite(fields.values()):
            return line
    return _encode_anything(fields).encode() + b"\n"


def _has_not_finite(values: Iterable[object]) -> bool:
    """Whether NaN or an infinity is among the values, or within them."""
    for value in values:
        kind = type(value)
        if kind is str or kind is int:  # most are, and this runs for each property
            continue
        if kind is float:
            if not isfinite(cast(float, value)):
                return True
        elif kind is dict:
            if _has_not_finite(cast(dict[str, object], value).values()):
                return True
        elif (kind is list or kind is tuple) and _has_not_finite(cast(list[object], value)):
            return True
    return False


def _time(value: object, name: str, position: int) -> object:
    if isinstance(value, datetime):
        if value.tzinfo is None:
            return value.isoformat() + "Z"
        if value.tzinfo is UTC:
            return value.isoformat()
        try:
            return value.astimezone(UTC).isoformat()
        except OverflowError as error:
            raise ValueError(
                f"record {position}: {name} is not in the years 1 to 9999: {value}"
            ) from error
    if value is None or (isinstance(value, str | int | float) and not isinstance(value, bool)):
        return value
    raise ValueError(
        f"record {position}: {name} is a {type(value).__name__}, not a datetime or ISO 8601 text"
    )

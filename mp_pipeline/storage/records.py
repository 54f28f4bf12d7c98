"""Write an iterator of records (dicts) to files of JSON Lines that DuckDB reads.

The files have the shape of the data model's records, so a record's values are stored by the same
rules as the values of a line (see ``parsing.py``).
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from math import isfinite
from pathlib import Path
from typing import Any, cast

import orjson

from mp_pipeline.storage.scratch import ScratchFile
from mp_pipeline.storage.tables import TableLayout

_OPTIONS = (
    orjson.OPT_APPEND_NEWLINE
    | orjson.OPT_PASSTHROUGH_DATETIME
    | orjson.OPT_PASSTHROUGH_DATACLASS
    | orjson.OPT_PASSTHROUGH_SUBCLASS
)
# Without the check for circular references it is faster; such a record raises a RecursionError.
_encode_anything = json.JSONEncoder(check_circular=False).encode


@dataclass(frozen=True)
class Batch:
    """Some of the records, in a file of JSON Lines."""

    path: Path
    records_before: int
    """The number of records in the batches before this one."""


def write_batches(
    layout: TableLayout, records: Iterable[Mapping[str, Any]], batch_size: int, directory: Path
) -> Iterator[Batch]:
    """Write records to files, one file per batch.

    Args:
        layout: The table that the records are for, events or profiles; its columns are the
            required fields.
        records: The records, dicts of the data model.
        batch_size: The number of records per batch.
        directory: The directory that the files go into. The caller deletes them.

    Yields:
        Each batch when its file is complete.

    Raises:
        ValueError: The table is loaded from files alone; or a record is not a dict, lacks a field,
            or contains a value that JSON cannot represent. Names the field and the record's
            position, counted from 1.
        StorageError: A file cannot be written.
    """
    if layout.time_field is None:
        raise ValueError(f"{layout.type} are loaded from files of JSON Lines, not from records")
    remaining = iter(records)
    written = 0
    more = True
    while more:
        path = directory / f"records_{written}.jsonl"
        count = 0
        with ScratchFile(path) as file:
            for record in islice(remaining, batch_size):
                count += 1
                line = _encode_record(
                    layout.column_names, layout.time_field, record, written + count
                )
                file.write(line)
        if count:
            yield Batch(path, written)
        more = count == batch_size
        written += count


def _encode_record(
    names: Sequence[str], time_field: str, record: Mapping[str, Any], position: int
) -> bytes:
    """Check a record and return it as a line of JSON."""
    if not isinstance(record, Mapping):
        raise ValueError(f"record {position} is a {type(record).__name__}, not a dict")
    try:
        fields = {name: record[name] for name in names}
    except KeyError as error:
        raise ValueError(f"record {position}: no {error.args[0]}") from None
    fields[time_field] = _encode_time(fields[time_field], time_field, position)
    for name, value in fields.items():
        if value is None and name != "last_seen":
            raise ValueError(f"record {position}: no {name} (it is None)")
    properties = fields["properties"]
    if not isinstance(properties, Mapping):
        raise ValueError(
            f"record {position}: properties is a {type(properties).__name__}, not a dict"
        )
    try:
        return _encode_json(fields)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"record {position}: cannot be written as JSON: {error}") from error


def _encode_json(fields: dict[str, Any]) -> bytes:
    """Return a line of JSON: from orjson, or from the slower encoder if orjson would change it."""
    try:
        line = orjson.dumps(fields, option=_OPTIONS)
    except TypeError:  # integers beyond 64 bits, lone surrogates, keys that are not strings, …
        pass
    else:
        # orjson writes NaN and the infinities as null.
        if b"null" not in line or not _contains_non_finite(fields.values()):
            return line
    return _encode_anything(fields).encode() + b"\n"


def _contains_non_finite(values: Iterable[object]) -> bool:
    """Return whether NaN or an infinity is among the values, or nested in them."""
    for value in values:
        kind = type(value)
        if kind is str or kind is int:  # most values are, and this runs for each property
            continue
        if kind is float:
            if not isfinite(cast(float, value)):
                return True
        elif kind is dict:
            if _contains_non_finite(cast(dict[str, object], value).values()):
                return True
        elif (kind is list or kind is tuple) and _contains_non_finite(cast(list[object], value)):
            return True
    return False


def _encode_time(value: object, name: str, position: int) -> object:
    """Return a time as a JSON value: a datetime as ISO 8601 text, other accepted types as given."""
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
        f"record {position}: {name} is a {type(value).__name__}, "
        "not a datetime, ISO 8601 text or a number"
    )

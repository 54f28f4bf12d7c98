"""What callers pass in: records or files, and metadata."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain, islice
from pathlib import Path
from typing import Any

from mp_pipeline.storage.models import TableMetadata, TableType
from mp_pipeline.storage.tables import LAYOUTS, TableLayout, check_table_name
from mp_pipeline.storage.times import parse_date


@dataclass(frozen=True)
class LabeledFile:
    """A file of JSON Lines, and the columns that have one value for all of its lines.

    Attributes:
        path: The file, plain or ``.gz``.
        labels: Names and values of the columns, such as the ``cohort_id`` of cohort members.

    Example:
        >>> from datetime import UTC, datetime
        >>> from tempfile import TemporaryDirectory
        >>> from mp_pipeline.storage import LabeledFile, StorageEngine, TableMetadata
        >>> metadata = TableMetadata("groups", datetime.now(UTC))
        >>> with TemporaryDirectory() as directory, StorageEngine.memory() as storage:
        ...     path = Path(directory, "companies.jsonl")
        ...     _ = path.write_text('{"$distinct_id": "Acme", "$properties": {}}')
        ...     file = LabeledFile(path, {"data_group_id": "-12", "group_key": "company"})
        ...     report = storage.replace_table("companies", [file], metadata)
        ...     storage.execute_rows("SELECT distinct_id, data_group_id FROM companies")
        [('Acme', '-12')]
    """

    path: Path
    labels: Mapping[str, str] = field(default_factory=dict)


Records = Iterable[Mapping[str, Any]]
Files = Path | str | LabeledFile | Iterable[Path | str | LabeledFile]
TableData = Records | Files
"""What is loaded: records (dicts of the data model), or files of JSON Lines, plain or ``.gz``."""


def split_data(data: TableData) -> tuple[list[LabeledFile], Iterable[Any] | None]:
    """Return the files in the data or, if there are none, its records.

    Raises:
        ValueError: The data is neither, or mixes both.
    """
    if isinstance(data, str | Path | LabeledFile):
        return [_to_file(data)], None
    if isinstance(data, Mapping) or not isinstance(data, Iterable):
        raise ValueError(
            f"data is a {type(data).__name__}, not an iterator of dicts or files of JSON Lines"
        )
    items = iter(data)
    head = list(islice(items, 1))
    if head and not isinstance(head[0], str | Path | LabeledFile):
        return [], chain(head, items)
    files = []
    for position, item in enumerate(chain(head, items), start=1):
        if not isinstance(item, str | Path | LabeledFile):
            raise ValueError(f"item {position} of data is a {type(item).__name__}, not a path")
        files.append(_to_file(item))
    return files, None


def _to_file(item: str | Path | LabeledFile) -> LabeledFile:
    return item if isinstance(item, LabeledFile) else LabeledFile(Path(item))


def check_arguments(
    name: str, metadata: TableMetadata, types: Sequence[TableType] = tuple(LAYOUTS)
) -> TableLayout:
    """Return the layout of a table to load, if its name and metadata are valid.

    Args:
        name: The table's name.
        metadata: What was fetched.
        types: The table types that are allowed.

    Raises:
        ValueError: The name or the metadata is not valid; says what.
    """
    check_table_name(name)
    if not isinstance(metadata, TableMetadata):
        raise ValueError(f"metadata is a {type(metadata).__name__}, not a TableMetadata")
    if not isinstance(metadata.fetched_at, datetime):
        raise ValueError(f"metadata.fetched_at is {metadata.fetched_at!r}, not a datetime")
    if metadata.type not in types:
        expected = " or ".join(repr(type_) for type_ in types)
        raise ValueError(f"metadata.type is {metadata.type!r}, not {expected}")
    dates = {
        field: parse_date(text, f"metadata.{field}")
        for field, text in (("from_date", metadata.from_date), ("to_date", metadata.to_date))
        if text is not None
    }
    if dates and metadata.type != "events":
        raise ValueError(
            f"{metadata.type} have no from_date and to_date: they are the current state"
        )
    if len(dates) == 2 and dates["from_date"] > dates["to_date"]:
        raise ValueError(
            f"metadata.from_date {metadata.from_date} is after to_date {metadata.to_date}"
        )
    return LAYOUTS[metadata.type]

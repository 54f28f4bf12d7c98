"""Tables in the metadata that the UI shows."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice

import dagster as dg

_MAX_ROWS = 400  # more than one for each day of a year
_TYPES = {str: "string", bool: "bool", int: "int"}


def metadata_table(
    columns: Mapping[str, type], rows: Iterable[Sequence[str | int | bool]]
) -> dg.TableMetadataValue:
    """Return a metadata table of at most 400 rows.

    Args:
        columns: Names and types of the columns.
        rows: Values; problems first.
    """
    return dg.MetadataValue.table(
        [dg.TableRecord(dict(zip(columns, row, strict=True))) for row in islice(rows, _MAX_ROWS)],
        schema=dg.TableSchema(
            [dg.TableColumn(name, _TYPES[kind]) for name, kind in columns.items()]
        ),
    )

"""Types of typed columns: which one a property needs, and how its values are read.

A column has the type of all values that its property has had. It only gets wider: BIGINT, then
DOUBLE, then VARCHAR; objects and arrays are JSON; any other mix is VARCHAR. A VARCHAR column shows
what ``properties->>'$.name'`` shows.
"""

from collections.abc import Iterable
from functools import reduce

_TYPES = {
    "BIGINT": "BIGINT",
    "DOUBLE": "DOUBLE",
    "BOOLEAN": "BOOLEAN",
    "OBJECT": "JSON",
    "ARRAY": "JSON",
    "VARCHAR": "VARCHAR",
}
"""The type that a value of each type of ``json_type`` needs."""

NUMBERS = ("BIGINT", "DOUBLE")
"""The types of columns that cannot store all numbers: longer integers, say, or ``1e999``."""

_LARGEST_WHOLE = 2**53
"""Up to here, all integers are different as DOUBLE."""


def column_type(json_types: Iterable[str]) -> str | None:
    """Return the type of a column for values of these JSON types, None if all are null.

    Example:
        >>> column_type(["BIGINT", "DOUBLE", "NULL"]), column_type(["ARRAY", "BOOLEAN"])
        ('DOUBLE', 'VARCHAR')
    """
    types = [_TYPES[json_type] for json_type in json_types if json_type != "NULL"]
    return reduce(wider, types) if types else None


def wider(one: str, other: str) -> str:
    """Return the type that stores the values of both types.

    Example:
        >>> wider("BIGINT", "DOUBLE"), wider("DOUBLE", "BOOLEAN"), wider("JSON", "JSON")
        ('DOUBLE', 'VARCHAR', 'JSON')
    """
    if one == other:
        return one
    return "DOUBLE" if {one, other} == set(NUMBERS) else "VARCHAR"


def value(text: str, type_: str) -> str:
    """Return the SQL that reads a value from its text.

    A number that does not fit a BIGINT is NULL. One that does not fit a DOUBLE is changed: see
    ``may_have_changed`` and ``changes_as_double``, which would take long for each value.

    Args:
        text: The SQL of the text, as ``json_extract_string`` returns it.
        type_: The type of the column, which suits the JSON type of the value.
    """
    return text if type_ == "VARCHAR" else f"TRY_CAST({text} AS {type_})"


def may_have_changed(column: str) -> str:
    """Return the SQL of an aggregate: whether some DOUBLE is so large that its text matters."""
    return f"coalesce(max(abs({column})) >= {_LARGEST_WHOLE}, false)"


def changes_as_double(text: str) -> str:
    """Return the SQL that tells whether a text of JSON is another number as DOUBLE."""
    number = f"CAST({text} AS DOUBLE)"
    return (
        f"(isinf({number}) OR (regexp_full_match({text}, '-?[0-9]+') "
        f"AND NOT {_is_exact(number, f'TRY_CAST({text} AS HUGEINT)')}))"
    )


def is_exact_as_double(column: str) -> str:
    """Return the SQL that tells whether a BIGINT is the same number as DOUBLE."""
    return _is_exact(f"{column}::DOUBLE", column)


def double_as_text(column: str) -> str:
    """Return the SQL of the text that JSON has for a DOUBLE: ``1.0`` for 1."""
    return f"(to_json({column})->>'$')"


def number_as_text(column: str) -> str:
    """Return the SQL of the text that JSON has for a DOUBLE if whole numbers are integers there."""
    return (
        f"CASE WHEN {is_whole(column)} THEN {column}::HUGEINT::VARCHAR "
        f"ELSE {double_as_text(column)} END"
    )


def is_whole(column: str) -> str:
    """Return the SQL that tells whether a DOUBLE is a whole number that may be a JSON integer."""
    return f"({column} = trunc({column}) AND abs({column}) < 1e38)"


def _is_exact(double: str, integer: str) -> str:
    return f"(TRY_CAST({double} AS HUGEINT) IS NOT DISTINCT FROM {integer})"

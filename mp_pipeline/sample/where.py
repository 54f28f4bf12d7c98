"""The part of Mixpanel's `where` expressions that the sample project supports."""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

Condition = Callable[[Mapping[str, Any]], bool]

_COMPARISON = re.compile(r'\s*properties\["((?:[^"\\]|\\.)+)"\]\s*(==|in\b)\s*')
_AND = re.compile(r"\s*\band\s+")
_DECODER = json.JSONDecoder()


def parse_where(expression: str) -> Condition:
    """Parse an expression into a condition on an event's properties.

    Supported are `properties["name"] == value`, `properties["name"] in [value, ...]`, and several
    of these joined by `and`. Values are strings, numbers, `true` and `false`, written as in JSON.

    Args:
        expression: The expression.

    Returns:
        A function that takes an event's properties and returns whether they match.

    Raises:
        ValueError: The expression is anything else.

    Example:
        >>> is_family = parse_where('properties["plan"] == "family"')
        >>> is_family({"plan": "family"}), is_family({"plan": "free"})
        (True, False)
    """
    conditions = []
    position = 0
    while True:
        comparison = _COMPARISON.match(expression, position)
        if comparison is None:
            raise _unsupported(expression, position)
        name = json.loads(f'"{comparison[1]}"')
        try:
            value, position = _DECODER.raw_decode(expression, comparison.end())
        except ValueError:
            raise _unsupported(expression, comparison.end()) from None
        values = value if comparison[2] == "in" else [value]
        if not isinstance(values, list) or not all(_is_scalar(each) for each in values):
            raise _unsupported(expression, comparison.end())
        conditions.append(_make_condition(name, values))
        if not expression[position:].strip():
            return lambda properties: all(condition(properties) for condition in conditions)
        conjunction = _AND.match(expression, position)
        if conjunction is None:
            raise _unsupported(expression, position)
        position = conjunction.end()


def _make_condition(name: str, values: list[Any]) -> Condition:
    return lambda properties: any(_are_equal(properties.get(name), value) for value in values)


def _is_scalar(value: object) -> bool:
    return isinstance(value, str | int | float)


def _are_equal(left: object, right: object) -> bool:
    # In Python, True == 1. In JSON, they differ.
    return left == right and isinstance(left, bool) == isinstance(right, bool)


def _unsupported(expression: str, position: int) -> ValueError:
    rest = expression[position:].strip() or "the end"
    return ValueError(
        f"where: unsupported syntax at {rest!r}. The sample project supports"
        ' properties["name"] == "value", properties["name"] in ["value"], and several of these'
        " joined by and."
    )

"""The part of Mixpanel's `where` expressions that the sample project supports."""

import json
import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

Condition = Callable[[Mapping[str, Any]], bool]

_COMPARISON = re.compile(r'\s*properties\["((?:[^"\\]|\\.)+)"\]\s*(==|in\b)\s*')
_TIME = re.compile(
    r'\s*event\["\$time"\]\s*(>=|<)\s*datetime\("(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)"\)'
)
_AND = re.compile(r"\s*\band\b\s*")
_OPEN, _CLOSE = re.compile(r"\s*\("), re.compile(r"\s*\)")
_MAX_DEPTH = 20
_DECODER = json.JSONDecoder()


def parse_where(expression: str) -> Condition:
    """Parse an expression into a condition on an event's properties.

    Supported are `properties["name"] == value`, `properties["name"] in [value, ...]`,
    `event["$time"] >= datetime("2024-01-15T12:00:00")`, the same with `<`, and several of these
    joined by `and`, with or without parentheses. Values are strings, numbers, `true` and `false`,
    written as in JSON. `event["$time"]` is the property `time`.

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
    condition, end = _parse_conjunction(expression, 0, 0)
    if expression[end:].strip():
        raise _unsupported(expression, end)
    return condition


def _parse_conjunction(expression: str, position: int, depth: int) -> tuple[Condition, int]:
    conditions = []
    while True:
        condition, position = _parse_term(expression, position, depth)
        conditions.append(condition)
        conjunction = _AND.match(expression, position)
        if conjunction is None:
            return lambda properties: all(each(properties) for each in conditions), position
        position = conjunction.end()


def _parse_term(expression: str, position: int, depth: int) -> tuple[Condition, int]:
    if opening := _OPEN.match(expression, position):
        if depth == _MAX_DEPTH:
            raise _unsupported(expression, position)
        condition, end = _parse_conjunction(expression, opening.end(), depth + 1)
        closing = _CLOSE.match(expression, end)
        if closing is None:
            raise _unsupported(expression, end)
        return condition, closing.end()
    if time := _TIME.match(expression, position):
        return _parse_time(expression, time), time.end()
    return _parse_comparison(expression, position)


def _parse_time(expression: str, time: re.Match[str]) -> Condition:
    try:
        bound = datetime.fromisoformat(time[2]).replace(tzinfo=UTC).timestamp()
    except ValueError:
        raise _unsupported(expression, time.start()) from None
    if time[1] == "<":
        return lambda properties: properties.get("time", bound) < bound
    return lambda properties: properties.get("time", -math.inf) >= bound


def _parse_comparison(expression: str, position: int) -> tuple[Condition, int]:
    comparison = _COMPARISON.match(expression, position)
    if comparison is None:
        raise _unsupported(expression, position)
    name = json.loads(f'"{comparison[1]}"')
    try:
        value, end = _DECODER.raw_decode(expression, comparison.end())
    except ValueError:
        raise _unsupported(expression, comparison.end()) from None
    values = value if comparison[2] == "in" else [value]
    if not isinstance(values, list) or not all(_is_scalar(each) for each in values):
        raise _unsupported(expression, comparison.end())
    return _make_condition(name, values), end


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
        ' properties["name"] == "value", properties["name"] in ["value"],'
        ' event["$time"] >= datetime("2024-01-15T12:00:00"), the same with <, and several of these'
        " joined by and."
    )

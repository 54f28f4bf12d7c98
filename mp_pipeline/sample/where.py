"""The part of Mixpanel's `where` expressions that the sample project understands."""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

Condition = Callable[[Mapping[str, Any]], bool]

_COMPARISON = re.compile(r'\s*properties\["((?:[^"\\]|\\.)+)"\]\s*(==|in\b)\s*')
_AND = re.compile(r"\s*\band\s+")
_DECODER = json.JSONDecoder()


def parse_where(expression: str) -> Condition:
    """Turn an expression into a condition on an event's properties.

    Understood are `properties["name"] == value`, `properties["name"] in [value, ...]`, and several
    of them joined by `and`; values are strings, numbers, `true` and `false`, written as in JSON.

    Raises:
        ValueError: The expression is anything else.
    """
    conditions = []
    position = 0
    while True:
        comparison = _COMPARISON.match(expression, position)
        if comparison is None:
            raise _not_understood(expression, position)
        name = json.loads(f'"{comparison[1]}"')
        try:
            value, position = _DECODER.raw_decode(expression, comparison.end())
        except ValueError:
            raise _not_understood(expression, comparison.end()) from None
        wanted = value if comparison[2] == "in" else [value]
        if not isinstance(wanted, list) or not all(_is_plain(each) for each in wanted):
            raise _not_understood(expression, comparison.end())
        conditions.append(_condition(name, wanted))
        if not expression[position:].strip():
            return lambda properties: all(condition(properties) for condition in conditions)
        conjunction = _AND.match(expression, position)
        if conjunction is None:
            raise _not_understood(expression, position)
        position = conjunction.end()


def _condition(name: str, wanted: list[Any]) -> Condition:
    return lambda properties: any(_equal(properties.get(name), value) for value in wanted)


def _is_plain(value: object) -> bool:
    return isinstance(value, str | int | float)


def _equal(left: object, right: object) -> bool:
    # In Python True == 1; in JSON they differ.
    return left == right and isinstance(left, bool) == isinstance(right, bool)


def _not_understood(expression: str, position: int) -> ValueError:
    rest = expression[position:].strip() or "the end"
    return ValueError(
        f"where: not understood at {rest!r}; the sample project understands"
        ' properties["name"] == "value", properties["name"] in ["value"], joined by and'
    )

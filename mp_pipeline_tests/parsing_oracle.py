"""What a line must become, computed in Python without DuckDB or the package's own parsing code.

`expected_event` and `expected_profile` take the bytes of a line and return the row as a tuple, the
reason for rejecting the line as a string, or None if the line is blank. Known limits: DuckDB also
accepts a trailing comma in an object or array, and NaN in any case; Python's `json` does not.
"""

import hashlib
import json
import math
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

Row = tuple[Any, ...]
Expected = Row | str | None

_EPOCH = datetime(1970, 1, 1)
_MICROSECOND = timedelta(microseconds=1)
_NUMBER = re.compile(r"(-?)([0-9]+)(?:\.([0-9]+))?")
_ISO = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})"
    r"(?:[Tt ]([0-9]{2}):([0-9]{2})(?::([0-9]{2})(?:\.([0-9]+))?)?"
    r"([Zz]|([+-])([0-9]{2})(?::?([0-9]{2}))?)?)?"
)
_ESCAPED = {'"': '"', "\\": "\\", "\b": "b", "\f": "f", "\n": "n", "\r": "r", "\t": "t"}


class Number(NamedTuple):
    """A number as it stands in the JSON text."""

    lexeme: str


class Pairs(NamedTuple):
    """An object, with duplicate keys."""

    pairs: list[tuple[str, Any]]

    def get(self, key: str) -> Any:
        """Return the first value of a key, None if there is none."""
        return next((value for name, value in self.pairs if name == key), None)

    def without(self, *keys: str) -> "Pairs":
        return Pairs([(name, value) for name, value in self.pairs if name not in keys])


def expected_event(line: bytes, zone: str = "UTC") -> Expected:
    """Return what a line of events becomes; `zone` is the zone whose wall clock `time` shows."""
    document = _document(line)
    if not isinstance(document, Pairs):
        return document
    is_record = document.get("event") is None
    properties = document.get("properties")
    inner = properties if isinstance(properties, Pairs) else Pairs([])
    name = text(document.get("event_name" if is_record else "event"))
    time_name, id_name = ("event_time", "insert_id") if is_record else ("time", "$insert_id")
    source = document if is_record else inner
    time, user, insert_id = (text(source.get(key)) for key in (time_name, "distinct_id", id_name))
    if name is None:
        return "no event name"
    if not isinstance(properties, Pairs):
        return "properties is not an object"
    if time is None:
        return f"no {time_name}"
    moment = parse_time(time, "UTC" if is_record else zone)
    if moment is None:
        return f"{time_name} cannot be read: {time[:100]}"
    if is_record:
        if user is None or insert_id is None:
            return "no distinct_id" if user is None else "no insert_id"
        content = compact(properties)
    else:
        user, insert_id = user or "", insert_id or ""
        content = compact(properties.without("time", "distinct_id", "$insert_id"))
    return name, moment, user, insert_id or _content_id(name, moment, user, content), content


def expected_profile(line: bytes) -> Expected:
    """Return what a line of profiles becomes."""
    document = _document(line)
    if not isinstance(document, Pairs):
        return document
    user = text(document.get("$distinct_id"))
    is_record = user is None
    if is_record:
        user = text(document.get("distinct_id"))
        properties, seen = document.get("properties"), text(document.get("last_seen"))
    else:
        properties = document.get("$properties")
        properties = Pairs([]) if properties is None else properties
        seen = text(properties.get("$last_seen")) if isinstance(properties, Pairs) else None
    if user is None:
        return "no distinct_id"
    if properties is None:
        return "no properties"
    if not isinstance(properties, Pairs):
        return "properties is not an object"
    moment = None if seen is None else parse_time(seen)
    if seen is not None and moment is None:
        if is_record:
            return f"last_seen cannot be read: {seen[:100]}"
    elif not is_record:
        properties = properties.without("$last_seen")
    return user, compact(properties), moment


def text(value: Any) -> str | None:
    """Return a JSON value as the text of an id or name."""
    return value if value is None or isinstance(value, str) else compact(value)


def compact(value: Any) -> str:
    """Return a value as compact JSON, numbers in their canonical form."""
    match value:
        case None:
            return "null"
        case True | False:
            return "true" if value else "false"
        case str():
            return '"' + "".join(map(_escaped, value)) + '"'
        case Number():
            return _number_text(value.lexeme)
        case Pairs():
            members = [f"{compact(name)}:{compact(item)}" for name, item in value.pairs]
            return "{" + ",".join(members) + "}"
        case list():
            return "[" + ",".join(map(compact, value)) + "]"
    raise TypeError(type(value))


def parse_time(shown: str, zone: str = "UTC") -> datetime | None:
    """Return a time in UTC, naive; None if it cannot be read."""
    try:
        if number := _NUMBER.fullmatch(shown):
            wall, offset = _EPOCH + _microseconds(*number.groups("")) * _MICROSECOND, None
        elif iso := _ISO.fullmatch(shown):
            wall, offset = _iso_time(iso)
        else:
            return None
        if offset is not None:
            return wall - offset
        return wall.replace(tzinfo=ZoneInfo(zone)).astimezone(UTC).replace(tzinfo=None)
    except (ValueError, OverflowError):
        return None


def _microseconds(sign: str, whole: str, fraction: str) -> int:
    number = Fraction(int(sign + whole + fraction), 10 ** len(fraction))
    six_decimals = Fraction(math.floor(number * 10**6), 10**6)
    in_milliseconds = abs(six_decimals) > 10**10
    return math.floor(six_decimals * (1000 if in_milliseconds else 10**6))


def _iso_time(iso: re.Match[str]) -> tuple[datetime, timedelta | None]:
    year, month, day, hour, minute, second = (int(part) for part in iso.groups("0")[:6])
    fraction, offset, sign, offset_hours, offset_minutes = iso.groups("0")[6:]
    days = 0
    if hour == 24 and minute == second == int(fraction) == 0:
        hour, days = 0, 1
    wall = datetime(year, month, day, hour, minute, second, int(fraction[:6].ljust(6, "0")))
    wall += timedelta(days=days)
    if offset == "0":
        return wall, None
    if int(offset_hours) > 15 or int(offset_minutes) > 59:
        raise ValueError("no such offset")
    shift = timedelta(hours=int(offset_hours), minutes=int(offset_minutes))
    return wall, -shift if sign == "-" else shift


def _document(line: bytes) -> Pairs | str | None:
    """Return the object on a line; or the reason why there is none, None if the line is blank."""
    whitespace = b" \t\r\n\x0b\x0c"
    line = line.strip(whitespace)
    if not line:
        return None
    line = line.removeprefix(b"\xef\xbb\xbf").strip(whitespace)
    try:
        document = json.loads(
            line.decode("utf-8", errors="replace"),
            strict=False,
            object_pairs_hook=lambda pairs: Pairs([(_unicode(name), v) for name, v in pairs]),
            parse_int=Number,
            parse_float=Number,
            parse_constant=Number,
        )
    except ValueError:
        return "not valid JSON"
    return _unicode(document) if isinstance(document, Pairs) else "not a JSON object"


def _unicode(value: Any) -> Any:
    """Replace the lone surrogates in strings."""
    match value:
        case str():
            return re.sub("[\ud800-\udfff]", "\ufffd", value)
        case Number():
            return value
        case Pairs():
            return Pairs([(name, _unicode(item)) for name, item in value.pairs])
        case list():
            return [_unicode(item) for item in value]
    return value


def _escaped(character: str) -> str:
    if character in _ESCAPED:
        return "\\" + _ESCAPED[character]
    return f"\\u{ord(character):04X}" if character < " " else character


def _number_text(lexeme: str) -> str:
    if not re.search(r"[.eE]", lexeme):  # an integer, NaN or an infinity
        return "0" if lexeme == "-0" else lexeme
    value = float(lexeme)
    if math.isinf(value):
        return lexeme
    if value == 0:
        return "-0.0" if lexeme.startswith("-") else "0.0"
    sign, digit_tuple, exponent = Decimal(repr(value)).as_tuple()
    digits = "".join(map(str, digit_tuple)).rstrip("0")
    assert isinstance(exponent, int)
    point = len(digit_tuple) + exponent  # where the decimal point is, from the first digit
    if 0 < point <= 21:
        digits = digits.ljust(point, "0")
        shown = f"{digits[:point]}.{digits[point:] or '0'}"
    elif -6 < point <= 0:
        shown = f"0.{'0' * -point}{digits}"
    else:
        shown = f"{digits[0]}{'.' if digits[1:] else ''}{digits[1:]}e{point - 1}"
    return "-" * sign + shown


def _content_id(name: str, moment: datetime, user: str, content: str) -> str:
    microseconds = (moment - _EPOCH) // _MICROSECOND
    parts = compact([name, str(microseconds), user, content])
    return hashlib.md5(parts.encode(), usedforsecurity=False).hexdigest()

"""Splits a page of profiles into profiles without changing a digit of them.

A parser that makes Python objects would round floats and lose lone surrogates, and a strict one
refuses NaN and raw control characters, which occur in real profiles. So the parser only finds where
each profile begins and ends, and the text in between is used as it is.
"""

import re
from dataclasses import dataclass, field
from typing import Any

from mp_pipeline.mixpanel.errors import IncompleteBodyError, UnexpectedAnswerError
from mp_pipeline.mixpanel.lenient import DECODER, error_message, to_bytes, to_text

_skip_space = re.compile(r"[ \t\r\n]*").match
_STRING_OR_NEWLINE = re.compile(r'"(?:[^"\\]|\\.)*"|\n', re.DOTALL)


@dataclass(frozen=True)
class Page:
    """One answer of `/engage`.

    Attributes:
        profiles: The profiles, each a JSON text without newlines.
        ids: The `$distinct_id` of each as text; None where there is none.
        fields: The other fields of the answer (`total`, `session_id`, …). Numbers are text.
    """

    profiles: list[bytes] = field(default_factory=list)
    ids: list[str | None] = field(default_factory=list)
    fields: dict[str, Any] = field(default_factory=dict)

    def number(self, name: str) -> int | None:
        """Return a field as a whole number; None if it is missing or not a whole number."""
        value = self.fields.get(name)
        return int(value) if isinstance(value, str) and value.isdecimal() else None

    @property
    def error(self) -> str | None:
        """What Mixpanel reports as an error; None if the page is good."""
        error, status = self.fields.get("error"), self.fields.get("status")
        if error:
            return str(error)
        return None if status in (None, "ok") else f"status {status}"


def parse_page(body: bytes) -> Page:
    r"""Split the body of an answer of `/engage` into its profiles and its other fields.

    Args:
        body: The decompressed body.

    Raises:
        IncompleteBodyError: The body is not one whole JSON object. The message says where, and
            quotes nothing.
        UnexpectedAnswerError: It is not a JSON object or array, or an object with neither
            `results` nor an error. `mixpanel_message` quotes it.

    Example:
        >>> page = parse_page(b'{"results": [{"$distinct_id": "u1"}, {"n": 1.10}], "total": 2}')
        >>> page.profiles
        [b'{"$distinct_id": "u1"}', b'{"n": 1.10}']
        >>> page.ids
        ['u1', None]
        >>> page.number("total")
        2
    """
    text = to_text(body)
    if text.strip() and text.lstrip()[0] not in "{[":
        raise _unexpected(body)
    try:
        page = _read_object(text)
    except (ValueError, IndexError, RecursionError) as error:
        position = getattr(error, "pos", len(text))
        raise IncompleteBodyError(
            f"the page is not complete JSON (at character {position:,} of {len(text):,})"
        ) from None
    if page.error is None and "results" not in page.fields:
        raise _unexpected(body)
    return page


def _unexpected(body: bytes) -> UnexpectedAnswerError:
    return UnexpectedAnswerError(
        "the answer has status 200, but is not the requested JSON",
        status=200,
        mixpanel_message=error_message(body),
    )


def _read_object(text: str) -> Page:
    page = Page()
    at = _skip(text, _skip(text, 0, "{"))
    more = text[at] != "}"
    while more:
        if text[at] != '"':
            raise ValueError("expected a name")
        name, end = DECODER.raw_decode(text, at)
        at = _skip(text, _skip(text, end, ":"))
        if name == "results":
            at = _read_profiles(text, at, page)
            page.fields[name] = True
        else:
            page.fields[name], at = DECODER.raw_decode(text, at)
        at, more = _skip_comma(text, at)
    if _skip(text, _skip(text, at, "}")) != len(text):
        raise ValueError("text after the end")
    return page


def _read_profiles(text: str, at: int, page: Page) -> int:
    at = _skip(text, _skip(text, at, "["))
    more = text[at] != "]"
    decode, profiles, ids = DECODER.raw_decode, page.profiles, page.ids
    while more:
        profile, end = decode(text, at)
        profiles.append(to_bytes(_join_lines(text[at:end])))
        id_ = profile.get("$distinct_id") if isinstance(profile, dict) else None
        ids.append(None if id_ is None else str(id_))
        if text.startswith(",{", end):  # nearly always, and much faster than to look for spaces
            at = end + 1
        else:
            at, more = _skip_comma(text, end)
    return _skip(text, at, "]")


def _skip(text: str, at: int, token: str = "") -> int:
    """Return the position after whitespace and a token.

    Raises:
        ValueError: The token is not there.
    """
    match = _skip_space(text, at)
    end = match.end() if match else at
    if not text.startswith(token, end):
        raise ValueError(f"expected {token}")
    return end + len(token)


def _skip_comma(text: str, at: int) -> tuple[int, bool]:
    """Return the position of what follows, and whether there was a comma before it."""
    at = _skip(text, at)
    if text[at] == ",":
        return _skip(text, at + 1), True
    return at, False


def _join_lines(profile: str) -> str:
    """Return the profile without raw newlines: escaped in strings, spaces elsewhere."""
    if "\n" not in profile:
        return profile
    return _STRING_OR_NEWLINE.sub(
        lambda token: " " if token[0] == "\n" else token[0].replace("\n", "\\n"), profile
    )

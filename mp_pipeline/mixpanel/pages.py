"""A page of profiles, cut into profiles without changing a digit of them.

A JSON parser that makes Python objects would round floats and drop lone surrogates, and strict ones
refuse NaN and raw control characters, which are in real profiles. So the parser only finds where
each profile begins and ends, and the text between is taken as it stands.
"""

import re
from dataclasses import dataclass, field
from typing import Any

from mp_pipeline.mixpanel.body import IncompleteBodyError
from mp_pipeline.mixpanel.lenient import DECODER, to_bytes, to_text

_skip_space = re.compile(r"[ \t\r\n]*").match
_STRING_OR_NEWLINE = re.compile(r'"(?:[^"\\]|\\.)*"|\n', re.DOTALL)


@dataclass(frozen=True)
class Page:
    """One answer of `/engage`.

    Attributes:
        profiles: The profiles, one JSON text each, without newlines.
        fields: The rest of the answer by name (`total`, `session_id`, …), numbers as text.
    """

    profiles: list[bytes] = field(default_factory=list)
    fields: dict[str, Any] = field(default_factory=dict)

    def number(self, name: str) -> int | None:
        """Return a whole number of the answer; None when it is missing or is none."""
        value = self.fields.get(name)
        return int(value) if isinstance(value, str) and value.isdecimal() else None

    @property
    def problem(self) -> str | None:
        """What Mixpanel says that went wrong; None when the answer is good."""
        error, status = self.fields.get("error"), self.fields.get("status")
        if error:
            return str(error)
        return None if status in (None, "ok") else f"status {status}"


def parse_page(body: bytes) -> Page:
    """Cut the body of an answer of `/engage` into its profiles and its other fields.

    Raises:
        IncompleteBodyError: It is no JSON object from its beginning to its end, or it holds neither
            `results` nor an error. The message says where, and nothing of the content.
    """
    text = to_text(body)
    try:
        page = _read_object(text)
    except (ValueError, IndexError, RecursionError) as error:
        position = getattr(error, "pos", len(text))
        raise IncompleteBodyError(
            f"the page is no complete JSON (at character {position:,} of {len(text):,})"
        ) from None
    if page.problem is None and "results" not in page.fields:
        raise IncompleteBodyError("the page holds no results")
    return page


def _read_object(text: str) -> Page:
    page = Page()
    at = _next(text, _next(text, 0, "{"))
    more = text[at] != "}"
    while more:
        if text[at] != '"':
            raise ValueError("a name expected")
        name, end = DECODER.raw_decode(text, at)
        at = _next(text, _next(text, end, ":"))
        if name == "results":
            at = _read_profiles(text, at, page.profiles)
            page.fields[name] = True
        else:
            page.fields[name], at = DECODER.raw_decode(text, at)
        at, more = _comma(text, at)
    if _next(text, _next(text, at, "}")) != len(text):
        raise ValueError("text behind the end")
    return page


def _read_profiles(text: str, at: int, profiles: list[bytes]) -> int:
    at = _next(text, _next(text, at, "["))
    more = text[at] != "]"
    while more:
        _, end = DECODER.raw_decode(text, at)
        profiles.append(to_bytes(_one_line(text[at:end])))
        at, more = _comma(text, end)
    return _next(text, at, "]")


def _next(text: str, at: int, token: str = "") -> int:
    """Return the position behind the blanks and the token that follow."""
    match = _skip_space(text, at)
    end = match.end() if match else at
    if not text.startswith(token, end):
        raise ValueError(f"{token} expected")
    return end + len(token)


def _comma(text: str, at: int) -> tuple[int, bool]:
    """Return the position of what follows, and whether a comma stood before it."""
    at = _next(text, at)
    if text[at] == ",":
        return _next(text, at + 1), True
    return at, False


def _one_line(profile: str) -> str:
    """Return the profile without raw newlines: blanks between tokens, escaped within strings."""
    if "\n" not in profile:
        return profile
    return _STRING_OR_NEWLINE.sub(
        lambda token: " " if token[0] == "\n" else token[0].replace("\n", "\\n"), profile
    )

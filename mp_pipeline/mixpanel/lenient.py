"""JSON as Mixpanel sends it, which is not always standard JSON."""

import codecs
import json

# Accepts raw control characters, NaN, lone surrogates and numbers of any length. Numbers stay
# text: this package never calculates with them, and Python refuses integers of more than 4,300
# digits.
DECODER = json.JSONDecoder(strict=False, parse_int=str, parse_float=str)


def to_text(data: bytes) -> str:
    """Decode UTF-8, without a leading byte order mark. Invalid bytes survive `to_bytes`."""
    return data.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape")


def to_bytes(text: str) -> bytes:
    """Return the bytes that `to_text` decoded."""
    return text.encode("utf-8", "surrogateescape")


def error_message(data: bytes) -> str:
    """Return what a server says about an error: `error` of a JSON body, or the text of the body.

    Example:
        >>> error_message(b'{"request": "/api/2.0/export", "error": "Project not found"}')
        'Project not found'
    """
    text = data.decode("utf-8-sig", "replace").strip()
    try:
        answer = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return str(answer["error"]) if isinstance(answer, dict) and answer.get("error") else text

"""JSON as Mixpanel sends it, which is not always JSON as the standard has it."""

import json

# Raw control characters, NaN, lone surrogates and numbers of any length are read. Numbers stay
# text: nobody here calculates with them, and Python refuses integers of more than 4,300 digits.
DECODER = json.JSONDecoder(strict=False, parse_int=str, parse_float=str)


def to_text(data: bytes) -> str:
    """Return the UTF-8 text; `to_bytes` gives the same bytes back even where they are none."""
    return data.decode("utf-8", "surrogateescape")


def to_bytes(text: str) -> bytes:
    """Return the bytes that `to_text` read."""
    return text.encode("utf-8", "surrogateescape")

"""Removes the secret from text that comes from a server, or from an error that quotes one."""

import base64
import html
import json
from urllib.parse import quote, quote_plus

_SHORTEST_PART = 4  # characters; fewer tell nothing about the secret, and many words end with them


class Scrubber:
    """Removes a secret from text, in every form in which a server may send it back.

    Example:
        >>> scrubber = Scrubber("reader", "p&ssword")
        >>> scrubber.clean("You sent p%26ssword, which is wrong.")
        'You sent [secret], which is wrong.'
    """

    def __init__(self, username: str, secret: str) -> None:
        self._forms = _forms(username, secret)

    def clean(self, text: str, limit: int = 500) -> str:
        """Return the text on one line, without the secret, shortened to `limit` characters.

        Only the beginning of a long answer is read, which may end within the secret. So the
        beginning of the secret is removed, too, if the text ends with it.
        """
        for form in self._forms:
            text = text.replace(form, "[secret]")
        text = text.rstrip("\ufffd")  # a character that was cut in two
        if part := self._length_of_part(text):
            text = text[:-part] + "[secret]"
        # Control characters could change what a terminal or a log shows.
        text = "".join(
            letter if letter.isprintable() else "\ufffd" for letter in " ".join(text.split())
        )
        return text if len(text) <= limit else text[: limit - 1] + "…"

    def _length_of_part(self, text: str) -> int:
        """Return how many characters at the end of the text may be a part of the secret."""
        return max(
            (
                length
                for form in self._forms
                for length in range(_SHORTEST_PART, len(form))
                if text.endswith(form[:length])
            ),
            default=0,
        )


def _forms(username: str, secret: str) -> list[str]:
    basic = base64.b64encode(f"{username}:{secret}".encode()).decode()
    forms = {
        secret,
        basic,
        basic.rstrip("="),
        quote_plus(basic),
        html.escape(secret),
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        repr(secret)[1:-1],
        repr(secret.encode())[2:-1],
        secret.encode().decode("latin-1"),
        quote(secret),
        quote(secret, safe=""),
        quote_plus(secret),
    }
    return sorted(forms, key=len, reverse=True)  # a long form may contain a short one

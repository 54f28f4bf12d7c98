"""What can go wrong with an answer, for a test to switch on."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Literal

Kind = Literal[
    "dropped",
    "short_body",
    "truncated_gzip",
    "corrupt_gzip",
    "terminated_early",
    "export_terminated_early",
    "half_line",
    "slow",
    "status",
    "stall",
    "redirect",
    "extra_lines",
    "body",
]


@dataclass
class Fault:
    r"""A fault of the server in answer to requests that are right in themselves.

    A spoilt body is made whole in memory before it is sent.

    Kinds:
        dropped: The socket closes after `after_bytes` of a chunked body that has no end.
        short_body: `Content-Length` promises the whole body, the socket closes before it.
        truncated_gzip: The gzip stream ends after `after_bytes`; the HTTP framing is right.
        corrupt_gzip: The gzip stream ends with a wrong checksum; the framing is right.
        terminated_early: The lines up to `after_bytes`, then the line `terminated early`.
        export_terminated_early: The same with the line `export terminated early`.
        half_line: Plain text that ends in the middle of the line at `after_bytes` (default: the
            last line); the framing is right.
        slow: The right body in pieces of `after_bytes` (default: a tenth), with a pause of
            `seconds` before each.
        status: The answer is `status` with `body`, and `Retry-After` if `retry_after` is given.
        stall: Headers, then nothing for `seconds`, then the socket closes.
        redirect: 302 to `location`.
        extra_lines: `lines`, each ended by `\n`, stand after the lines up to `after_bytes`.
        body: `body` takes the place of the right one.

    Attributes:
        kind: One of the kinds above.
        path: What the path of the request ends with.
        times: How many requests get this fault; it counts down, and at 0 the fault is gone.
            None is every request.
        day: Only exports whose dates include this day; None is any request.
        after_bytes: Where in the body, in bytes as sent for `dropped`, `short_body`,
            `truncated_gzip` and `slow`, in bytes of text for the others. Default: its middle.
        seconds: How long `slow` and `stall` wait.
        status: The HTTP status of `status`.
        body: The bytes of `status` and `body`.
        retry_after: The value of `Retry-After` for `status`: seconds or an HTTP date.
        location: Where `redirect` leads.
        lines: What `extra_lines` inserts.
    """

    kind: Kind
    path: str = "/export"
    times: int | None = 1
    day: date | None = None
    after_bytes: int | None = None
    seconds: float = 0.1
    status: int = 500
    body: bytes = b""
    retry_after: int | str | None = None
    location: str = "/"
    lines: Sequence[bytes] = ()

    @property
    def needs_gzip(self) -> bool:
        """Whether the fault is one of the gzip stream."""
        return self.kind in ("truncated_gzip", "corrupt_gzip")

    def cut(self, body: bytes) -> int:
        """Say where in a body the fault happens: never at its end."""
        wanted = len(body) // 2 if self.after_bytes is None else self.after_bytes
        return max(0, min(wanted, len(body) - 1))

    def spoil_text(self, text: bytes) -> bytes:
        """Give what becomes of a body before it is compressed."""
        match self.kind:
            case "terminated_early":
                return text[: self._line_cut(text)] + b"terminated early\n"
            case "export_terminated_early":
                return text[: self._line_cut(text)] + b"export terminated early\n"
            case "half_line":
                return text[: self._cut_in_line(text)]
            case "extra_lines":
                cut = self._line_cut(text)
                return text[:cut] + b"".join(line + b"\n" for line in self.lines) + text[cut:]
            case "body":
                return self.body
            case _:
                return text

    def spoil_body(self, body: bytes) -> bytes:
        """Give what becomes of a body after it is compressed."""
        match self.kind:
            case "truncated_gzip":
                return body[: self.cut(body)]
            case "corrupt_gzip":  # the last eight bytes are the checksum and the length
                return body[:-8] + bytes(byte ^ 0xFF for byte in body[-8:-4]) + body[-4:]
            case _:
                return body

    def _line_cut(self, text: bytes) -> int:
        """Give the beginning of the line in which the fault happens."""
        return text.rfind(b"\n", 0, self.cut(text)) + 1

    def _cut_in_line(self, text: bytes) -> int:
        """Give the middle of the line at `after_bytes`, or of the last one."""
        at = len(text) - 1 if self.after_bytes is None else self.cut(text)
        begin = text.rfind(b"\n", 0, max(0, at)) + 1
        end = text.find(b"\n", begin)
        return (begin + (len(text) if end < 0 else end)) // 2


def gzip_compressor() -> "zlib._Compress":
    """Give a compressor of gzip streams: fast, and the same bytes for the same text."""
    return zlib.compressobj(level=1, wbits=31)

"""Checks, while the body of an export arrives, whether it is complete, in bounded memory.

Mixpanel sends status 200 before it knows whether the export will succeed. A failure shows only in
the body: it breaks off, its gzip stream has no end, or its last line is not an event but, for
example, `terminated early` or an error as JSON. Or the body is no export at all, but an error as
JSON or a proxy's HTML page.
"""

import codecs
import re

try:
    from zlib_ng import zlib_ng as zlib  # the same behavior as the standard library's, but faster
except ImportError:  # there is no wheel for this platform
    import zlib  # type: ignore[no-redef]

from mp_pipeline.mixpanel.errors import IncompleteBodyError, UnexpectedAnswerError
from mp_pipeline.mixpanel.lenient import DECODER, error_message, to_text

LONGEST_LINE = 64 * 1024 * 1024
"""The longest last line, in bytes, that can be recognized as an event."""

_PIECE_BYTES = 1 << 20  # decompress at most this many bytes at a time
_QUOTE_BYTES = 1 << 16  # whoever shows a quote removes the secret from it and then shortens it
_GZIP = 16 + zlib.MAX_WBITS  # zlib reads the gzip header, and checks its CRC and length
_GZIP_MAGIC = 0x1F
_BEGINS_AS_EVENT = re.compile(rb'\s*\{\s*"event"').match
_BEGINS_AS_EXPORT = re.compile(rb'\s*\{\s*"(event|properties)"').match


class ExportBody:
    r"""Counts the lines of an export's body as it arrives, and checks that it is complete.

    A body is complete if HTTP and gzip say so and its last line is an event: a JSON object with
    `event` and an object `properties`. A body without lines is complete, too: a day without events.
    Other lines may be malformed.

    A line ends with `\n`. A line of ASCII whitespace alone is blank and does not count. A UTF-8
    byte order mark before an event is ignored.

    Args:
        compressed: Whether the body is gzip.
        delimited: Whether HTTP tells where the body ends. If it does not, only gzip can.
        is_html: Whether HTTP says that the body is an HTML page. Then no lines are no export.

    Attributes:
        lines: The number of lines so far, without blank ones.
        uncompressed_bytes: The number of bytes so far, after decompression.

    Example:
        >>> body = ExportBody(compressed=False)
        >>> body.feed(b'{"event": "Sign up", ')
        >>> body.feed(b'"properties": {}}\n')
        >>> body.finish()
        >>> body.lines
        1
    """

    def __init__(self, *, compressed: bool, delimited: bool = True, is_html: bool = False) -> None:
        self.lines = 0
        self.uncompressed_bytes = 0
        self._compressed = compressed
        self._delimited = delimited
        self._is_html = is_html
        self._empty = True
        self._gzip = zlib.decompressobj(_GZIP)
        self._after_gzip = b""
        self._beginning = b""
        self._open_line = bytearray()
        self._open_line_is_long = False
        self._last_line: bytes | None = None
        """The last line that is not blank; None if it is too long to keep."""

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the body, as transferred.

        Raises:
            IncompleteBodyError: The gzip stream is damaged.
        """
        if not data:
            return
        self._empty = False
        if self._compressed:
            self._decompress(data)
        else:
            self._split(data)

    def finish(self) -> None:
        """Check that the body is complete. No more bytes follow.

        Raises:
            IncompleteBodyError: It is not. The message may quote the end of the body.
            UnexpectedAnswerError: It is no export, but an HTML page or a JSON object.
        """
        if not self._delimited and (self._empty or not self._compressed):
            raise IncompleteBodyError("the answer does not say where it ends")
        if self._after_gzip:
            raise IncompleteBodyError(f"the gzip stream is followed by {_quote(self._after_gzip)}")
        if self._compressed and not self._empty and not self._gzip.eof:
            raise IncompleteBodyError("the gzip stream ends early")
        self._end_line()
        if self.lines == 0:
            if self._is_html:
                raise _unexpected("an empty HTML page")
            return
        if self._last_line is None:
            raise IncompleteBodyError(f"the last line is longer than {LONGEST_LINE:,} bytes")
        if not _is_event(self._last_line):
            raise self._explain(self._last_line)

    def _decompress(self, data: bytes) -> None:
        more = True
        while more:
            if self._gzip.eof:  # another gzip member may follow, or text
                if self._after_gzip or data[0] != _GZIP_MAGIC:
                    self._after_gzip = (self._after_gzip + data)[:_QUOTE_BYTES]
                    return
                self._gzip = zlib.decompressobj(_GZIP)
            try:
                text = self._gzip.decompress(data, _PIECE_BYTES)
            except zlib.error as error:  # type: ignore[misc] # the stub says that it is no class
                raise IncompleteBodyError(f"the gzip stream is damaged ({error})") from None
            self._split(text)
            data = self._gzip.unused_data if self._gzip.eof else self._gzip.unconsumed_tail
            # If a piece is full, zlib may hold more text although it has consumed all input.
            more = bool(data) or (len(text) == _PIECE_BYTES and not self._gzip.eof)

    def _split(self, text: bytes) -> None:
        self.uncompressed_bytes += len(text)
        if len(self._beginning) < _QUOTE_BYTES:
            self._beginning += text[: _QUOTE_BYTES - len(self._beginning)]
        first, newline, rest = text.partition(b"\n")
        self._extend_line(first)
        if not newline:
            return
        self._end_line()
        *lines, open_line = rest.split(b"\n")
        filled = [line for line in lines if line and not line.isspace()]
        if filled:
            self.lines += len(filled)
            self._last_line = filled[-1]
        self._open_line += open_line

    def _extend_line(self, text: bytes) -> None:
        if self._open_line_is_long:
            return
        self._open_line += text
        if len(self._open_line) > LONGEST_LINE:
            self._open_line_is_long = not self._open_line.isspace()
            self._open_line.clear()

    def _end_line(self) -> None:
        line = bytes(self._open_line)
        if self._open_line_is_long:
            self.lines += 1
            self._last_line = None
        elif line and not line.isspace():
            self.lines += 1
            self._last_line = line
        self._open_line.clear()
        self._open_line_is_long = False

    def _explain(self, last_line: bytes) -> Exception:
        """Return the error that a last line which is not an event means."""
        beginning = self._beginning.removeprefix(codecs.BOM_UTF8).lstrip()
        if beginning.startswith((b"<", b"{")) and not _BEGINS_AS_EXPORT(beginning):
            return _unexpected("not an export", error_message(beginning))
        if _BEGINS_AS_EVENT(last_line):  # not quoted: it is a user's data
            return IncompleteBodyError("the last line is an event that is cut off or malformed")
        return IncompleteBodyError(f"the last line is not an event: {_quote(last_line)}")


def _is_event(line: bytes) -> bool:
    try:
        event = DECODER.decode(to_text(line.strip()))
    except (ValueError, RecursionError):
        return False
    return (
        isinstance(event, dict) and "event" in event and isinstance(event.get("properties"), dict)
    )


def _unexpected(what: str, message: str | None = None) -> UnexpectedAnswerError:
    return UnexpectedAnswerError(
        f"the answer has status 200, but is {what}", status=200, mixpanel_message=message
    )


def _quote(data: bytes) -> str:
    return data[:_QUOTE_BYTES].decode("utf-8", "replace").strip()

"""Is the body of an export whole? Answered while it streams by, in constant memory.

Mixpanel sends the status 200 before it knows whether the export will succeed. A failure shows only
in the body: it stops, its gzip stream has no end, or a line `terminated early` stands at its end.
"""

import zlib

from mp_pipeline.mixpanel.lenient import DECODER, to_text

LONGEST_LINE = 64 * 1024 * 1024
"""Bytes that are kept of a line until its end is there."""

_PIECE = 1 << 20  # decompress at most this many bytes at a time
_GZIP = 16 + zlib.MAX_WBITS  # makes zlib read gzip's header and check its CRC and length
_GZIP_MAGIC = 0x1F
_TERMINATED = {b"terminated early", b"export terminated early"}


class IncompleteBodyError(Exception):
    """The body is not whole; the message says how that shows."""


class ExportBody:
    """Reads an export's body as it comes, and knows at the end whether it is whole.

    Memory is bounded: a line may be of any length, but of one longer than `LONGEST_LINE` no more is
    known than that it is there. If it is the last one, it must have an end.

    Args:
        compressed: Whether the body is gzip.
        delimited: Whether HTTP says where the body ends. If it does not, only gzip can.

    Attributes:
        lines: Lines so far that are not blank, malformed ones included.
        uncompressed_bytes: Bytes so far, after decompression.
    """

    def __init__(self, *, compressed: bool, delimited: bool = True) -> None:
        self.lines = 0
        self.uncompressed_bytes = 0
        self._compressed = compressed
        self._delimited = delimited
        self._empty = True
        self._gzip = zlib.decompressobj(_GZIP)
        self._after_gzip = b""
        self._partial = bytearray()
        self._partial_is_long = False
        self._ended_early = False

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the body, of any length, as transferred.

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
        """Say that no more bytes follow. An empty body is whole: a day without events.

        Raises:
            IncompleteBodyError: The body is not whole.
        """
        if not self._delimited and (self._empty or not self._compressed):
            raise IncompleteBodyError("the answer does not say where it ends")
        if self._compressed and not self._empty:
            if _is_termination(self._after_gzip):
                raise IncompleteBodyError("Mixpanel ended the export early")
            if self._after_gzip:
                raise IncompleteBodyError("bytes that are no gzip follow the gzip stream")
            if not self._gzip.eof:
                raise IncompleteBodyError("the gzip stream ends early")

        if self._partial_is_long:
            raise IncompleteBodyError(f"the last line has no end after {LONGEST_LINE:,} bytes")
        open_line = bytes(self._partial.strip())
        if _is_termination(open_line) if open_line else self._ended_early:
            raise IncompleteBodyError("Mixpanel ended the export early")
        if open_line:
            try:
                DECODER.decode(to_text(open_line))
            except (ValueError, RecursionError):
                raise IncompleteBodyError("the last line is cut off") from None
            self.lines += 1

    def _decompress(self, data: bytes) -> None:
        more = True
        while more:
            if self._gzip.eof:  # another gzip member may follow, or plain text
                if self._after_gzip or data[0] != _GZIP_MAGIC:
                    self._after_gzip = (self._after_gzip + data)[:1000]
                    return
                self._gzip = zlib.decompressobj(_GZIP)
            try:
                text = self._gzip.decompress(data, _PIECE)
            except zlib.error as error:
                raise IncompleteBodyError(f"the gzip stream is damaged ({error})") from None
            self._split(text)
            data = self._gzip.unused_data if self._gzip.eof else self._gzip.unconsumed_tail
            # A full piece may have left text inside zlib although all input is consumed.
            more = bool(data) or (len(text) == _PIECE and not self._gzip.eof)

    def _split(self, text: bytes) -> None:
        self.uncompressed_bytes += len(text)
        first, newline, rest = text.partition(b"\n")
        self._add_to_partial(first)
        if not newline:
            return
        lines = [b"long" if self._partial_is_long else bytes(self._partial), *rest.split(b"\n")]
        self._partial = bytearray(lines.pop())
        self._partial_is_long = False
        filled = [line for line in lines if line and not line.isspace()]
        if filled:
            self.lines += len(filled)
            self._ended_early = _is_termination(filled[-1])

    def _add_to_partial(self, text: bytes) -> None:
        if self._partial_is_long:
            return
        self._partial += text
        if len(self._partial) > LONGEST_LINE:
            self._partial_is_long = not self._partial.isspace()
            self._partial.clear()


def _is_termination(line: bytes) -> bool:
    return line.strip(b" \t\r\n\"'.").lower() in _TERMINATED

"""A sample server that fails on request, as Mixpanel and the network between sometimes do."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Literal, Self

from mp_pipeline.sample import SampleServer
from mp_pipeline.sample.handler import MIN_GZIP_BYTES, Handler, compress

Kind = Literal[
    "dropped",
    "short_body",
    "truncated_gzip",
    "corrupt_gzip",
    "terminated_early",
    "export_terminated_early",
    "too_many_lines",
    "half_line",
    "slow",
    "status",
    "stall",
    "redirect",
    "extra_lines",
    "missing_line",
    "body",
]


@dataclass
class Fault:
    r"""What goes wrong in the response to a valid request.

    Except for `status`, `redirect` and `stall`, the correct body is built in memory first, then
    changed and sent.

    Kinds:
        dropped: The connection closes after `after_bytes` of a chunked body, before its end.
        short_body: `Content-Length` announces the full body, but the connection closes earlier.
        truncated_gzip: The gzip stream ends after `after_bytes`; the HTTP framing is correct.
        corrupt_gzip: The gzip stream ends with a wrong checksum; the HTTP framing is correct.
        terminated_early: The lines up to `after_bytes`, then the line `terminated early`.
        export_terminated_early: The same with the line `export terminated early`.
        too_many_lines: A body of more than `max_lines` lines ends after so many, with the line
            `terminated early`. Other bodies are correct.
        half_line: Uncompressed text that ends in the middle of the line at `after_bytes`
            (default: the last line); the HTTP framing is correct.
        slow: The correct body in pieces of `after_bytes` (default: a tenth of the body), with a
            pause of `seconds` before each piece.
        status: A response with `status` and `body`, and `Retry-After` if `retry_after` is set.
        stall: The headers, then nothing for `seconds`, then the connection closes.
        redirect: A 302 response with `location`.
        extra_lines: `lines`, each followed by `\n`, inserted after the lines up to `after_bytes`.
        missing_line: The line at `after_bytes` is left out.
        body: `body` replaces the correct body.

    Attributes:
        kind: One of the kinds above.
        path: The end of the request's path.
        times: The number of requests that get this fault. It counts down; at 0 the fault is
            removed. None: every request gets it.
        day: Only exports whose dates include this day get the fault. None: any request.
        after_bytes: Where in the body the fault happens: in bytes of the body as sent for
            `dropped`, `short_body`, `truncated_gzip` and `slow`, in bytes of the text for the
            other kinds. Default: in the middle.
        max_lines: The number of lines at which `too_many_lines` ends.
        seconds: The duration of the pauses of `slow` and `stall`.
        status: The HTTP status of `status`.
        body: The body of `status` and `body`.
        retry_after: The `Retry-After` header of `status`: seconds or an HTTP date.
        location: The target of `redirect`.
        lines: The lines that `extra_lines` inserts.
    """

    kind: Kind
    path: str = "/export"
    times: int | None = 1
    day: date | None = None
    after_bytes: int | None = None
    max_lines: int = 0
    seconds: float = 0.1
    status: int = 500
    body: bytes = b""
    retry_after: int | str | None = None
    location: str = "/"
    lines: Sequence[bytes] = ()

    @property
    def needs_gzip(self) -> bool:
        """Whether the fault is in the gzip stream."""
        return self.kind in ("truncated_gzip", "corrupt_gzip")

    def applies_to(self, path: str, query: Mapping[str, str]) -> bool:
        """Return whether a request gets this fault."""
        if not path.endswith(self.path):
            return False
        if self.day is None:
            return True
        return query.get("from_date", "9999") <= self.day.isoformat() <= query.get("to_date", "")

    def find_cut(self, body: bytes) -> int:
        """Return the position in the body where the fault happens, which is never its end."""
        position = len(body) // 2 if self.after_bytes is None else self.after_bytes
        return max(0, min(position, len(body) - 1))

    def change_text(self, text: bytes) -> bytes:
        """Return the body with the fault, before compression."""
        match self.kind:
            case "terminated_early":
                return text[: self._find_line(text)] + b"terminated early\n"
            case "export_terminated_early":
                return text[: self._find_line(text)] + b"export terminated early\n"
            case "too_many_lines":
                lines = text.split(b"\n")[:-1]
                if len(lines) <= self.max_lines:
                    return text
                return b"\n".join([*lines[: self.max_lines], b"terminated early\n"])
            case "half_line":
                return text[: self._find_middle_of_line(text)]
            case "extra_lines":
                cut = self._find_line(text)
                return text[:cut] + b"".join(line + b"\n" for line in self.lines) + text[cut:]
            case "missing_line":
                begin = self._find_line(text)
                return text[:begin] + text[text.find(b"\n", begin) + 1 :]
            case "body":
                return self.body
            case _:
                return text

    def change_gzip(self, body: bytes) -> bytes:
        """Return the compressed body with the fault."""
        match self.kind:
            case "truncated_gzip":
                return body[: self.find_cut(body)]
            case "corrupt_gzip":  # the last eight bytes are the checksum and the length
                return body[:-8] + bytes(byte ^ 0xFF for byte in body[-8:-4]) + body[-4:]
            case _:
                return body

    def _find_line(self, text: bytes) -> int:
        """Return the start of the line in which the fault happens."""
        return text.rfind(b"\n", 0, self.find_cut(text)) + 1

    def _find_middle_of_line(self, text: bytes) -> int:
        """Return the middle of the line at `after_bytes`, or of the last line."""
        position = len(text) - 1 if self.after_bytes is None else self.find_cut(text)
        begin = text.rfind(b"\n", 0, max(0, position)) + 1
        end = text.find(b"\n", begin)
        return (begin + (len(text) if end < 0 else end)) // 2


class FaultyHandler(Handler):
    """Sends the responses of a `FaultyServer`."""

    sample: "FaultyServer"

    def send_body(self, pieces: Iterator[bytes]) -> None:
        """Send the response with the server's next fault for this request, if there is one."""
        fault = self.sample.take_fault(self.route, self.query)
        if fault is None:
            super().send_body(pieces)
        elif fault.kind == "status":
            headers = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
            self.send_whole(fault.status, fault.body, headers)
        elif fault.kind == "redirect":
            self.send_whole(302, b"", {"Location": fault.location})
        elif fault.kind == "stall":
            self.send_head(
                200, {"Content-Type": self.content_type(), "Transfer-Encoding": "chunked"}
            )
            self.sample.stopping.wait(fault.seconds)
            self.close_connection = True
        else:
            self._send_changed(fault, fault.change_text(b"".join(pieces)))

    def _send_changed(self, fault: Fault, body: bytes) -> None:
        headers = {"Content-Type": self.content_type()}
        compressible = len(body) >= MIN_GZIP_BYTES and fault.kind != "half_line"
        if fault.needs_gzip or (compressible and self.accepts_gzip()):
            headers["Content-Encoding"] = "gzip"
            body = fault.change_gzip(b"".join(compress([body])))
        match fault.kind:
            case "dropped":
                self.send_head(200, {**headers, "Transfer-Encoding": "chunked"})
                if sent := body[: fault.find_cut(body)]:  # an empty chunk would end the body
                    self.send_chunk(sent)
                self.close_connection = True
            case "short_body":
                self.send_head(200, {**headers, "Content-Length": str(len(body))})
                self.wfile.write(body[: fault.find_cut(body)])
                self.close_connection = True
            case "slow":
                self.send_head(200, {**headers, "Content-Length": str(len(body))})
                self._send_slowly(fault, body)
            case _:
                self.send_whole(200, body, headers)

    def _send_slowly(self, fault: Fault, body: bytes) -> None:
        size = max(1, -(-len(body) // 10) if fault.after_bytes is None else fault.after_bytes)
        for begin in range(0, len(body), size):
            if self.sample.stopping.wait(fault.seconds):
                self.close_connection = True
                return
            if begin + size >= len(body):
                self.leave_limit()
            self.wfile.write(body[begin : begin + size])


class FaultyServer(SampleServer):
    """A sample server that gives the faults in its list to the requests that they apply to.

    Args:
        options: The arguments of `SampleServer`.

    Attributes:
        faults: The faults to come. A request gets the first one that applies to it.
        stopping: Set while the server stops, so that pauses end at once.
    """

    handler_class = FaultyHandler

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.faults: list[Fault] = []
        self.stopping = threading.Event()
        self._lock = threading.Lock()

    def start(self) -> Self:
        """Start the server."""
        self.stopping.clear()
        return super().start()

    def stop(self) -> None:
        """Stop the server, and end every pause."""
        self.stopping.set()
        super().stop()

    def take_fault(self, path: str, query: Mapping[str, str]) -> Fault | None:
        """Return the first fault that applies to a request, and count it down."""
        with self._lock:
            for fault in self.faults:
                if fault.applies_to(path, query):
                    if fault.times is not None:
                        fault.times -= 1
                        if fault.times <= 0:
                            self.faults.remove(fault)
                    return fault
        return None

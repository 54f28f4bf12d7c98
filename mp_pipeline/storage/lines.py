r"""Reading files of JSON Lines one line at a time, for when DuckDB refuses one of them.

A line ends at ``\n`` alone. Text that JSON does not allow but that can be understood is mended:
raw control characters inside strings become escapes (nothing changes), bytes that are no UTF-8 and
lone surrogates become U+FFFD.
"""

import gzip
import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from mp_pipeline.storage.errors import StorageError
from mp_pipeline.storage.scratch import ScratchFile

LONGEST_LINE = 64 * 1024 * 1024
"""Longest line that is loaded, in bytes."""

_CHUNK_BYTES = 64 * 1024 * 1024
_BEGINNING = 10_000  # bytes of a line that is too long

_SUSPICIOUS = re.compile(r"[\x00-\x1f]|\\u[dD][89a-fA-F]")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_CONTROL = re.compile(r"[\x00-\x1f]")
# A whole surrogate pair, half of one, or any other escape: so that `\\ud800` is left alone.
_ESCAPE = re.compile(
    r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    r"|(?P<lone>\\u[dD][89a-fA-F][0-9a-fA-F]{2})"
    r"|\\.",
    re.DOTALL,
)


@dataclass(frozen=True)
class NumberedLines:
    """A file of JSON Lines with ``line_number``, ``line`` (text), ``mended`` and ``refused``."""

    path: Path
    largest: int
    """Size of the largest line of this file, in bytes."""


def mend(raw: bytes) -> tuple[str, bool]:
    """Return a line as text that DuckDB can read if it is JSON at all, and whether it changed."""
    text = raw.decode("utf-8", errors="replace").removeprefix("\ufeff")
    if _SUSPICIOUS.search(text):
        text = _ESCAPE.sub(lambda found: "\\ufffd" if found["lone"] else found[0], text)
        text = _STRING.sub(
            lambda string: _CONTROL.sub(lambda c: f"\\u{ord(c[0]):04x}", string[0]), text
        )
    return text, text.encode() != raw


def number_lines(file: Path, directory: Path) -> Iterator[NumberedLines]:
    """Copy the lines of a file, numbered from 1, into chunks of bounded size.

    Blank lines are left out. Of a line longer than ``LONGEST_LINE`` only the beginning is there.

    Args:
        file: plain, or gzip where the name ends in ``.gz``.
        directory: where the chunks go. Each is deleted when the next one is asked for.

    Raises:
        StorageError: a gzip file is cut off or damaged, or a chunk cannot be written.
    """
    chunk = directory / "numbered.jsonl"
    with _open(file) as lines:
        number = 0
        at_end = False
        while not at_end:
            size = largest = 0
            with ScratchFile(chunk) as out:
                while size < _CHUNK_BYTES:
                    raw = _read_line(lines, file, LONGEST_LINE + 1)
                    at_end = not raw
                    if at_end:
                        break
                    number += 1
                    too_long = len(raw) > LONGEST_LINE and not raw.endswith(b"\n")
                    if too_long:
                        _skip_line(lines, file)
                        raw = raw[:_BEGINNING]
                    raw = raw.rstrip(b"\r\n")
                    if not too_long and not raw.strip():
                        continue
                    text, mended = mend(raw)
                    line = {"line_number": number, "line": text, "mended": mended}
                    refused = f"longer than {LONGEST_LINE} bytes" if too_long else None
                    row = json.dumps({**line, "refused": refused})
                    out.write(row.encode() + b"\n")
                    size += len(row)
                    largest = max(largest, len(row))
            if size:
                yield NumberedLines(chunk, largest)
            chunk.unlink()


def _open(file: Path) -> BinaryIO | gzip.GzipFile:
    return gzip.open(file, "rb") if file.suffix.lower() == ".gz" else file.open("rb")


def _read_line(lines: BinaryIO | gzip.GzipFile, file: Path, limit: int) -> bytes:
    try:
        return lines.readline(limit)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise StorageError(
            f"{file} is damaged ({error}); nothing was loaded. Delete it and fetch it again."
        ) from error


def _skip_line(lines: BinaryIO | gzip.GzipFile, file: Path) -> None:
    while (rest := _read_line(lines, file, LONGEST_LINE)) and not rest.endswith(b"\n"):
        pass

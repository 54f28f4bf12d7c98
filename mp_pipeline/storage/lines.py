r"""Read files of JSON Lines one line at a time, for files that DuckDB refuses.

The rules for lines are those of DuckDB's own reader, so that a good line gives the same row
whichever of the two reads it:

- A line ends at ``\n`` and nowhere else.
- ASCII whitespace around a line (space, ``\t``, ``\r``, ``\v``, ``\f``) is not part of it. A line
  of nothing else is blank: it is numbered, but not counted and not stored.

Some lines that DuckDB refuses can still be understood, and are repaired:

- A byte order mark at the start of a line is removed. A line of nothing else is not blank: it is
  rejected.
- Raw control characters inside strings become escapes, which mean the same.
- Bytes that are not UTF-8, and lone surrogates, become U+FFFD.
"""

import gzip
import json
import re
import zlib
from codecs import BOM_UTF8
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from mp_pipeline.storage.errors import StorageError
from mp_pipeline.storage.scratch import ScratchFile

LONGEST_LINE = 64 * 1024 * 1024
"""The longest line that is loaded, in bytes."""

_CHUNK_BYTES = 64 * 1024 * 1024
_COPY_BYTES = 1024 * 1024
_KEPT_OF_A_LONG_LINE = 10_000  # bytes

_SUSPICIOUS = re.compile(r"[\x00-\x1f]|\\u[dD][89a-fA-F]")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_CONTROL = re.compile(r"[\x00-\x1f]")
# A surrogate pair, a lone surrogate, or any other escape: the last one so that the text `\\ud800`
# (an escaped backslash) is left alone.
_ESCAPE = re.compile(
    r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    r"|(?P<lone>\\u[dD][89a-fA-F][0-9a-fA-F]{2})"
    r"|\\.",
    re.DOTALL,
)


@dataclass(frozen=True)
class NumberedLines:
    """A file of JSON Lines: ``line_number``, ``line``, ``repaired``, ``line_problem`` (or null)."""

    path: Path
    largest: int
    """Size of the largest line of this file, in bytes."""


def is_gzip(file: Path) -> bool:
    """Return whether a file is read as gzip: its name ends in ``.gz``, in upper or lower case."""
    return file.suffix.lower() == ".gz"


def starts_with_object(file: Path) -> bool:
    """Return whether the first byte of a file's text is ``{``.

    DuckDB's reader must not be given other files. It skips a byte order mark (from 2.0) and, in a
    file of one byte, anything (before 2.0), without counting the line.

    Args:
        file: The file; gzip if its name ends in ``.gz``.

    Raises:
        StorageError: The file cannot be read, or is not gzip.
    """
    with _open(file) as stream:
        return stream.read(1) == b"{"


def decompress(file: Path, directory: Path) -> Path:
    """Write the text of a gzip file to a plain file and return its path.

    Args:
        file: A gzip file.
        directory: The directory that the plain file goes into.

    Raises:
        StorageError: The gzip file is truncated or damaged, or the plain file cannot be written.
    """
    plain = directory / "decompressed.jsonl"
    with _open(file) as stream, ScratchFile(plain) as out:
        while piece := stream.read(_COPY_BYTES):
            out.write(piece)
    return plain


def number_lines(file: Path, directory: Path) -> Iterator[NumberedLines]:
    """Copy the lines of a file into chunks of bounded size, numbered from 1 and repaired.

    Blank lines are left out. A line longer than ``LONGEST_LINE`` is cut to its beginning, and its
    ``line_problem`` says so.

    Args:
        file: The file; gzip if its name ends in ``.gz``.
        directory: The directory that the chunks go into. Each chunk is deleted when the next one
            is requested.

    Raises:
        StorageError: The file is truncated or damaged, or a chunk cannot be written.
    """
    chunk = directory / "numbered.jsonl"
    with _open(file) as stream:
        lines = _read_lines(stream)
        more = True
        while more:
            size = largest = 0
            more = False
            with ScratchFile(chunk) as out:
                for number, raw, problem in lines:
                    line = _numbered(number, raw, problem)
                    out.write(line)
                    size += len(line)
                    largest = max(largest, len(line))
                    if size >= _CHUNK_BYTES:
                        more = True
                        break
            if size:
                yield NumberedLines(chunk, largest)
            chunk.unlink()


def repair(raw: bytes) -> tuple[str, bool]:
    """Return a line as text that DuckDB can read if it is JSON at all, and whether it changed."""
    text = raw.removeprefix(BOM_UTF8).strip().decode("utf-8", errors="replace")
    if _SUSPICIOUS.search(text):
        text = _ESCAPE.sub(lambda found: "\\ufffd" if found["lone"] else found[0], text)
        text = _STRING.sub(
            lambda string: _CONTROL.sub(lambda c: f"\\u{ord(c[0]):04x}", string[0]), text
        )
    return text, text.encode() != raw


def _read_lines(stream: BinaryIO) -> Iterator[tuple[int, bytes, str | None]]:
    """Yield number, bytes and problem of each line that is not blank."""
    number = 0
    while raw := stream.readline(LONGEST_LINE + 1):
        number += 1
        if len(raw) <= LONGEST_LINE or raw.endswith(b"\n"):
            problem = None
            line = raw.strip()
        else:
            problem = f"longer than {LONGEST_LINE} bytes"
            line = raw[:_KEPT_OF_A_LONG_LINE] if _skip_line(stream) or raw.strip() else b""
        if line:
            yield number, line, problem


def _skip_line(stream: BinaryIO) -> bool:
    """Read to the end of the line; return whether anything but whitespace was left of it."""
    filled = False
    while rest := stream.readline(LONGEST_LINE):
        filled = filled or not rest.isspace()
        if rest.endswith(b"\n"):
            break
    return filled


def _numbered(number: int, raw: bytes, problem: str | None) -> bytes:
    text, repaired = repair(raw)
    line = {"line_number": number, "line": text, "repaired": repaired, "line_problem": problem}
    return json.dumps(line).encode() + b"\n"


@contextmanager
def _open(file: Path) -> Iterator[BinaryIO]:
    """Open a file for reading its text, and explain what goes wrong with it."""
    try:
        if is_gzip(file):
            with gzip.open(file, "rb") as stream:
                yield cast(BinaryIO, stream)
        else:
            with file.open("rb") as stream:
                yield stream
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise StorageError(
            f"{file} is damaged ({error}); nothing was loaded. Delete it and download it again."
        ) from error
    except OSError as error:
        raise StorageError(
            f"cannot read {file}: {error.strerror or error}. Nothing was loaded."
        ) from error

"""Which paths can be those of database files."""

import os
import re
from pathlib import Path

# DuckDB reads a backslash as a slash, and looks for the write-ahead log before a question mark.
_FORBIDDEN = "?" if os.name == "nt" else "?\\"
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")  # two letters or more: C: is a drive


def path_problem(path: Path) -> str | None:
    """Return why a path cannot be a database file, None if it can.

    DuckDB would interpret such a path itself, and create a file of another name.

    Example:
        >>> path_problem(Path("md:mixpanel"))
        "names the scheme 'md:', but only database files are supported"
        >>> path_problem(Path("data/mixpanel.duckdb"))
    """
    text = str(path)
    if text == ":memory:":
        return "is not a file"
    if scheme := _SCHEME.match(text):
        return f"names the scheme {scheme[0]!r}, but only database files are supported"
    if any(character in text for character in _FORBIDDEN):
        return f"must not contain {' or '.join(_FORBIDDEN)}, which DuckDB misinterprets"
    return None

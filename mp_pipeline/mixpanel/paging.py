"""Which pages of a snapshot to read, and whether they contain everything."""

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager

_IDLE_PAGES = 10
"""After so many pages in a row that bring nothing new, no further page is read."""

_ALWAYS_TOLERATED = 3  # profiles; a fraction of a small project would allow none


class DistinctIds(AbstractContextManager["DistinctIds"]):
    """Counts distinct ids in bounded memory: 64-bit hashes in a temporary SQLite database.

    Among ten million ids, two share a hash with a probability of 1 in 400,000.

    Example:
        >>> with DistinctIds() as ids:
        ...     ids.add([hash("a"), hash("b")]), ids.add([hash("b"), hash("c")])
        (2, 1)
    """

    def __init__(self) -> None:
        # SQLite keeps it in a file that nobody else sees and that ends with the connection.
        self._connection = sqlite3.connect("", isolation_level=None)
        self._connection.execute("PRAGMA journal_mode = OFF")
        self._connection.execute("CREATE TABLE ids (hash INTEGER PRIMARY KEY)")

    def add(self, hashes: Iterable[int]) -> int:
        """Add the hashes of ids, and return how many of them are new."""
        before = self._connection.total_changes
        self._connection.execute("BEGIN")
        self._connection.executemany(
            "INSERT OR IGNORE INTO ids VALUES (?)", ((each,) for each in hashes)
        )
        self._connection.execute("COMMIT")
        return self._connection.total_changes - before

    def __exit__(self, *_: object) -> None:
        """Delete the database."""
        self._connection.close()


class Paging:
    """Follows the pages of a snapshot, in order, and says which ones to read.

    With a `total`, as many pages are read as it takes at the size that the pages have: Mixpanel may
    send smaller pages than requested. A short or empty page among them does not end the snapshot.
    After them, pages are read as long as profiles are missing and each page brings new ones.
    Without a `total`, a page that is not full is the last one.

    Args:
        page_size: The number of profiles per page that was requested.

    Attributes:
        total: The number of profiles that Mixpanel announced; None if it did not.
        pages: The number of pages so far.
        lines: The number of profiles so far.
        distinct: The number of different ones among them.

    Example:
        >>> paging = Paging(page_size=1000)
        >>> paging.add(lines=500, new=500, page_size=None, total=1200)  # smaller than requested
        >>> list(paging.remaining())
        [1, 2]
    """

    def __init__(self, page_size: int) -> None:
        self.total: int | None = None
        self.pages = self.lines = self.distinct = 0
        self._requested_size = page_size
        self._largest_page = self._new = self._idle_pages = 0
        self._is_full = True

    def add(self, *, lines: int, new: int, page_size: int | None, total: int | None) -> None:
        """Take a page into account.

        Args:
            lines: The number of its profiles.
            new: How many of them no earlier page has.
            page_size: The page size that it states.
            total: The number of profiles that it announces; only the first page's counts.
        """
        if self.pages == 0:
            self.total = total
            self._requested_size = page_size or self._requested_size
        self.pages += 1
        self.lines += lines
        self.distinct += new
        self._new = new
        self._idle_pages = 0 if new else self._idle_pages + 1
        self._largest_page = max(self._largest_page, lines)
        self._is_full = lines >= (page_size or self._requested_size)

    @property
    def planned(self) -> int:
        """The number of pages to read, as far as is known now."""
        if self._idle_pages >= _IDLE_PAGES:
            return self.pages
        if self.total is None:
            return self.pages + bool(self._is_full and self._new)
        planned = -(-self.total // (self._largest_page or self._requested_size))
        if self.pages < planned:
            return planned
        more = self.distinct < self.total or (self.distinct > self.total and self._is_full)
        return self.pages + bool(more and self._new)

    def remaining(self) -> Iterator[int]:
        """Yield the numbers of the pages to read next, as far as they are known."""
        number = self.pages
        while number < self.planned:
            yield number
            number += 1

    def lacks_too_many(self, max_missing_fraction: float) -> bool:
        """Return whether more than this fraction of `total`, and more than a few, are missing.

        Profiles that change while pages are read can be missed. That explains a few.
        """
        if self.total is None:
            return False
        tolerated = max(_ALWAYS_TOLERATED, int(self.total * max_missing_fraction))
        return self.total - self.distinct > tolerated

"""The PostgreSQL database in which several machines share rate limits."""

import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

_URL = re.compile(r"postgres(ql)?://([^@/?#]*@)?[^@/?#]*(/[^@/?#]*)?(\?[^@#]*)?", re.IGNORECASE)
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


@dataclass(frozen=True, repr=False)
class PostgresDatabase:
    """A PostgreSQL database in which several machines share rate limits.

    Its text does not contain the password.

    Attributes:
        url: The URL, with the password.

    Raises:
        ValueError: It is not a URL of a PostgreSQL database.

    Example:
        >>> PostgresDatabase("postgresql://reader:s3cret@db.example:5432/mixpanel")
        PostgresDatabase(db.example:5432/mixpanel)
    """

    url: str

    def __post_init__(self) -> None:
        if not _URL.fullmatch(self.url) or _BAD_ESCAPE.search(self.url):
            raise ValueError(
                "is not a URL such as postgresql://user:password@host:5432/dbname; write special "
                "characters in the password as in URLs: %40 for @, %2F for /, %25 for %"
            )
        if "password=" in urlsplit(self.url).query:
            raise ValueError("must have the password before the host: postgresql://user:password@…")

    def __str__(self) -> str:
        """Return the host and the name of the database."""
        parts = urlsplit(self.url)
        return f"{parts.netloc.rpartition('@')[2] or 'localhost'}{parts.path}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self})"

    @property
    def user(self) -> str:
        """The name of the user; empty if the URL has none."""
        return unquote(urlsplit(self.url).username or "")

    @property
    def password(self) -> str:
        """The password; empty if the URL has none."""
        return unquote(urlsplit(self.url).password or "")

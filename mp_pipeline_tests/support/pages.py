"""The code blocks of the documentation."""

import re
from pathlib import Path

DOCS = Path(__file__).parent.parent.parent / "docs"


def blocks(language: str, page: str) -> list[str]:
    """Return the code blocks of a language on a page of `docs`, in order."""
    text = (DOCS / page).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)

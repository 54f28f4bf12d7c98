"""The project's files, and the files in a test's directory."""

from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


def files_in(directory: Path) -> set[str]:
    """Return the paths of all files in a directory tree, relative to it."""
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}

"""Print a pip constraint for the lowest version of each dependency that pyproject.toml allows."""

import re
import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
for requirement in [*project["dependencies"], *project["optional-dependencies"]["test"]]:
    lowest = re.match(r"([\w.-]+)(?:\[[\w,]+\])?>=([\d.]+)", requirement)
    if lowest is None:
        raise SystemExit(f"{requirement} has no lowest version")
    sys.stdout.write(f"{lowest[1]}=={lowest[2]}\n")

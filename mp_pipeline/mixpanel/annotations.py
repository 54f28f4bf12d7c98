"""The annotations of a project."""

from pathlib import Path

from mp_pipeline.mixpanel.downloads import Download
from mp_pipeline.mixpanel.endpoint import Endpoint
from mp_pipeline.mixpanel.lists import download_list
from mp_pipeline.mixpanel.transport import Request


def download_annotations(app: Endpoint, directory: Path) -> Download:
    """Download all annotations to `annotations.jsonl.gz`, one per line.

    Args:
        app: The app API of the project.
        directory: Where the file is created.

    Raises:
        MixpanelError: The list cannot be downloaded.
        OSError: The file cannot be written.

    Source: https://docs.mixpanel.com/reference/list-all-annotations-for-project
    """
    request = Request("list of annotations", "GET", f"{app.url}/annotations", {})
    return download_list(app, request, directory, "annotations")

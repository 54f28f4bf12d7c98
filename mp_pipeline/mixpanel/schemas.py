"""The schemas of a project's Lexicon: what its events, profiles and their properties mean."""

from pathlib import Path

from mp_pipeline.mixpanel.downloads import Download
from mp_pipeline.mixpanel.endpoint import Endpoint
from mp_pipeline.mixpanel.lists import download_list
from mp_pipeline.mixpanel.transport import Request


def download_schemas(app: Endpoint, directory: Path) -> Download:
    """Download all schemas to `lexicon.jsonl.gz`, one per line.

    Mixpanel allows five such requests a minute.

    Args:
        app: The app API of the project.
        directory: Where the file is created.

    Raises:
        MixpanelError: The list cannot be downloaded.
        OSError: The file cannot be written.

    Source: https://docs.mixpanel.com/reference/list-all-schemas-for-project
    """
    request = Request("list of schemas", "GET", f"{app.url}/schemas", {})
    return download_list(app, request, directory, "lexicon")

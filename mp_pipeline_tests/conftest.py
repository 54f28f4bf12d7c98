"""Keeps the settings, the `.env` and the state directory of whoever runs the tests out of them."""

import atexit
import os
import tempfile

from mp_pipeline.settings import Settings
from mp_pipeline_tests.mixpanel_support import client as client
from mp_pipeline_tests.mixpanel_support import log as log
from mp_pipeline_tests.mixpanel_support import scripted as scripted

# Empty means not set, and `.env` does not replace what is there.
for name in Settings.model_fields:
    os.environ[name.upper()] = ""
os.environ.pop("DAGSTER_HOME", None)

# Where the state directory is unless a test says otherwise, in the processes that it starts too.
_state = tempfile.TemporaryDirectory(prefix="mp_pipeline_state_")
atexit.register(_state.cleanup)
os.environ["XDG_STATE_HOME"] = _state.name

"""Keeps the settings of whoever runs the tests, and their `.env`, out of them."""

import os

from mp_pipeline.settings import Settings

# Empty means not set, and `.env` does not replace what is there.
for name in Settings.model_fields:
    os.environ[name.upper()] = ""
os.environ.pop("DAGSTER_HOME", None)

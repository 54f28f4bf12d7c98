"""The assets of a project, one module each."""

from mp_pipeline.assets.events import events_asset
from mp_pipeline.assets.profiles import profiles_asset

__all__ = ["events_asset", "profiles_asset"]

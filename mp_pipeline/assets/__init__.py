"""The assets: a module each."""

from mp_pipeline.assets.events import events
from mp_pipeline.assets.profiles import profiles

__all__ = ["events", "profiles"]

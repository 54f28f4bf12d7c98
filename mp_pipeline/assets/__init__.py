"""The assets of a project."""

from mp_pipeline.assets.events import events_asset
from mp_pipeline.assets.snapshots import SnapshotKind, snapshot_asset, snapshot_kinds

__all__ = ["SnapshotKind", "events_asset", "snapshot_asset", "snapshot_kinds"]

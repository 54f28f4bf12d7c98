"""The assets of a project."""

from mp_pipeline.assets.events import events_asset
from mp_pipeline.assets.metrics import metric_assets
from mp_pipeline.assets.snapshots import SnapshotKind, snapshot_asset, snapshot_kinds
from mp_pipeline.assets.typed_events import typed_events_asset

__all__ = [
    "SnapshotKind",
    "events_asset",
    "metric_assets",
    "snapshot_asset",
    "snapshot_kinds",
    "typed_events_asset",
]

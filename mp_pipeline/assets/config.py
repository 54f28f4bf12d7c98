"""The run config of the assets, as the launchpad shows it."""

import dagster as dg
from pydantic import Field


class LoadConfig(dg.Config):
    """What a run may be told."""

    allow_shrink: bool = Field(
        default=False,
        description="Replace the existing data even if most of its rows do not come again "
        "(MP_PIPELINE_MIN_KEPT_FRACTION), and reload days that are older than "
        "MIXPANEL_RETENTION_DAYS.",
    )

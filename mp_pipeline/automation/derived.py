"""The sensor that makes typed events, metrics and histories as soon as something is loaded."""

from collections.abc import Sequence

import dagster as dg

from mp_pipeline.project import Project


def derived_sensor(
    project: Project, assets: Sequence[dg.AssetsDefinition]
) -> dg.AutomationConditionSensorDefinition:
    """Return the sensor that materializes what is made of loaded data. It runs by default.

    Args:
        project: The project.
        assets: The assets to materialize.
    """
    return dg.AutomationConditionSensorDefinition(
        name=project.name("after_loading"),
        target=list(assets),
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Types each day as soon as it is loaded or reloaded, and makes its sessions "
        "and metrics (MP_PIPELINE_TYPED_EVENTS, MP_PIPELINE_METRICS).",
    )

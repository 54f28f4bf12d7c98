"""The sensor that types a day as soon as it is loaded."""

import dagster as dg

from mp_pipeline.project import Project


def typing_sensor(
    project: Project, typed_events: dg.AssetsDefinition
) -> dg.AutomationConditionSensorDefinition:
    """Return the sensor that materializes typed events after events. It runs by default.

    Args:
        project: The project.
        typed_events: The asset with the project's typed events.
    """
    return dg.AutomationConditionSensorDefinition(
        name=project.name("typing"),
        target=[typed_events],
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Types each day as soon as it is loaded or reloaded "
        "(MP_PIPELINE_TYPED_EVENTS).",
    )

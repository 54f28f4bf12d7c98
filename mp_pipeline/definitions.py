"""What Dagster loads: the project that the environment configures.

Loading it touches neither the network nor the database.
"""

from mp_pipeline.factory import mixpanel_project
from mp_pipeline.settings import load_settings

defs = mixpanel_project(load_settings())

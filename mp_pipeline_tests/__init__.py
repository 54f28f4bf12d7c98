"""Tests of mp_pipeline, one file a capability."""

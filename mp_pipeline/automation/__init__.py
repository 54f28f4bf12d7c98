"""Automation: deadlines, jobs and schedules, and the sensor that reports failed runs."""

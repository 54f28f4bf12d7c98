"""Runs on many machines: what `deploy/cluster` adds to Dagster's queue, launcher and workers.

`run_queue.py` tags runs with their Mixpanel project, `run_launcher.py` starts them on Celery
workers and notices when a worker is lost, and `worker.py` is the workers' Celery app. The last two
need the extra `cluster`.
"""

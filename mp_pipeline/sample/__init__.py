"""A sample Mixpanel project, served over HTTP on loopback: no credentials, no network.

`SampleServer` behaves like Mixpanel's API (authorization, gzip, paging, rate limits), and fails
like it when a test adds a `Fault`. `events_of_day` and `profiles_as_of` give the data behind it.
On the command line: `python -m mp_pipeline.sample`.
"""

from mp_pipeline.sample.data import events_of_day, profiles_as_of
from mp_pipeline.sample.server import SampleServer

__all__ = ["SampleServer", "events_of_day", "profiles_as_of"]

"""A sample Mixpanel project, served over HTTP on loopback. It needs no credentials and no network.

`SampleServer` behaves like Mixpanel's API: authorization, gzip, paging and rate limits.
`events_of_day` and `profiles_as_of` yield the data that it serves. `mp-pipeline sample` runs the
server on the command line.
"""

from typing import TYPE_CHECKING

from mp_pipeline.sample.data import events_of_day, profiles_as_of

if TYPE_CHECKING:
    from mp_pipeline.sample.server import SampleServer
else:

    def __getattr__(name: str) -> type:
        # Imports the server when it is first used (PEP 562), to keep `mp-pipeline --help` fast.
        if name == "SampleServer":
            from mp_pipeline.sample.server import SampleServer

            return SampleServer
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["SampleServer", "events_of_day", "profiles_as_of"]

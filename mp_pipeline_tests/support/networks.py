"""Network namespaces: machines with addresses of their own, which reach this one over a bridge.

They need Linux, root, and the command ``ip``.
"""

import os
import shutil
import subprocess
from contextlib import ExitStack
from typing import Self

from mp_pipeline_tests.support.waiting import PATIENCE


class Network:
    """A bridge of this machine, and namespaces on it. All are gone when its block ends.

    Example:
        >>> with Network() as network:
        ...     prefix = network.add("host1")
        ...     subprocess.check_output([*prefix, "ip", "-brief", "address", "show", "dev", "eth0"])
    """

    host = "10.77.0.1"
    """The address of this machine, as the namespaces see it."""

    @staticmethod
    def is_possible() -> bool:
        """Return whether this user on this machine can create namespaces."""
        return os.geteuid() == 0 and shutil.which("ip") is not None

    def __enter__(self) -> Self:
        self._ends = ExitStack()
        self._bridge = f"mp{os.getpid()}"
        self._members = 0
        _ip(f"link add {self._bridge} type bridge")
        self._ends.callback(_ip, f"link delete {self._bridge}")
        _ip(f"address add {self.host}/24 dev {self._bridge}")
        _ip(f"link set {self._bridge} up")
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.close()

    def add(self, name: str) -> list[str]:
        """Add a namespace, and return the beginning of all commands that run in it."""
        self._members += 1
        namespace, here = f"{self._bridge}-{name}", f"{self._bridge}v{self._members}"
        _ip(f"netns add {namespace}")
        self._ends.callback(_ip, f"netns delete {namespace}")
        _ip(f"link add {here} master {self._bridge} type veth peer eth0 netns {namespace}")
        _ip(f"link set {here} up")
        address = self.host.removesuffix("1") + str(1 + self._members)
        _ip(f"-n {namespace} address add {address}/24 dev eth0")
        _ip(f"-n {namespace} link set eth0 up")
        _ip(f"-n {namespace} link set lo up")
        return ["ip", "netns", "exec", namespace]


def _ip(arguments: str) -> None:
    subprocess.run(["ip", *arguments.split()], check=True, timeout=PATIENCE)

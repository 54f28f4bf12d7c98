"""An HTTP server that leaves no thread and no socket behind when it stops."""

import contextlib
import socket
import sys
import threading
from collections.abc import Callable
from http.server import ThreadingHTTPServer
from socketserver import BaseRequestHandler
from typing import Any, TypeAlias

# socketserver calls this a request; for a TCP server, it is always a socket.
_Connection: TypeAlias = Any


class HTTPServer(ThreadingHTTPServer):
    """A threading HTTP server that keeps track of its connections, to close them when it stops.

    Args:
        address: The host and the port to listen on.
        handler: Called for each connection, to answer its requests.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self, address: tuple[str, int], handler: Callable[..., BaseRequestHandler]
    ) -> None:
        self._connections: dict[socket.socket, threading.Thread] = {}
        self._lock = threading.Lock()
        super().__init__(address, handler)

    def process_request(self, request: _Connection, client_address: object) -> None:
        """Answer the requests of a connection in a thread of its own."""
        thread = threading.Thread(
            target=self.process_request_thread,
            args=(request, client_address),
            name="sample-connection",
            daemon=True,
        )
        with self._lock:
            self._connections[request] = thread
        thread.start()

    def shutdown_request(self, request: _Connection) -> None:
        """Close a connection."""
        with self._lock:
            self._connections.pop(request, None)
            super().shutdown_request(request)

    def close_connections(self) -> None:
        """Close every connection and wait until every thread has ended."""
        with self._lock:
            threads = list(self._connections.values())
            for connection in self._connections:
                with contextlib.suppress(OSError):  # the client may have closed it already
                    connection.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()

    def handle_error(self, request: _Connection, client_address: object) -> None:
        """Print the traceback of an error, unless the client closed the connection."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

"""
The steps that a request goes through, and the hooks for trouble on the way.

These are the defaults of everything that says what happens to a request; when
it happens is the loop's business, in `base`.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from protoserve.rarelog import RareLog
from protoserve.server._reporting import logger

__all__ = ["HandlerFactory", "RequestSteps"]

HandlerFactory: TypeAlias = Callable[[Any, Any, Any], object]
"""Called with the request, the client's address and the server."""


class RequestSteps:
    """
    What may be overridden in a server.

    Args:
        server_address: where to serve, in the form of the address family.
        RequestHandlerClass: makes a handler for each request.
    """

    error_stream: str = "stdout"
    """Where `handle_error` prints: ``"stdout"`` or ``"stderr"``."""

    server_address: Any
    """The address on which the server listens, in the form of its family."""

    RequestHandlerClass: HandlerFactory
    """An instance of it is made for every request."""

    def __init__(
        self, server_address: Any, RequestHandlerClass: HandlerFactory
    ) -> None:
        self.server_address = server_address
        self.RequestHandlerClass = RequestHandlerClass
        self._loop_rare_log = RareLog(logger)

    if TYPE_CHECKING:
        # Not there at run time, where it would hide that of a class that
        # comes later in the method resolution order.
        def get_request(self) -> tuple[Any, Any]: ...

    def verify_request(
        self,
        request: Any,  # noqa: ARG002 - for overrides
        client_address: Any,  # noqa: ARG002 - for overrides
    ) -> bool:
        """
        Say whether a request is to be handled; if not, it is closed.
        """
        return True

    def process_request(self, request: Any, client_address: Any) -> None:
        """
        Run `finish_request` and close the request; mix-ins do so elsewhere.
        """
        self.finish_request(request, client_address)
        self.shutdown_request(request)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """
        Really handle the request: make an instance of `RequestHandlerClass`.
        """
        self.RequestHandlerClass(request, client_address, self)

    def shutdown_request(self, request: Any) -> None:
        """
        Say good-bye to the client, and close the request.
        """
        self.close_request(request)

    def close_request(self, request: Any) -> None:
        """
        Release what the request holds.
        """

    def service_actions(self) -> None:
        """
        Do what is due once in each turn of the loop; nothing by default.
        """

    def handle_timeout(self) -> None:
        """
        Called by `handle_request` when no request came in time.
        """

    def handle_error(
        self,
        request: Any,  # noqa: ARG002 - for overrides
        client_address: Any,
    ) -> None:
        """
        Print the traceback of the exception at hand; the server goes on.

        Called when handling a request raised. The stream is looked up anew
        each time, by the name in `error_stream`.
        """
        rule = "-" * 40
        text = (
            f"{rule}\nThe request from {client_address} failed:\n"
            f"{traceback.format_exc()}{rule}\n"
        )
        # No stream, a closed one or a broken pipe must not end the server.
        with contextlib.suppress(AttributeError, OSError, ValueError):
            stream = getattr(sys, self.error_stream)
            stream.write(text)
            stream.flush()

    def handle_disconnect(
        self,
        request: Any,  # noqa: ARG002 - for overrides
        client_address: Any,
    ) -> None:
        """
        Called in place of `handle_error` when the peer merely went away.

        That is: handling the request met a reset, an aborted connection or a
        broken pipe.
        """
        logger.debug("%s went away: %s", client_address, sys.exc_info()[1])

    def handle_accept_error(self, error: OSError) -> None:
        """
        Called when a request could not be taken for want of a resource.

        The resources are descriptors, buffers and memory. Nothing is accepted
        for a moment after it; the clients wait in the kernel's queue.
        """
        self._loop_rare_log.log(
            logging.ERROR,
            "cannot accept at %s, trying again shortly: %s",
            self.server_address,
            error,
        )

"""uvicorn as page and API run it: bounded connections, and an end that nothing holds up."""

import logging
import signal
import socket
import threading
from collections.abc import Sequence
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from vicuna.errors import end_at_once
from vicuna.serving.connections import Connections

OPEN_TABS_S = 1  # that answers on their way have after a signal; open tabs never end by themselves
MOST_S = 4  # after which the program ends, whatever still runs
BACKLOG = 128  # connections that wait to be let in


class Server(uvicorn.Server):
    """Ends within MOST_S of a signal.

    Threads can not be ended, and both the event loop and the interpreter wait for theirs.
    """

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end."""
        if not self.should_exit:
            timer = threading.Timer(MOST_S, end_at_once, [sig])
            timer.daemon = True
            timer.start()
            if hasattr(signal, "setitimer"):  # for a call that lets no other thread run; a signal's default needs none
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
                signal.setitimer(signal.ITIMER_REAL, MOST_S + 0.5)
        super().handle_exit(sig, frame)


def make_server(app: ASGIApp, connections: Connections | None = None) -> Server:
    """A server of an application, with its connections bounded."""
    connections = Connections() if connections is None else connections
    return Server(
        uvicorn.Config(
            connections.watch(app),
            http=connections.protocol(),
            ws="none",
            log_level=logging.ERROR,  # else every request that is none leaves a line
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=OPEN_TABS_S,
            backlog=BACKLOG,
        )
    )


def run(app: ASGIApp, sockets: Sequence[socket.socket], connections: Connections | None = None) -> None:
    """Serve until a signal comes."""
    make_server(app, connections).run(sockets=list(sockets))

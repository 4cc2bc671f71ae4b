"""How many connections there may be, and how long each may take: for a head, for a body, to read an answer.

uvicorn closes a connection only some time after an answer. One that never asks anything, or asks a byte at a time, it
keeps for ever; and once there are no more file descriptors, nobody is let in. Here the connections of an address, and
all of them, are bounded below that: at a bound, the one of whoever has most that has been waited for the longest makes
room for the new one.
"""

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from ipaddress import ip_address, ip_network
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from vicuna.log import log

SWEEP_S = 1.0
MOST = 1000  # connections, whatever the system allows
RESERVE = 64  # file descriptors for all else that is opened while the server runs
LINE_S = 60  # between two lines of the log that say the same
STATE = "connection"  # where a request's scope has its `Connection`, beside what the application keeps there
_FULL = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@dataclass(frozen=True)
class Limits:
    """What connections may be and do.

    Attributes:
        total, each: connections, all and of one address.
        head_s: from the connection, or the answer before, to the end of a request's head.
        body_s: for a request's body; more of it may take longer, at `rate` bytes a second.
        read_s: in which who gets an answer must read some of it.
    """

    total: int = MOST
    each: int = MOST // 2
    head_s: float = 20
    body_s: float = 60
    rate: int = 4096
    read_s: float = 60


def system_limits() -> Limits:
    """As many connections as this process may have files open; it asks for more where it may."""
    try:
        import resource
    except ImportError:  # there is no such limit
        return Limits()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST + 2 * RESERVE
    if soft != resource.RLIM_INFINITY and soft < wanted:
        more = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (more, hard))
            soft = more
    unlimited = soft == resource.RLIM_INFINITY
    total = MOST if unlimited else max(8, min(MOST, soft - _open_files() - RESERVE))
    return Limits(total, total // 2)


def _open_files() -> int:
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:
        return RESERVE


class Phase(IntEnum):
    """What is waited for: a request's head, its body, its answer."""

    HEAD, BODY, ANSWER = range(3)


@dataclass(eq=False)
class Connection:
    """A connection, and what it is in.

    Attributes:
        since: when the phase began.
        received: bytes since the answer before.
        taken, taken_at: most bytes of answers that had left for the client, and since when it is so many.
    """

    transport: Any
    address: str
    since: float
    phase: Phase = Phase.HEAD
    received: int = 0
    sent: int = 0
    taken: int = 0
    taken_at: float = 0.0

    def is_late(self, now: float, limits: Limits) -> bool:
        """Whether it takes longer than it may."""
        if waiting := self.transport.get_write_buffer_size():
            if self.sent - waiting > self.taken or not self.taken_at:
                self.taken, self.taken_at = self.sent - waiting, now
            elif now - self.taken_at > limits.read_s:
                return True
        else:
            self.taken, self.taken_at = self.sent, 0.0
        if self.phase is Phase.HEAD:
            return not waiting and now - self.since > limits.head_s
        return self.phase is Phase.BODY and now - self.since > limits.body_s + self.received / limits.rate


@dataclass
class Seldom:
    """Lines of the log that would come too often: each at once, and then once every LINE_S, with how often it was."""

    clock: Callable[[], float] = time.monotonic
    said: dict[str, float] = field(default_factory=dict)
    unsaid: dict[str, int] = field(default_factory=dict)

    def say(self, text: str) -> None:
        """Write a line, or count it."""
        now, count = self.clock(), self.unsaid.get(text, 0) + 1
        if now - self.said.get(text, -LINE_S) < LINE_S:
            self.unsaid[text] = count
            return
        self.said[text], self.unsaid[text] = now, 0
        log.warning("WARNING %s%s.", text, f" ({count} times since this was last said)" if count > 1 else "")


class Connections:
    """Those of a server.

    Args:
        shared: addresses and networks that many come from, such as a proxy's: only the total holds for them.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        shared: Sequence[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ):
        self.limits, self.clock, self.seldom = limits or system_limits(), clock, Seldom(clock)
        self._shared = [ip_network(one, strict=False) for one in shared]
        self._of: dict[str, dict[Connection, None]] = {}  # by address, in the order in which they came
        self._needs_room = False

    def __len__(self) -> int:
        return sum(map(len, self._of.values()))

    def __iter__(self) -> Iterator[Connection]:
        return iter([one for mine in list(self._of.values()) for one in list(mine)])

    def begin(self, transport: Any) -> Connection | None:
        """A new connection, for which another may have to end; None where there is no room."""
        peer = transport.get_extra_info("peername")
        address = network_of(peer[0]) if isinstance(peer, tuple) else ""
        mine = self._of.get(address, {})
        if len(mine) >= self.limits.each and not self._is_shared(address):
            self.seldom.say(f"an address has {self.limits.each} connections, the most that one may have")
            if not self._end_one(mine, until=Phase.BODY):
                return None
        if len(self) >= self.limits.total and not self.make_room(len(mine)):
            return None
        connection = Connection(transport, address, self.clock())
        self._of.setdefault(address, {})[connection] = None
        return connection

    def end(self, connection: Connection) -> None:
        """It is closed."""
        mine = self._of.get(connection.address, {})
        mine.pop(connection, None)
        if not mine:
            self._of.pop(connection.address, None)

    def make_room(self, count: int = 0) -> bool:
        """End a connection of the address with most, for one that has `count`; False where that would not be fair."""
        self.seldom.say(f"there are {len(self)} connections, and no room for more")
        most = max(self._of.values(), key=len, default={})
        return self._end_one(most, until=Phase.ANSWER if len(most) > count + 1 else Phase.BODY)

    def _end_one(self, connections: dict[Connection, None], until: Phase) -> bool:
        """End the one that has been waited for the longest, first of those without a whole head."""
        ending = [one for one in connections if one.phase <= until]
        if not ending:
            return False
        self._abort(min(ending, key=lambda one: (one.phase, one.since)))
        return True

    def sweep(self) -> None:
        """End those that take longer than they may."""
        now = self.clock()
        if self._needs_room:
            self._needs_room = False
            self.make_room()
        for one in self:
            if one.is_late(now, self.limits):
                self._abort(one)

    def _abort(self, connection: Connection) -> None:
        connection.transport.abort()
        self.end(connection)

    def _is_shared(self, address: str) -> bool:
        with contextlib.suppress(ValueError):
            found = ip_address(address)
            return any(found in network for network in self._shared)
        return False

    def protocol(self) -> type[asyncio.Protocol]:
        """What uvicorn is to speak HTTP with."""
        connections = self

        class BoundedProtocol(H11Protocol):
            def __init__(self, *args: Any, app_state: dict[str, Any], **more: Any):
                self.connection: Connection | None = None
                self.given = dict(app_state)
                super().__init__(*args, app_state=self.given, **more)

            def connection_made(self, transport: Any) -> None:
                super().connection_made(transport)
                self.connection = connections.begin(transport)
                if self.connection is None:
                    transport.write(_FULL)
                    transport.close()
                    return
                self.given[STATE] = self.connection
                _notice_who_is_gone(transport.get_extra_info("socket"), connections.limits)

            def data_received(self, data: bytes) -> None:
                if self.connection:
                    self.connection.received += len(data)
                    super().data_received(data)

            def connection_lost(self, exc: Exception | None) -> None:
                if self.connection:
                    connections.end(self.connection)
                super().connection_lost(exc)

        return BoundedProtocol

    def watch(self, app: ASGIApp) -> ASGIApp:
        """`app`, whose requests tell their connection what they are in."""

        async def watching(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "lifespan":
                await self._watch_lifespan(app, scope, receive, send)
                return
            connection = scope.get("state", {}).get(STATE)
            if connection is None:
                await app(scope, receive, send)
                return
            await self._watch_request(connection, app, scope, receive, send)

        return watching

    async def _watch_request(
        self, connection: Connection, app: ASGIApp, scope: Scope, receive: Receive, send: Send
    ) -> None:
        def enter(phase: Phase) -> None:
            connection.phase, connection.since = phase, self.clock()

        async def receiving() -> Message:
            message = await receive()
            if connection.phase is Phase.BODY and not message.get("more_body", False):
                enter(Phase.ANSWER)
            return message

        async def sending(message: Message) -> None:
            connection.sent += len(message.get("body", b""))
            await send(message)

        has_body = any(name in (b"content-length", b"transfer-encoding") for name, _ in scope["headers"])
        enter(Phase.BODY if has_body else Phase.ANSWER)
        try:
            await app(scope, receiving, sending)
        finally:
            connection.received = 0
            enter(Phase.HEAD)

    async def _watch_lifespan(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        asyncio.get_running_loop().set_exception_handler(self._on_error)
        sweeping = asyncio.create_task(self._sweep_on())
        try:
            await app(scope, receive, send)
        finally:
            sweeping.cancel()

    async def _sweep_on(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            self.sweep()

    def _on_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """What the event loop can not do: let somebody in, once the files that may be open are."""
        error = context.get("exception")
        if isinstance(error, OSError) and "accept" in context.get("message", ""):
            self.seldom.say(f"a connection can not be let in ({error.strerror})")
            self._needs_room = True  # by the next sweep: a loop that can not let in says so many times
            return
        loop.default_exception_handler(context)


def network_of(address: str) -> str:
    """What counts as one address: of IPv6 the part that a household is given."""
    try:
        ip = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if ip.version == 6 and not ip.ipv4_mapped:
        return str(ip_network((int(ip), 64), strict=False))
    return str(ip if ip.version == 4 else ip.ipv4_mapped)


def _notice_who_is_gone(connected: Any, limits: Limits) -> None:
    """Have the system end a connection whose other end does not answer any more."""
    milliseconds = int(1000 * limits.read_s)
    with contextlib.suppress(OSError):
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)

"""A server of its own process, which may have FILES open, or as many as any for 0: serve_small FILES."""

import asyncio
import os
import resource
import socket
import sys
import threading
import time

import anyio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from vicuna.errors import run
from vicuna.serving import server

hoarded: list[int] = []
asleep = threading.Semaphore(0)


def sleep() -> None:
    asleep.release()
    time.sleep(1000)


async def work(request: Request) -> PlainTextResponse:
    """Work in threads of each kind, none of which ends; answered once all are at it."""
    for _ in range(2):
        request.app.state.tasks.append(asyncio.create_task(anyio.to_thread.run_sync(sleep)))
        request.app.state.tasks.append(asyncio.create_task(asyncio.to_thread(sleep)))
    threading.Thread(target=sleep).start()
    for _ in range(5):
        while not asleep.acquire(blocking=False):
            await asyncio.sleep(0.01)
    return PlainTextResponse("at work")


async def hoard(request: Request) -> PlainTextResponse:
    """Open all files that may be."""
    try:
        while True:
            hoarded.append(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        return PlainTextResponse(error.strerror)


async def release(request: Request) -> PlainTextResponse:
    """Close them."""
    while hoarded:
        os.close(hoarded.pop())
    return PlainTextResponse("released")


def main() -> None:
    app = Starlette(routes=[Route(f"/{one.__name__}", one) for one in (work, hoard, release)])
    app.state.tasks = []
    if files := int(sys.argv[1]):
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    listening = socket.create_server(("127.0.0.1", 0))
    print(listening.getsockname()[1], flush=True)
    server.run(app, [listening])


if __name__ == "__main__":
    run(main)

"""Many clients of the API at once: nobody gets another's answer, an error, or more than a fair wait.

    python benchmarks/soak_api.py --model_path models/tiny-llama-zh --bits 32
    python benchmarks/soak_api.py --url http://127.0.0.1:7860 --server_pid 4711   # a server that runs already

Each client asks its own question alone first, greedily. Then all ask at once, each again and again, every second time
as a stream, and each must get exactly what it got alone; then once more while others hold connections that ask nothing,
or send a byte a second. Prints a table for benchmarks/RESULTS.md, without and with those. Exit status 1 if an answer
differs or fails, if the server's resident memory grows more than 10 % beyond what it was after the warm-up, if the
longest wait is more than twice the median, or if others got two answers each while somebody waited for one.
"""

import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import TypeVar
from urllib.parse import urlsplit

import psutil
from openai import AsyncOpenAI, OpenAIError
from provenance import commit  # benchmarks/provenance.py

from vicuna.answer.flags import ChatFlags, DecodingFlags, ServeFlags
from vicuna.args import flag, parse
from vicuna.errors import UserError, run
from vicuna.files.proxies import without_proxies
from vicuna.model.flags import ModelFlags

Result = TypeVar("Result")

QUESTIONS = (
    "春天的花有哪些？",
    "给我讲讲羊驼。",
    "What is a llama?",
    "写一句关于雨的话。",
    "1+1=?",
    "月亮为什么会变圆？",
)
MOST_GROWTH, MOST_WAIT, MOST_BEFORE = 1.1, 2.0, 2
START_S = 300
MIB = 1 << 20


@dataclass
class SoakFlags:
    """How many, and how long."""

    clients: int = flag(20, "clients at once")
    seconds: float = flag(60, "time that they go on asking")
    max_tokens: int = flag(16, "longest answer in tokens")
    idle: int = flag(100, "connections beside them that never ask anything")
    slow: int = flag(50, "connections beside them that send a byte a second: half of a head, half of a body")
    url: str = flag("", "a server that runs already; empty: one is started")
    server_pid: int | None = flag(None, "its process, for its memory")
    model: str = flag("", "name of the model to ask; empty: the first")
    serve_fd: int | None = flag(None, "used by the program itself: be the server, on this open socket")

    def __post_init__(self) -> None:
        if self.clients < 1 or self.seconds <= 0:
            raise UserError("--clients and --seconds must be above 0.")


@dataclass(frozen=True)
class SoakResult:
    """What came of it; waits from a request to its complete answer, memory resident.

    Attributes:
        beside: connections that asked nothing, or slowly.
        reopened: of these, how often one had to be opened anew because the server had ended it.
        most_before: answers that others got between a request and its own, at most.
    """

    clients: int
    seconds: float
    requests: int
    errors: list[str]
    differing: list[str]
    median_wait_s: float
    longest_wait_s: float
    most_before: int
    warm_mib: float
    peak_mib: float
    beside: int = 0
    reopened: int = 0

    @property
    def problems(self) -> list[str]:
        """What is not as it has to be."""
        found = [f"{len(self.errors)} errors, the first: {self.errors[0]}"] if self.errors else []
        if self.differing:
            found.append(f"{len(self.differing)} answers differ from the solo ones, the first: {self.differing[0]}")
        if self.peak_mib > MOST_GROWTH * self.warm_mib:
            found.append(f"memory grew from {self.warm_mib:.0f} to {self.peak_mib:.0f} MiB")
        if self.longest_wait_s > MOST_WAIT * self.median_wait_s:
            found.append(f"the longest wait is {self.longest_wait_s:.2f} s, the median {self.median_wait_s:.2f} s")
        if self.most_before > MOST_BEFORE * self.clients:
            found.append(f"{self.most_before} answers of others came before one, of {self.clients} clients")
        return found


def main(soak: SoakFlags, model: ModelFlags) -> None:
    """Ask, and print what came of it."""
    if soak.serve_fd is not None:
        serve(model, soak.serve_fd)
        return
    if soak.url:
        found = asyncio.run(soak_twice(soak, soak.url, soak.server_pid))
    else:
        found = with_server(model, lambda url, pid: asyncio.run(soak_twice(soak, url, pid)))
    print(table(*found))
    if problems := [problem for one in found for problem in one.problems]:
        raise UserError("; ".join(problems) + ".")


def serve(model: ModelFlags, fd: int) -> None:
    """Be a server of the routes alone, on an open socket."""
    from fastapi import FastAPI

    from vicuna.answer.loading import load_assistant
    from vicuna.api.routes import add_routes
    from vicuna.doors.door import Door
    from vicuna.serving.server import run as run_server

    app, flags, chat = FastAPI(), ServeFlags(), ChatFlags(api=True)
    add_routes(app, load_assistant(model, flags), chat, Door(flags, chat), DecodingFlags(preset="balanced"))
    run_server(app, [socket.socket(fileno=fd)])


def with_server(model: ModelFlags, use: Callable[[str, int], Result]) -> Result:
    """Start a server, use it, end it."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port, fd = listening.getsockname()[1], listening.fileno()
        argv = [sys.executable, __file__, "--serve_fd", fd, "--model_path", model.model_path, "--bits", model.bits]
        server = subprocess.Popen(list(map(str, argv)), pass_fds=[fd])
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until_it_answers(url, server)
        return use(url, server.pid)
    finally:
        server.terminate()
        server.wait(30)


def wait_until_it_answers(url: str, server: subprocess.Popen) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise UserError(f"the server ended with status {server.returncode} before it answered.")
        try:
            urllib.request.urlopen(f"{url}/v1/models", timeout=5)
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise UserError(f"the server did not answer within {START_S} seconds.")


def question(client: int) -> str:
    """A client's own question."""
    return f"{client}. {QUESTIONS[client % len(QUESTIONS)]}"


async def ask(api: AsyncOpenAI, soak: SoakFlags, model: str, client: int, stream: bool) -> str:
    """One answer, with the reason for its end."""
    fields = {
        "model": model, "messages": [{"role": "user", "content": question(client)}], "temperature": 0,
        "max_tokens": soak.max_tokens,
    }  # fmt: skip
    if not stream:
        choice = (await api.chat.completions.create(**fields)).choices[0]
        return f"{choice.message.content}|{choice.finish_reason}"
    text, finish = "", None
    async for chunk in await api.chat.completions.create(**fields, stream=True):
        text += chunk.choices[0].delta.content or ""
        finish = chunk.choices[0].finish_reason or finish
    return f"{text}|{finish}"


class Beside:
    """Connections that ask nothing or slowly, opened anew when the server ends them.

    Attributes:
        reopened: how often one was.
    """

    def __init__(self, soak: SoakFlags, url: str):
        self.soak, self.reopened = soak, 0
        self.host, self.port = urlsplit(url).hostname, urlsplit(url).port
        self._tasks: list[asyncio.Task] = []

    async def __aenter__(self) -> "Beside":
        half = self.soak.slow // 2
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        begins = [b""] * self.soak.idle + [head] * half
        begins += [head + b"Content-Length: 100000\r\n\r\n"] * (self.soak.slow - half)
        open_now = asyncio.Semaphore(0)
        self._tasks = [asyncio.create_task(self._hold(begin, open_now)) for begin in begins]
        for _ in begins:
            await open_now.acquire()
        return self

    async def __aexit__(self, *raised: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _hold(self, begin: bytes, open_now: asyncio.Semaphore) -> None:
        while True:
            writer = None
            try:
                reader, writer = await asyncio.open_connection(self.host, self.port)
                writer.write(begin)
                open_now.release()
                ended = asyncio.create_task(reader.read())
                while not (await asyncio.wait([ended], timeout=1))[0]:
                    writer.write(b"a" if begin else b"")
                await ended
            except OSError:
                await asyncio.sleep(1)
            finally:
                if writer:
                    writer.close()
            self.reopened += 1


async def soak_twice(soak: SoakFlags, url: str, pid: int | None) -> list[SoakResult]:
    """What comes of it without connections beside, and with them."""
    found = [await ask_all(soak, url, pid)]
    if soak.idle + soak.slow:
        async with Beside(soak, url) as beside:
            with_them = await ask_all(soak, url, pid)
        found.append(replace(with_them, beside=soak.idle + soak.slow, reopened=beside.reopened))
    return found


async def ask_all(soak: SoakFlags, url: str, pid: int | None) -> SoakResult:
    """The solo answers, a warm-up with all clients, and then the measured time."""
    process = psutil.Process(pid) if pid else None
    key = os.environ.get("VICUNA_API_KEY") or "none"
    apis = [AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=300) for _ in range(soak.clients)]
    model = soak.model or (await apis[0].models.list()).data[0].id
    solo = [await ask(api, soak, model, i, stream=False) for i, api in enumerate(apis)]
    errors: list[str] = []
    differing: list[str] = []
    waits: list[float] = []
    before: list[int] = []
    ended = 0
    peak = 0.0

    async def client(i: int, until: float) -> None:
        nonlocal ended
        stream = bool(i % 2)
        while time.perf_counter() < until:
            begin, ended_then = time.perf_counter(), ended
            try:
                answer = await ask(apis[i], soak, model, i, stream)
            except OpenAIError as error:
                errors.append(f"client {i}: {error}")
                continue
            waits.append(time.perf_counter() - begin)
            before.append(ended - ended_then)
            ended += 1
            if answer != solo[i]:
                differing.append(f"client {i}: {answer!r} instead of {solo[i]!r}")
            stream = not stream

    async def watch(until: float) -> None:
        nonlocal peak
        while process and time.perf_counter() < until:
            peak = max(peak, process.memory_info().rss / MIB)
            await asyncio.sleep(0.1)

    async def together(seconds: float) -> None:
        until = time.perf_counter() + seconds
        await asyncio.gather(watch(until), *(client(i, until) for i in range(soak.clients)))

    await together(min(5.0, soak.seconds / 4))
    warm, peak = (process.memory_info().rss / MIB if process else 0.0), 0.0
    waits.clear()
    before.clear()
    begin = time.perf_counter()
    await together(soak.seconds)
    seconds = time.perf_counter() - begin
    for api in apis:
        await api.close()
    return SoakResult(
        soak.clients, seconds, len(waits), errors, differing, statistics.median(waits or [0]), max(waits, default=0),
        max(before, default=0), warm, peak,
    )  # fmt: skip


def table(*results: SoakResult) -> str:
    """The figures for benchmarks/RESULTS.md, a row for each result, and once more as JSON."""
    rows = [cells_of(found) for found in results]
    lines = ["| " + " | ".join(rows[0]) + " |", "|---" * len(rows[0]) + "|"]
    lines += ["| " + " | ".join(map(str, cells.values())) + " |" for cells in rows]
    return "\n".join([*lines, *(json.dumps(asdict(found), ensure_ascii=False) for found in results)])


def cells_of(found: SoakResult) -> dict[str, object]:
    """A row of the table."""
    return {
        "clients": found.clients,
        "idle and slow beside": found.beside,
        "seconds": f"{found.seconds:.0f}",
        "requests": found.requests,
        "errors": len(found.errors),
        "differing answers": len(found.differing),
        "median wait, s": f"{found.median_wait_s:.2f}",
        "longest wait, s": f"{found.longest_wait_s:.2f}",
        "most answers before one": found.most_before,
        "memory after warm-up, MiB": f"{found.warm_mib:.0f}",
        "largest, MiB": f"{found.peak_mib:.0f}",
        "commit": commit(),
        "date": datetime.now(UTC).date(),
    }


if __name__ == "__main__":
    with without_proxies():  # the server is asked, and nobody between
        run(lambda: main(*parse(__doc__, SoakFlags, ModelFlags, bits=32)))

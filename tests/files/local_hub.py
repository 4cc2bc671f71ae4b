"""A hub on this machine for the tests: one model from a folder, as huggingface_hub asks for it, with Range."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "c" * 40
NAME = "someone/tiny"
LARGE = (".safetensors", ".bin")  # kept by their SHA-256, the others by git's SHA-1


class Hub:
    """What the server has, what it was asked for, and what it is to do wrong.

    Attributes:
        asked: (path, first byte) of every file that was asked for.
        breaks: the next download of this file ends in its middle, once.
        refuses: this file is answered with status 403.
        gated: whether every file is answered as one of a model whose licence was not accepted.
        claims: bytes that it says a large file has, 0 for what it has.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.asked: list[tuple[str, int]] = []
        self.breaks = self.refuses = ""
        self.claims, self.gated = 0, False
        self.url = ""

    def files(self) -> list[Path]:
        return sorted(path for path in self.folder.rglob("*") if path.is_file())

    def facts(self, path: Path) -> dict:
        """A file as the listing has it."""
        content = path.read_bytes()
        oid = hashlib.sha1(b"blob %d\0%b" % (len(content), content)).hexdigest()
        facts = {"type": "file", "path": path.relative_to(self.folder).as_posix(), "size": len(content), "oid": oid}
        if path.suffix in LARGE:
            facts["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
        return facts


class Handler(BaseHTTPRequestHandler):
    """Answers the four questions that a download asks."""

    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Nothing: the tests read `asked`."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        if path.startswith(f"/api/models/{NAME}/tree/"):
            self.answer(json.dumps([self.hub.facts(file) for file in self.hub.files()]).encode())
        elif re.fullmatch(rf"/api/models/{NAME}(/revision/(main|{COMMIT}))?", path):
            self.answer(json.dumps({"id": NAME, "sha": COMMIT, "siblings": []}).encode())
        elif path.startswith(f"/{NAME}/resolve/"):
            self.file(path.split("/", 5)[5])
        else:
            self.answer(b"{}", 404, {"X-Error-Code": "RepoNotFound"})

    def file(self, name: str) -> None:
        file = self.hub.folder / name
        facts = self.hub.facts(file)
        if self.hub.gated:
            self.answer(b"", 401, {"X-Error-Code": "GatedRepo"})
            return
        headers = {"ETag": f'"{facts.get("lfs", facts)["oid"]}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if self.command == "HEAD":
            if "lfs" in facts:
                headers["X-Linked-Size"] = str(self.hub.claims or facts["size"])
            self.answer(file.read_bytes(), 200, headers)
            return
        start = int(match[1]) if (match := re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))) else 0
        self.hub.asked.append((name, start))
        if name == self.hub.refuses:
            self.answer(b"", 403)
            return
        content = file.read_bytes()[start:]
        if start:
            headers["Content-Range"] = f"bytes {start}-{facts['size'] - 1}/{facts['size']}"
        cut = len(content) // 2 if name == self.hub.breaks else None
        if cut:
            self.hub.breaks = ""
        self.answer(content, 206 if start else 200, headers, cut)

    def answer(self, body: bytes, status: int = 200, headers: dict | None = None, cut: int | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **(headers or {})}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:cut])
        self.close_connection = cut is not None


@contextmanager
def hub_of(folder: Path) -> Iterator[Hub]:
    """Serve a folder as the model someone/tiny, on a port of this machine."""
    hub = Hub(folder)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield hub
    server.shutdown()
    server.server_close()

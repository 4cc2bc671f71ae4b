"""A reverse proxy with TLS in front of a server, as small as one can be: it says who asks, and nothing else changes."""

import contextlib
import socket
import socketserver
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path


class _Connection(socketserver.BaseRequestHandler):
    """One request; a browser opens another connection for the next."""

    def handle(self) -> None:
        # A browser opens connections to have them, and leaves answers that it no longer wants.
        with contextlib.suppress(OSError), self.server.tls.wrap_socket(self.request, server_side=True) as browser:
            asked = b""
            while b"\r\n\r\n" not in asked and (part := browser.recv(65536)):
                asked += part
            head, _, body = asked.partition(b"\r\n\r\n")
            line, *headers = head.split(b"\r\n")
            length = next((int(one[15:]) for one in headers if one.lower().startswith(b"content-length:")), 0)
            while len(body) < length and (part := browser.recv(65536)):
                body += part
            if asked:
                self.pass_on([line, *headers], body, browser)

    def pass_on(self, head: list[bytes], body: bytes, browser: ssl.SSLSocket) -> None:
        kept = [one for one in head if not one.lower().startswith((b"connection:", b"x-forwarded-"))]
        told = [f"X-Forwarded-For: {self.client_address[0]}".encode(), b"X-Forwarded-Proto: https"]
        with socket.create_connection(("127.0.0.1", self.server.behind)) as server:
            server.sendall(b"\r\n".join([*kept, *told, b"Connection: close", b"", b""]) + body)
            while part := server.recv(65536):
                browser.sendall(part)


class _Proxy(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128


@contextlib.contextmanager
def tls_proxy(port: int, folder: Path) -> Iterator[int]:
    """Where the proxy listens, with a certificate of its own making, for the server at `port`."""
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    made = ["openssl", "req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    subprocess.run(
        [*made, "-subj", "/CN=pages.localhost", "-keyout", key, "-out", certificate], check=True, capture_output=True
    )
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    with _Proxy(("127.0.0.1", 0), _Connection) as proxy:
        proxy.tls, proxy.behind = tls, port
        thread = threading.Thread(target=proxy.serve_forever, daemon=True)
        thread.start()
        yield proxy.server_address[1]
        proxy.shutdown()
        thread.join()

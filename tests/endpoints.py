"""An endpoint of OpenAI's form that answers as a test tells it, on this machine."""

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Endpoint:
    """An endpoint that answers call after call as it is told: (status, body) or a text as a model's reply.

    Attributes:
        always: told of each request's body, what is answered once the answers are used up.
        asked: bodies of the requests. Where nothing is left to answer, a request waits until `released`.
    """

    def __init__(self, *answers: object, always: Callable[[dict], object] | None = None):
        self.answers, self.always, self.asked, self.keys = list(answers), always, [], []
        self.released, lock = threading.Event(), threading.Lock()
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    endpoint.asked.append(body)
                    endpoint.keys.append(self.headers["Authorization"])
                    answer = endpoint.answers.pop(0) if endpoint.answers else None
                    if answer is None and endpoint.always:
                        answer = endpoint.always(body)
                if answer is None:
                    endpoint.released.wait(60)
                    return
                status, text = answer if isinstance(answer, tuple) else (200, completion(answer))
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text.encode())))
                self.send_header("retry-after-ms", "1")
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def close(self) -> None:
        self.released.set()
        self.server.shutdown()
        self.server.server_close()


def completion(text: object, finish_reason: str = "stop") -> str:
    said = text if isinstance(text, str) else json.dumps(text, ensure_ascii=False)
    message = {"role": "assistant", "content": said}
    usage = {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150}
    return json.dumps(
        {"id": "1", "choices": [{"index": 0, "message": message, "finish_reason": finish_reason}], "usage": usage}
    )

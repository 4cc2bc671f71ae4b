"""What the tests of the API and the terminal share: adapters with random weights, and a server in this process."""

import itertools
import json
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import uvicorn
from fastapi import FastAPI
from openai import OpenAI
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from vicuna.answer.assistant import Assistant
from vicuna.answer.flags import ChatFlags, DecodingFlags, ServeFlags
from vicuna.answer.loading import load_assistant
from vicuna.answer.stream import Update
from vicuna.answer.worker import Call, Worker
from vicuna.api.routes import add_routes
from vicuna.doors.door import Door
from vicuna.doors.guesses import Guesses
from vicuna.model.adapter import save_adapter
from vicuna.model.flags import ModelFlags


def make_adapter(base: Path, folder: Path, prompt_type: str, seed: int) -> Path:
    """An adapter that changes what the base says, trained with `prompt_type` by its own word."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base)
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    save_adapter(get_peft_model(model, config), folder)
    (folder / "run_args.json").write_text(json.dumps({"prompt_type": prompt_type}), encoding="utf-8")
    return folder


def make_slow(base: Path, folder: Path, **more: object) -> Path:
    """The base's tokenizer with weights that take some 20 ms a token, and a configuration with this in it."""
    shutil.copytree(base, folder)
    config = LlamaConfig.from_pretrained(folder)
    config.update({"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 8, "head_dim": 128, **more})
    config.initializer_range = 0.1
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def assistant_of(base: Path, *adapters: Path, **serve: object) -> Assistant:
    return load_assistant(
        ModelFlags(model_path=str(base), bits=32), ServeFlags(**serve), [str(path) for path in adapters]
    )


def wait_for(condition: Callable[[], object]) -> None:
    """Return once it holds; an assertion fails where it never does."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@contextmanager
def at_work(worker: Worker, client: str = "somebody") -> Iterator[Call]:
    """The worker is at work for a client, with this call; nothing waits for it any more behind that."""
    begun, over = threading.Event(), threading.Event()
    call = worker.submit(lambda: begun.set() or over.wait(), client)
    begun.wait()  # in the queue only, it would take turns with the test's own calls
    try:
        yield call
    finally:
        over.set()
        wait_for(lambda: not worker.waiting)


def in_step(engine: object) -> tuple[Callable, Callable[[str], None]]:
    """An engine's `stream` that waits at every update for a client to have what was told before, and how to say so."""
    made, changed, received = engine.stream, threading.Condition(), [""]

    def stream(*args: object, **kwargs: object) -> Iterator[Update]:
        told = ""
        for update in made(*args, **kwargs):
            with changed:
                assert changed.wait_for(lambda told=told: received[0] == told, 60)
            yield update
            told = update.text

    def has(piece: str) -> None:
        with changed:
            received[0] += piece
            changed.notify()

    return stream, has


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """The routes, listening on a port of 127.0.0.1."""

    def __init__(
        self, assistant: Assistant, chat: ChatFlags | None = None, serve: ServeFlags | None = None, **decoding: object
    ):
        self.assistant = assistant
        app = FastAPI()

        @app.get("/")
        def page() -> str:
            return "the page"

        flags = DecodingFlags(**{"preset": "balanced", **decoding})
        chat = chat or ChatFlags(api=True)
        hours = itertools.count(step=3600)  # between any two requests, so that no guess is remembered
        door = Door(serve or ServeFlags(), chat, Guesses(hours.__next__))
        add_routes(app, assistant, chat, door, flags)
        self.server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port = self.listening.getsockname()[1]
        self.thread = threading.Thread(target=self.server.run, args=([self.listening],), daemon=True)
        self.thread.start()
        wait_for(lambda: self.server.started)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def requests(self) -> int:
        """Requests that have come and have not ended."""
        return len(self.server.server_state.tasks)

    def client(self, key: str = "none", **more: object) -> OpenAI:
        return OpenAI(base_url=f"http://{self.address}/v1", api_key=key, **{"max_retries": 0, "timeout": 60, **more})

    def close(self) -> None:
        self.server.should_exit = True
        self.thread.join(10)
        self.listening.close()

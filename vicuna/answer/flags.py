"""Flags of what answers: one question or a conversation, who may ask, and how tokens are chosen."""

import contextlib
import ipaddress
import os
import re
from dataclasses import dataclass
from typing import Any, Literal

from vicuna.args import at_least, check_seed, flag, switch
from vicuna.data.flags import ReadFlags
from vicuna.errors import UserError
from vicuna.prompt.templates import ALL_PROMPT_TYPES

# What a preset sets, by GenerationConfig's names; "original" is what the original's page was set to.
_SAMPLED = {"do_sample": True, "num_beams": 1, "repetition_penalty": 1.1}
PRESETS: dict[str, dict[str, Any]] = {
    "precise": {"do_sample": False, "num_beams": 1, "repetition_penalty": 1.1},
    "balanced": {**_SAMPLED, "temperature": 0.7, "top_p": 0.9, "top_k": 40},
    "creative": {**_SAMPLED, "temperature": 1.0, "top_p": 0.95, "top_k": 60},
    "beam": {"do_sample": False, "num_beams": 4, "repetition_penalty": 1.1},
    # Chinese-LLaMA-Alpaca's; its context of 2,048 is the base's own, and what --max_memory is set to.
    "chinese_alpaca": {
        **_SAMPLED,
        "temperature": 0.2,
        "top_p": 0.9,
        "top_k": 40,
        "repetition_penalty": 1.3,
        "max_new_tokens": 256,
    },
    # The original never sampled; its temperature, top-p and top-k stood at 0.1, 0.75 and 40 without effect.
    "original": {"do_sample": False, "num_beams": 4, "repetition_penalty": 2.0},
}
ENDING = ".jsonl"  # of a file of answers


@dataclass
class AskFlags:
    """One question at a time."""

    lora_path: str = flag("", "adapter: a folder or a hub id; empty for the base alone")
    text: str | None = flag(None, "answer this, print the answer and nothing else, and end")
    input: str = flag("", "the record's second field, with --text")
    show_beam: bool = flag(True, "show all beams while they grow")


@dataclass
class PredictFlags(ReadFlags):
    """Files of questions."""

    data_path: list[str] = flag(
        [],
        "answer every record of these files, in any format that --data_path of finetune.py takes, with or without "
        "responses of its own, and end",
    )
    output_path: str = flag("", "the answers, with --data_path: a new .jsonl, or one to go on with")
    micro_batch: int = flag(8, "records of --data_path that are answered at once; lower it when memory runs out")

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("--micro_batch", self.micro_batch, 1)
        if self.data_path and not self.output_path:
            raise UserError(
                f"--data_path {' '.join(self.data_path)} is answered into a file: name it with --output_path, such as "
                "answers.jsonl."
            )
        if self.output_path and not self.output_path.endswith(ENDING):
            raise UserError(
                f"--output_path {self.output_path} gets a line of JSON for each record; expected a name in {ENDING}."
            )
        given = {"output_path": self.output_path, "fields": self.fields, "encoding": self.encoding}
        for name, value in {**given, "skip_bad_rows": self.skip_bad_rows}.items():
            if value and not self.data_path:
                raise UserError(f"--{name} is for the records of --data_path, which is not given: give it, or drop it.")


@dataclass
class ChatFlags:
    """Conversations."""

    lora_path: list[str] = flag(
        [],
        "adapters to choose from on the page, each a folder or a hub id; the first is in use until another is chosen",
    )
    max_memory: int = flag(2048, "most tokens of a conversation that the model is shown")
    show_beam: bool = flag(False, "show all beams while they grow")
    save_path: str = flag("", "folder that Save writes conversations to; empty: the browser downloads them only")
    cli: bool = flag(False, "chat in the terminal instead of opening the page")
    lang: Literal["zh", "en"] | None = flag(
        None, "language of the chat in the terminal; default: the environment's (LANG)"
    )
    api: bool = flag(False, "serve the OpenAI routes under /v1 beside the page")
    system: Literal["fold", "refuse"] = flag(
        "fold",
        "what the routes do with a system message that the template has no place for: put it before the question, or "
        "refuse the request",
    )
    api_key: str = flag("", "key that the routes ask for; better given as VICUNA_API_KEY")

    def __post_init__(self) -> None:
        at_least("--max_memory", self.max_memory, 0)
        self.api_key = self.api_key or os.environ.get("VICUNA_API_KEY", "")
        if self.lang and not self.cli:
            raise UserError("--lang is for the terminal of --cli; a page speaks the browser's language.")
        if self.cli and self.api:
            raise UserError("--cli is a chat in the terminal, --api a server; give one of them.")


def _host(name: str) -> str:
    """A host as it stands in a request, in small letters, without port and brackets."""
    plain = name.strip().lower().removeprefix("[").removesuffix("]")
    with contextlib.suppress(ValueError):
        return str(ipaddress.ip_address(plain))
    if not re.fullmatch(r"[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?", plain):
        raise UserError(
            f"--allow_host {name} is not a host: expected a name or an address without http:// and port, such as "
            "host.docker.internal. Whoever has the right --api_key needs none."
        )
    return plain


def _origin(site: str) -> str:
    """An origin as browsers send it."""
    plain = site.strip().lower().removesuffix("/")
    if not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/?#@*\s]+", plain):
        raise UserError(
            f"--allow_origin {site} is not an origin: expected scheme://host:port, such as http://192.168.1.5:3000, "
            "one for each site."
        )
    scheme = plain.partition("://")[0]
    return plain.removesuffix({"http": ":80", "https": ":443"}.get(scheme, "/"))


def _network(address: str) -> str:
    """An address or a network of proxies."""
    try:
        return str(ipaddress.ip_network(address.strip(), strict=False))
    except ValueError:
        raise UserError(
            f"--proxy {address} is neither an address nor a network: expected what the proxy's connections come from, "
            "such as 127.0.0.1 or 172.18.0.0/16."
        ) from None


@dataclass
class ServeFlags:
    """What is served, and to whom."""

    prompt_type: Literal[ALL_PROMPT_TYPES] | None = flag(
        None, "template around the question; default: what the adapter was trained with, else instruct"
    )
    use_typewriter: bool = flag(True, "stream the answer; 0 shows it when it is complete")
    use_local: bool | None = switch("1: --lora_path is a folder here, never a hub id; 0: it is a hub id")
    host: str = flag("127.0.0.1", "address the page listens on")
    port: int = flag(7860, "port the page listens on")
    share_link: bool = flag(False, "also open a public link through Gradio's service")
    auth: list[str] = flag(
        [], "user:password that the page asks for, several for several users; better given as VICUNA_AUTH"
    )
    no_auth: bool = flag(False, "make no password and no key where others reach the page, and let in whoever comes")
    allow_host: list[str] = flag(
        [], "further names that the server may be called by without a key, such as host.docker.internal"
    )
    allow_origin: list[str] = flag(
        [],
        "other sites whose pages may use the routes, such as http://192.168.1.5:3000; login and key are asked for "
        "all the same",
    )
    proxy: list[str] = flag(
        [],
        "addresses or networks of reverse proxies in front, such as 127.0.0.1, which say by X-Forwarded-For and "
        "X-Forwarded-Proto who asks, and whether by TLS",
    )
    max_queue: int = flag(64, "requests that may wait for the model")
    cache_gib: float = flag(1.0, "memory for what earlier prompts have in common with the next, in GiB; 0 for none")
    gpu_layers: int | None = flag(
        None, "layers of a GGUF model to put on the GPU, 0 for none; default: all, where llama.cpp was built for one"
    )

    def __post_init__(self) -> None:
        at_least("--max_queue", self.max_queue, 1)
        at_least("--cache_gib", self.cache_gib, 0)
        at_least("--gpu_layers", self.gpu_layers or 0, 0)
        if not 0 < self.port < 65536:
            raise UserError(f"--port {self.port} is not a port: expected 1 to 65535.")
        self.auth = self.auth or os.environ.get("VICUNA_AUTH", "").split()
        for n, account in enumerate(self.auth, 1):
            user, colon, password = account.partition(":")
            if not (user.strip() and colon and password):
                # Not repeated here: it may be a password.
                raise UserError(f"account {n} of --auth (or of VICUNA_AUTH) is not of the form user:password.")
        if self.auth and self.no_auth:
            raise UserError("--no_auth lets in whoever comes, --auth (or VICUNA_AUTH) asks who it is: give one.")
        self.allow_host = [_host(name) for name in self.allow_host]
        self.allow_origin = [_origin(site) for site in self.allow_origin]
        self.proxy = [_network(address) for address in self.proxy]

    @property
    def reached_from_elsewhere(self) -> str:
        """The flag that lets other machines reach what is served; "" when only this one does."""
        if self.share_link:
            return "--share_link"
        if self.proxy:
            return "--proxy"
        try:
            local = ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            local = self.host == "localhost"
        return "" if local else f"--host {self.host}"


DECODING_BOUNDS = {
    "num_beams": (1, 10), "temperature": (0, 10), "top_p": (0, 1), "top_k": (0, 1000),
    "max_new_tokens": (1, 32768), "min_new_tokens": (0, 32768), "repetition_penalty": (0.1, 10),
}  # fmt: skip
REQUEST_BOUNDS = DECODING_BOUNDS | {"min_p": (0, 1), "presence_penalty": (-2, 2), "frequency_penalty": (-2, 2)}


@dataclass
class DecodingFlags:
    """How tokens are chosen, by GenerationConfig's names. Unset ones come from --preset, then from the base."""

    preset: Literal[tuple(PRESETS)] = flag("precise", "decoding settings to start from")
    do_sample: bool | None = switch("draw tokens at random; default: on when a temperature, top-p or top-k is given")
    num_beams: int | None = flag(None, "beams of beam search, 1 to 10")
    temperature: float | None = flag(None, "0 is greedy; higher is more random")
    top_p: float | None = flag(None, "draw from the likeliest tokens that together reach this probability")
    top_k: int | None = flag(None, "draw from this many likeliest tokens; 0 for all")
    max_new_tokens: int | None = flag(None, "longest answer in tokens; default 256")
    min_new_tokens: int | None = flag(None, "shortest answer in tokens; default 1")
    repetition_penalty: float | None = flag(None, "above 1 makes tokens already present less likely")
    seed: int | None = flag(None, "fixes what sampling draws")

    @property
    def bounds(self) -> dict[str, tuple[float, float]]:
        """Setting -> its least and its greatest value."""
        return DECODING_BOUNDS

    def __post_init__(self) -> None:
        for name, (low, high) in self.bounds.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise UserError(f"--{name} {value} is out of range: expected {low} to {high}.")
        if self.seed is not None:
            check_seed(self.seed)
        drawing = [name for name in ("temperature", "top_p", "top_k") if getattr(self, name)]
        if self.do_sample is False and drawing:
            raise UserError(
                f"--do_sample False does not draw, so --{drawing[0]} {getattr(self, drawing[0])} would have no "
                "effect; drop one."
            )
        if self.do_sample and self.temperature == 0:
            raise UserError("--temperature 0 is greedy, which --do_sample True is not; drop one of them.")


@dataclass
class RequestDecoding(DecodingFlags):
    """What a request of the API can say beyond the flags, by OpenAI's and vLLM's names."""

    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None

    @property
    def bounds(self) -> dict[str, tuple[float, float]]:
        """The same, of the further ones too."""
        return REQUEST_BOUNDS

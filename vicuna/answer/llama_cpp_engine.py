"""A GGUF model with its adapters in llama.cpp, as what answers: every call runs in the worker.

llama.cpp computes logits and draws from them. Text and ids are ours (`vicuna.gguf.reader`), and so is what changes
logits before the draw, so that every setting means what it means to transformers: the penalty looks at the whole
context, and the temperature comes before top-k and top-p. Keys and values of what a prompt has in common with the one
before are kept by llama.cpp itself.
"""

import contextlib
import ctypes
import json
import secrets
import threading
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig

from vicuna.answer.detokenize import Detokenizer
from vicuna.answer.flags import ServeFlags
from vicuna.answer.hf_engine import check_adapter, check_rows, fitted
from vicuna.answer.stream import NOTHING, Generated, Run, Submit, Update, stream
from vicuna.errors import UserError
from vicuna.gguf.library import last_error, load_llama_cpp
from vicuna.gguf.reader import (
    ARCHITECTURE,
    EXTRA,
    MOST_CONTEXT,
    PROMPT_TYPE,
    STEP,
    GGUFFile,
    optional_package,
    read_adapter,
    read_model,
)

CHUNK = 256  # tokens of a prompt between two looks at whether the answer is still wanted
DRAWN = {"temperature": 1.0, "top_k": 50, "top_p": 1.0}  # what generate() takes where nothing is said
END_OF_TURN = "tokenizer.ggml.eot_token_id"  # a second id that ends answers
UNQUANTISED = {0, 1, 32}  # general.file_type of f32, f16 and bf16


class Scores:
    """Changes logits before the draw, as generate()'s processors do, and in their order.

    Args:
        chosen: generate()'s arguments.
        suppressed: ids that are never generated; eos_ids: those that end an answer, not before min_new_tokens.
        prompt_len: in tokens.
    """

    def __init__(self, chosen: dict[str, Any], suppressed: Sequence[int], eos_ids: set[int], prompt_len: int):
        self.penalty = chosen.get("repetition_penalty", 1.0)
        self.temperature = chosen.get("temperature", DRAWN["temperature"]) if chosen["do_sample"] else 1.0
        self.suppressed, self.eos_ids = list(suppressed), sorted(eos_ids)
        self.least = prompt_len + chosen["min_new_tokens"]

    def __call__(self, input_ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """(T,) ids so far and (V,) logits -> (V,)."""
        if self.penalty != 1:
            seen = np.unique(input_ids)
            scores[seen] = np.where(scores[seen] < 0, scores[seen] * self.penalty, scores[seen] / self.penalty)
        if len(input_ids) < self.least:
            scores[self.eos_ids] = -np.inf
        scores[self.suppressed] = -np.inf
        if self.temperature != 1:
            scores /= self.temperature
        return scores


class Loaded:
    """A model in llama.cpp's memory, and the adapters on it, of which one or none is in use.

    Args:
        adapters: name of a choice -> its file.
        more: further arguments of `llama_cpp.Llama`.

    Raises:
        UserError: llama.cpp can not load it.
    """

    def __init__(self, file: GGUFFile, context: int, adapters: dict[str, GGUFFile], **more: Any):
        self.api = load_llama_cpp()
        try:
            self.llama = self.api.Llama(
                model_path=str(file.path),
                n_ctx=context,
                n_threads=torch.get_num_threads(),
                n_threads_batch=torch.get_num_threads(),
                verbose=False,
                **more,
            )
        except Exception as error:  # the template engine it hands the chat template to has errors of its own
            raise UserError(
                f"llama.cpp can not load {file.path} ({last_error(error)}). It is broken, too new for what {EXTRA} "
                "installs, or too large for the memory that is free."
            ) from error
        self._computing = threading.Lock()
        weakref.finalize(self, _close, self.llama, self._computing)
        self.adapters = {name: self._load(adapter) for name, adapter in adapters.items()}
        self.adapter = ""

    def _load(self, file: GGUFFile) -> Any:
        adapter = self.api.llama_adapter_lora_init(self.llama.model, str(file.path).encode())
        if not adapter:
            raise UserError(f"llama.cpp can not load the adapter {file.path} ({last_error('no reason given')}).")
        return adapter

    @contextlib.contextmanager
    def using(self, name: str) -> Iterator[Any]:
        """The model with that adapter, "" for none. What was computed with another one is forgotten."""
        with self._computing:
            if name != self.adapter:
                on = [self.adapters[name]] if name else []
                handles = (self.api.llama_adapter_lora_p_ctypes * 1)(*on)
                if self.api.llama_set_adapters_lora(self.llama.ctx, handles, len(on), (ctypes.c_float * 1)(1.0)):
                    raise RuntimeError(f"llama.cpp refused the adapter {name}")
                self.llama.reset()
                self.adapter = name
            yield self.llama


def _close(llama: Any, computing: threading.Lock) -> None:
    """Give the memory back, before Python ends and takes the library away; not under a thread that still computes."""
    if computing.acquire(timeout=1):
        llama.close()


class GGUFEngine:
    """A GGUF model and the adapters on it; the counterpart of `vicuna.answer.hf_engine.HFEngine`.

    Args:
        adapters: name of a choice -> its file.
        reuse: keep what a prompt has in common with the one before.
        gpu_layers: how many layers the GPU computes, see `gpu_layers`.

    Attributes:
        tokenizer, context, generation_config: the model's; the context at most `MOST_CONTEXT`.
        max_beams: 1, for llama.cpp has no beam search.
    """

    max_beams = 1

    def __init__(self, file: GGUFFile, adapters: dict[str, GGUFFile], reuse: bool = True, gpu_layers: int = 0):
        self.gpu_layers = gpu_layers
        self.file, self.adapters, self.reuse = file, adapters, reuse
        self.tokenizer = file.tokenizer()
        self.context = min(file.context, MOST_CONTEXT)
        self.generation_config = GenerationConfig.from_dict(file.generation)
        eos = self.generation_config.eos_token_id
        self.eos_ids = {self.tokenizer.eos_id} if eos is None else set(eos if isinstance(eos, list) else [eos])
        self.eos_ids |= (
            {file.keys[END_OF_TURN]} & set(range(self.tokenizer.size)) if END_OF_TURN in file.keys else set()
        )
        self.suppressed = self.generation_config.suppress_tokens or []
        # The weights' own precision: of a model that nobody quantised, keys and values are not rounded, either.
        api = load_llama_cpp()
        kind = api.GGML_TYPE_F32 if file.keys.get("general.file_type") in UNQUANTISED else api.GGML_TYPE_F16
        self._loaded = Loaded(
            file, self.context, adapters, n_batch=CHUNK, n_gpu_layers=gpu_layers, type_k=kind, type_v=kind
        )
        self._embedding: Loaded | None = None

    def stream(
        self,
        prompt_ids: list[int],
        chosen: dict[str, Any],
        seed: int | None,
        stop: threading.Event | None,
        adapter: str,
        submit: Submit,
        stops: Sequence[str] = (),
    ) -> Iterator[Update]:
        """Growing answers, greedy or drawn; see `vicuna.answer.hf_engine.HFEngine.stream`.

        Raises:
            UserError: no such adapter, beams, or a prompt that fills the context; see `vicuna.answer.stream.stream`.
        """
        check_adapter(adapter, self.adapters)
        if chosen["num_beams"] > 1:
            raise UserError(
                f"--num_beams {chosen['num_beams']} is beam search, which llama.cpp does not have: take 1 with a GGUF."
            )
        chosen = fitted(chosen, prompt_ids, self.context)
        seed = secrets.randbelow(2**32 - 1) if seed is None else seed % (2**32 - 1)  # the largest means "any"
        return stream(
            lambda run: self._make(list(prompt_ids), chosen, seed, adapter, run),
            Run(self.tokenizer, stop, stops),
            chosen["max_new_tokens"],
            submit,
        )

    def _make(self, prompt_ids: list[int], chosen: dict[str, Any], seed: int, adapter: str, run: Run) -> Generated:
        """The answer, every step of it shown to `run`; what runs in the worker."""
        with self._loaded.using(adapter) as llama:
            if not self.reuse:
                llama.reset()
            if not self._prefill(llama, prompt_ids, run):
                return NOTHING
            llama.set_seed(seed)
            return self._generate(llama, prompt_ids, chosen, run)

    def _generate(self, llama: Any, prompt_ids: list[int], chosen: dict[str, Any], run: Run) -> Generated:
        drawn = {"temp": 0.0}
        if chosen["do_sample"]:  # the temperature has its place in `Scores`
            drawn = {"temp": 1.0, **{name: chosen.get(name, DRAWN[name]) for name in ("top_k", "top_p")}}
        scores = Scores(chosen, self.suppressed, self.eos_ids, len(prompt_ids))
        processors = self._loaded.api.LogitsProcessorList([scores])
        tokens = llama.generate(prompt_ids, min_p=0.0, repeat_penalty=1.0, logits_processor=processors, **drawn)
        ids: list[int] = []
        texts = Detokenizer(run.tokenizer)
        with contextlib.closing(tokens):
            for token in tokens:
                ids.append(token)
                if token in self.eos_ids:
                    break
                if run.stopped or (run.stops and run.stops.find(texts.of(ids)) >= 0):
                    break
                run.show([list(ids)], [None])
                if len(ids) >= chosen["max_new_tokens"]:
                    break
        return Generated([ids], [None], self.eos_ids, run.stopped)

    def _prefill(self, llama: Any, prompt_ids: list[int], run: Run) -> bool:
        """Compute the prompt in chunks; False once told to stop. `Llama.generate` keeps what it knows of each part."""
        known = llama.longest_token_prefix(llama.input_ids[: llama.n_tokens].tolist(), prompt_ids)
        for end in range(known + CHUNK, len(prompt_ids), CHUNK):
            if run.stopped:
                return False
            with contextlib.closing(llama.generate(prompt_ids[:end], temp=0.0)) as part:
                next(part)
        return not run.stopped

    def embed(self, rows: Sequence[list[int]], adapter: str) -> list[list[float]]:
        """A vector of length 1 for each text: the mean of its last hidden states. For the worker to call.

        A second context is opened for it on first use.

        Args:
            rows: ids of each text, BOS included.
            adapter: name of a choice, "" for the base alone.

        Raises:
            UserError: no such adapter, a text without tokens or longer than the context.
        """
        check_adapter(adapter, self.adapters)
        check_rows(rows, self.context)
        if self._embedding is None:
            self._embedding = Loaded(
                self.file, self.context, self.adapters, embedding=True, n_gpu_layers=self.gpu_layers,
                n_batch=self.context, n_ubatch=self.context, pooling_type=load_llama_cpp().LLAMA_POOLING_TYPE_MEAN,
                tokenizer=_ids_as_text(),
            )  # fmt: skip
        with self._embedding.using(adapter) as llama:
            return llama.embed([json.dumps(list(row)) for row in rows], normalize=True)


def _ids_as_text() -> Any:
    """A tokenizer for `Llama.embed`, which takes text only: the text is a JSON list of the ids."""
    base = optional_package("llama_cpp.llama_tokenizer").BaseLlamaTokenizer

    class IdsAsText(base):
        def tokenize(self, text: bytes, add_bos: bool = True, special: bool = True) -> list[int]:
            return json.loads(text)

        def detokenize(self, tokens: list[int], prev_tokens: list[int] | None = None, special: bool = False) -> bytes:
            return json.dumps(tokens).encode()

    return IdsAsText()


def load_engine(model_path: str, lora_paths: dict[str, str], serve: ServeFlags) -> GGUFEngine:
    """The engine for `--model_path x.gguf` and adapters of that kind.

    Args:
        lora_paths: name of a choice -> its file.

    Raises:
        UserError: files that can not be read or do not fit.
    """
    load_llama_cpp()
    file = read_model(model_path)
    on_gpu = gpu_layers(file, serve.gpu_layers, load_llama_cpp().llama_supports_gpu_offload())
    adapters = {name: read_adapter(path, file) for name, path in lora_paths.items()}
    return GGUFEngine(file, adapters, serve.cache_gib > 0, on_gpu)


def layers(file: GGUFFile) -> int:
    """What llama.cpp counts as layers: the blocks, and what comes behind them."""
    return file.keys[f"{ARCHITECTURE}.block_count"] + 1


def gpu_layers(file: GGUFFile, asked: int | None, has_gpu: bool) -> int:
    """How many layers the GPU computes: as many as asked for, or all; none where llama.cpp has no GPU.

    Args:
        has_gpu: llama.cpp was built for one, and sees it.

    Raises:
        UserError: some are asked for, and it has none.
    """
    if has_gpu:
        return layers(file) if asked is None else min(asked, layers(file))
    if asked:
        raise UserError(
            f"--gpu_layers {asked} needs a llama.cpp that was built for a GPU, and a GPU that it sees; here it "
            "computes on the CPU. Build it: CMAKE_ARGS=-DGGML_CUDA=on bash scripts/install_cpp.sh; or leave "
            "--gpu_layers out."
        )
    return 0


def described(file: GGUFFile, on_gpu: int = 0) -> str:
    """Precision, device and threads, for the status line.

    Args:
        on_gpu: from `gpu_layers`.
    """
    kinds = [kind for name, kind in file.types.items() if len(file.shapes[name]) == 2]
    most = max(sorted(set(kinds)), key=kinds.count)
    device = f"{on_gpu} of {layers(file)} layers on GPU" if on_gpu else "CPU"
    return f"{most.lower()} · llama.cpp, {device}, {torch.get_num_threads()} threads"


def declared_prompt_type(file: GGUFFile) -> str:
    """What the model or adapter was trained with, "" where the file does not say."""
    return file.keys.get(PROMPT_TYPE, "")


def detail(file: GGUFFile) -> str:
    """Step and rank of an adapter, for the status line."""
    ranks = {shape[0] for name, shape in file.shapes.items() if name.endswith(".lora_a")}
    rank = f"r {'/'.join(map(str, sorted(ranks)))}"
    return f"step {file.keys[STEP]}, {rank}" if STEP in file.keys else rank

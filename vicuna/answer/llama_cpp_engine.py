"""A GGUF model with its adapters in llama.cpp, as what answers: every call runs in the worker.

llama.cpp computes logits and draws from them. Text and ids are ours (`vicuna.gguf_file.reader`), and so is what changes
logits before the draw, so that every setting means what it means to transformers: the penalty looks at the whole
context, and the temperature comes before top-k and top-p. Keys and values of what a prompt has in common with the one
before are kept by llama.cpp itself.
"""

import contextlib
import json
import secrets
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig

from vicuna.answer.decoding import SAMPLING_DEFAULTS
from vicuna.answer.detokenize import Detokenizer
from vicuna.answer.engine import Engine, GenerationRequest
from vicuna.answer.finite import NOT_FINITE
from vicuna.answer.flags import ServeFlags
from vicuna.answer.grammar import Grammar
from vicuna.answer.llama_cpp_context import LlamaContext
from vicuna.answer.logits import processors
from vicuna.answer.scoring import PART, Scored, score_logits
from vicuna.answer.stream import EMPTY_RESULT, GenerationResult, Streamer
from vicuna.errors import UserError
from vicuna.gguf.library import load_llama_cpp
from vicuna.gguf_file.reader import (
    MAX_CONTEXT,
    PROMPT_TYPE,
    STEP,
    GGUFFile,
    optional_package,
    read_gguf_adapter,
    read_gguf_model,
)
from vicuna.sentences import Sentence

CHUNK = 256  # tokens of a prompt between two looks at whether the answer is still wanted
UNQUANTISED = {0, 1, 32}  # general.file_type of f32, f16 and bf16


class LogitsProcessor:
    """Changes logits before the draw, as generate()'s processors do, and in their order.

    Args:
        chosen: generate()'s arguments.
        suppressed: ids that are never generated; eos_ids: those that end an answer, not before min_new_tokens.
        prompt_len: in tokens; grammar: what the answer has to be.
    """

    def __init__(
        self,
        chosen: dict[str, Any],
        suppressed: Sequence[int],
        eos_ids: set[int],
        prompt_len: int,
        grammar: Grammar | None = None,
    ):
        self.penalty = chosen.get("repetition_penalty", 1.0)
        self.temperature = chosen.get("temperature", SAMPLING_DEFAULTS["temperature"]) if chosen["do_sample"] else 1.0
        self.suppressed, self.eos_ids = list(suppressed), sorted(eos_ids)
        self.least = prompt_len + chosen["min_new_tokens"]
        self.further = processors(chosen, grammar, eos_ids, prompt_len)[1]

    def __call__(self, input_ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """(T,) ids so far and (V,) logits -> (V,)."""
        if not np.isfinite(scores.max()):
            raise UserError(NOT_FINITE)
        if self.penalty != 1:
            seen = np.unique(input_ids)
            scores[seen] = np.where(scores[seen] < 0, scores[seen] * self.penalty, scores[seen] / self.penalty)
        if len(input_ids) < self.least:
            scores[self.eos_ids] = -np.inf
        scores[self.suppressed] = -np.inf
        if self.further:
            ids = torch.from_numpy(np.asarray(input_ids, dtype=np.int64))[None]
            scores = self.further(ids, torch.from_numpy(scores)[None])[0].numpy()
        if self.temperature != 1:
            scores /= self.temperature
        return scores


class LlamaCppEngine(Engine):
    """A GGUF model and the adapters on it, answering greedily or by sampling: llama.cpp has no beam search.

    Args:
        adapters: name of a choice -> its file.
        reuse: keep what a prompt has in common with the one before.
        gpu_layers: how many layers the GPU computes, see `resolve_gpu_layers`.
        context: tokens of the longest sequence, None for the model's, at most `MAX_CONTEXT`.
    """

    max_beams = 1

    def __init__(
        self,
        file: GGUFFile,
        adapters: dict[str, GGUFFile],
        reuse: bool = True,
        gpu_layers: int = 0,
        context: int | None = None,
    ):
        self.gpu_layers = gpu_layers
        self.file, self.adapters, self.reuse = file, adapters, reuse
        self.tokenizer = file.tokenizer()
        self.context = context_of(file, context)
        self.generation_config = GenerationConfig.from_dict(file.generation)
        self.eos_ids = set(file.ends)
        self.suppressed = self.generation_config.suppress_tokens or []
        # The weights' own precision: of a model that nobody quantised, keys and values are not rounded, either.
        api = load_llama_cpp()
        kind = api.GGML_TYPE_F32 if file.keys.get("general.file_type") in UNQUANTISED else api.GGML_TYPE_F16
        self._how = {"n_batch": CHUNK, "n_gpu_layers": gpu_layers, "type_k": kind, "type_v": kind}
        self._generating = LlamaContext(file, self.context, adapters, **self._how)
        self._embedding: LlamaContext | None = None
        self._scoring: LlamaContext | None = None

    def _check(self, request: GenerationRequest) -> None:
        if (beams := request.chosen["num_beams"]) > 1:
            raise UserError(Sentence("no_beams_in_llama_cpp", beams=beams))
        super()._check(request)

    def _generate(self, request: GenerationRequest, streamer: Streamer) -> GenerationResult:
        largest = 2**32 - 1  # which means "any"
        seed = secrets.randbelow(largest) if request.seed is None else request.seed % largest
        with self._generating.using(request.adapter) as llama:
            if not self.reuse:
                llama.reset()
            if not self._prefill(llama, request.prompt_ids, streamer):
                return EMPTY_RESULT
            llama.set_seed(seed)
            return self._decode(llama, request, streamer)

    def _decode(self, llama: Any, request: GenerationRequest, streamer: Streamer) -> GenerationResult:
        chosen, prompt_ids = request.chosen, request.prompt_ids
        drawn = {"temp": 0.0, "min_p": 0.0}
        if chosen["do_sample"]:  # the temperature has its place in `LogitsProcessor`
            drawn = {
                "temp": 1.0,
                **{name: chosen.get(name, SAMPLING_DEFAULTS[name]) for name in ("top_k", "top_p", "min_p")},
            }
        processor = LogitsProcessor(chosen, self.suppressed, self.eos_ids, len(prompt_ids), request.grammar)
        processors = load_llama_cpp().LogitsProcessorList([processor])
        tokens = llama.generate(prompt_ids, repeat_penalty=1.0, logits_processor=processors, **drawn)
        ids: list[int] = []
        texts = Detokenizer(streamer.tokenizer)
        with contextlib.closing(tokens):
            for token in tokens:
                ids.append(token)
                if token in self.eos_ids or streamer.ends(ids, texts):
                    break
                streamer.put([list(ids)], [None])
                if len(ids) >= chosen["max_new_tokens"]:
                    break
        return GenerationResult([ids], [None], self.eos_ids, streamer.stopped)

    def _prefill(self, llama: Any, prompt_ids: list[int], streamer: Streamer) -> bool:
        """Compute the prompt in chunks; False once told to stop. `Llama.generate` keeps what it knows of each part."""
        known = llama.longest_token_prefix(llama.input_ids[: llama.n_tokens].tolist(), prompt_ids)
        for end in range(known + CHUNK, len(prompt_ids), CHUNK):
            if streamer.stopped:
                return False
            with contextlib.closing(llama.generate(prompt_ids[:end], temp=0.0)) as part:
                next(part)
        return not streamer.stopped

    def _embed(self, rows: Sequence[list[int]], adapter: str) -> list[list[float]]:
        if self._embedding is None:  # a second context, opened on first use
            self._embedding = LlamaContext(
                self.file, self.context, self.adapters, embedding=True, n_gpu_layers=self.gpu_layers,
                n_batch=self.context, n_ubatch=self.context, pooling_type=load_llama_cpp().LLAMA_POOLING_TYPE_MEAN,
                tokenizer=_ids_as_text(),
            )  # fmt: skip
        with self._embedding.using(adapter) as llama:
            return llama.embed([json.dumps(list(row)) for row in rows], normalize=True)

    def _score(self, rows: Sequence[list[int]], adapter: str, top: int) -> list[Scored]:
        if self._scoring is None:  # another context, opened on first use: it keeps the logits of every place
            self._scoring = LlamaContext(self.file, self.context, self.adapters, logits_all=True, **self._how)
        found = []
        with self._scoring.using(adapter) as llama:
            for row in rows:
                llama.reset()
                llama.eval(list(row))
                found.append(score_logits(torch.from_numpy(llama.scores[: len(row)]).split(PART), row, top))
        return found


def _ids_as_text() -> Any:
    """A tokenizer for `Llama.embed`, which takes text only: the text is a JSON list of the ids."""
    base = optional_package("llama_cpp.llama_tokenizer").BaseLlamaTokenizer

    class IdsAsText(base):
        def tokenize(self, text: bytes, add_bos: bool = True, special: bool = True) -> list[int]:
            return json.loads(text)

        def detokenize(self, tokens: list[int], prev_tokens: list[int] | None = None, special: bool = False) -> bytes:
            return json.dumps(tokens).encode()

    return IdsAsText()


def read_files(
    model_path: str, lora_paths: dict[str, str], serve: ServeFlags
) -> tuple[GGUFFile, dict[str, GGUFFile], int]:
    """What `LlamaCppEngine` takes for `--model_path x.gguf` and adapters of that kind, and the layers for the GPU.

    Args:
        lora_paths: name of a choice -> its file.

    Raises:
        UserError: files that can not be read or do not fit.
    """
    api = load_llama_cpp()
    file = read_gguf_model(model_path)
    on_gpu = resolve_gpu_layers(file, serve.gpu_layers, api.llama_supports_gpu_offload())
    return file, {name: read_gguf_adapter(path, file) for name, path in lora_paths.items()}, on_gpu


def context_of(file: GGUFFile, asked: int | None = None) -> int:
    """Tokens of the longest sequence that is answered: as asked for, else the model's, at most `MAX_CONTEXT`."""
    return asked or min(file.context, MAX_CONTEXT)


def count_layers(file: GGUFFile) -> int:
    """What llama.cpp counts as layers: the blocks, and what comes behind them."""
    return file.blocks + 1


def resolve_gpu_layers(file: GGUFFile, asked: int | None, has_gpu: bool) -> int:
    """How many layers the GPU computes: as many as asked for, or all; none where llama.cpp has no GPU.

    Args:
        has_gpu: llama.cpp was built for one, and sees it.

    Raises:
        UserError: some are asked for, and it has none.
    """
    if has_gpu:
        return count_layers(file) if asked is None else min(asked, count_layers(file))
    if asked:
        raise UserError(
            f"--gpu_layers {asked} needs a llama.cpp that was built for a GPU, and a GPU that it sees; here it "
            "computes on the CPU. Build it: CMAKE_ARGS=-DGGML_CUDA=on bash scripts/install_cpp.sh; or leave "
            "--gpu_layers out."
        )
    return 0


def describe_model(file: GGUFFile, on_gpu: int = 0) -> str:
    """Precision, device and threads, for the status line.

    Args:
        on_gpu: from `resolve_gpu_layers`.
    """
    kinds = [kind for name, kind in file.types.items() if len(file.shapes[name]) == 2]
    most = max(sorted(set(kinds)), key=kinds.count)
    device = Sentence("layers_on_gpu", on_gpu=on_gpu, layers=count_layers(file)) if on_gpu else "CPU"
    return Sentence("in_llama_cpp", kind=most.lower(), device=device, threads=torch.get_num_threads())


def declared_prompt_type(file: GGUFFile) -> str:
    """What the model or adapter was trained with, "" where the file does not say."""
    return file.keys.get(PROMPT_TYPE, "")


def describe_adapter(file: GGUFFile) -> str:
    """Step and rank of an adapter, for the status line."""
    ranks = {shape[0] for name, shape in file.shapes.items() if name.endswith(".lora_a")}
    rank = Sentence("rank", rank="/".join(map(str, sorted(ranks))))
    return Sentence("at_step", step=file.keys[STEP], detail=rank) if STEP in file.keys else rank

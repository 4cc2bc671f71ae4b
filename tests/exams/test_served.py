"""lm-eval's own client, unmodified, scores what is served: base, adapter and GGUF, as the models score themselves."""

import ctypes
import json
import math
from pathlib import Path

import pytest
import torch
from certificate_bounds import confident_llama, strong_adapter, to_gguf
from lm_eval.api.instance import Instance
from lm_eval.models.openai_completions import LocalCompletionsAPI

from tests.certificate.certifying import needs_cpp
from tests.exams.planting import question
from tests.served import Server
from vicuna.answer.flags import ServeFlags
from vicuna.answer.loading import load_assistant
from vicuna.evaluation.flags import ModelsFlags, OutputFlags
from vicuna.exams.choice import evaluate_choice
from vicuna.exams.flags import ChoiceFlags
from vicuna.model.flags import ModelFlags
from vicuna.prompt.tokenizer import TextTokenizer

OPTIONS = [" A", " B", " 春天来了", "🦊"]


@pytest.fixture(scope="module")
def base(tiny_base, tmp_path_factory) -> Path:
    return confident_llama(tmp_path_factory.mktemp("served") / "base", tiny_base)


@pytest.fixture(scope="module")
def adapter(base, tmp_path_factory) -> Path:
    return strong_adapter(base, tmp_path_factory.mktemp("served") / "seven")


@pytest.fixture(scope="module")
def ggufs(base, adapter, tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("ggufs")
    more = {"lora_path": str(adapter), "prompt_type": "instruct"}
    return to_gguf(base, folder / "f32.gguf", "f32"), to_gguf(base, folder / "seven.gguf", "f32", **more)


@pytest.fixture(scope="module")
def requests(base) -> list[Instance]:
    tokenizer = TextTokenizer(base)
    contexts = [f"{question(tokenizer, 'ABCD'[n % 4], n, times=n + 1)}\n答案：" for n in range(3)]
    pairs = [(context, option) for context in contexts for option in OPTIONS]
    return [Instance("loglikelihood", {}, pair, 0, metadata=("t", n, 1)) for n, pair in enumerate(pairs)]


def opened(model: Path, lora: Path | None = None) -> Server:
    flags = ModelFlags(model_path=str(model), bits=32)
    return Server(load_assistant(flags, ServeFlags(), [str(lora)] if lora else []))


def client(server: Server, model: str, batch_size: int = 3) -> LocalCompletionsAPI:
    return LocalCompletionsAPI(
        base_url=f"http://{server.address}/v1/completions", model=model, batch_size=batch_size, max_length=512
    )


def by_hand(requests: list[Instance], tokenizer: TextTokenizer, log_probs) -> list[tuple[float, bool]]:
    """The same from the logits of whole texts, BOS in front."""
    found = []
    for one in requests:
        context, option = one.args
        begin = 1 + len(tokenizer.encode(context))
        ids = [tokenizer.bos_id, *tokenizer.encode(context + option)]
        rows = log_probs(ids)[begin - 1 : -1]
        taken = rows.gather(1, torch.tensor(ids[begin:])[:, None])[:, 0]
        found.append((float(taken.double().sum()), bool((taken == rows.max(1).values).all())))
    return found


def assert_same(found: list[tuple[float, bool]], expected: list[tuple[float, bool]]) -> None:
    assert [one for one, _ in found] == pytest.approx([one for one, _ in expected], abs=1e-4)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]


def test_base_and_adapter_score_over_the_api_as_in_transformers(base, adapter, requests):
    server = opened(base, adapter)
    model, tokenizer = server.assistant.engine.model, server.assistant.tokenizer

    @torch.inference_mode()
    def log_probs(ids: list[int]) -> torch.Tensor:
        return model(torch.tensor([ids])).logits[0].log_softmax(-1)

    try:
        for batch_size in (1, 3):
            found = client(server, "seven", batch_size).loglikelihood(requests, disable_tqdm=True)
            model.set_adapter("adapter0")
            assert_same(found, by_hand(requests, tokenizer, log_probs))
        alone = client(server, "base").loglikelihood(requests, disable_tqdm=True)
        with model.disable_adapter():
            assert_same(alone, by_hand(requests, tokenizer, log_probs))
        assert max(abs(one - other) for (one, _), (other, _) in zip(alone, found, strict=True)) > 0.01

        asked = client(server, "base")
        assert asked.tokenizer_backend == "remote"  # found out by itself
        assert asked.prefix_token_id == tokenizer.bos_id
        (alone_text,) = asked.loglikelihood([Instance("loglikelihood", {}, ("", "春天来了"), 0)], disable_tqdm=True)
        ids = [tokenizer.bos_id, *tokenizer.encode("春天来了")]
        with model.disable_adapter():
            rows = log_probs(ids)
        taken = rows[:-1].gather(1, torch.tensor(ids[1:])[:, None])
        assert alone_text[0] == pytest.approx(float(taken.sum()), abs=1e-4)
        until = Instance("generate_until", {}, ("春天来了", {"until": ["。"], "max_gen_toks": 8}), 0)
        (said,) = asked.generate_until([until])
        own = server.client().completions.create(
            model="base", prompt="春天来了", temperature=0, max_tokens=8, stop="。"
        )
        assert said == own.choices[0].text
    finally:
        server.close()


@needs_cpp
def test_a_gguf_and_its_adapter_score_over_the_api_as_in_llama_cpp(ggufs, requests):
    import llama_cpp
    import numpy as np

    file, lora = ggufs
    server = opened(file, lora)
    try:
        names = list(server.assistant.names)
        scores = {name: client(server, name).loglikelihood(requests, disable_tqdm=True) for name in names}
        tokenizer = server.assistant.tokenizer
    finally:
        server.close()
    api = llama_cpp.llama_cpp
    kind = api.GGML_TYPE_F32  # as an unquantised model is served: at f16 keys and values move the scores by 2e-4
    more = {"n_ctx": 512, "n_threads": 1, "logits_all": True, "type_k": kind, "type_v": kind}
    llama = llama_cpp.Llama(str(file), verbose=False, **more)

    def log_probs(ids: list[int]) -> torch.Tensor:
        llama.reset()
        llama.eval(ids)
        return torch.from_numpy(np.array(llama.scores[: len(ids)])).log_softmax(-1)

    try:
        assert_same(scores["f32.gguf"], by_hand(requests, tokenizer, log_probs))
        handle = api.llama_adapter_lora_init(llama.model, str(lora).encode())
        scale = (ctypes.c_float * 1)(1.0)
        api.llama_set_adapters_lora(llama.ctx, (api.llama_adapter_lora_p_ctypes * 1)(handle), 1, scale)
        assert_same(scores["seven.gguf"], by_hand(requests, tokenizer, log_probs))
    finally:
        llama.close()
    assert all(math.isfinite(one) for of in scores.values() for one, _ in of)
    assert json.dumps(scores["f32.gguf"]) != json.dumps(scores["seven.gguf"])


@needs_cpp
def test_an_examination_is_the_same_in_llama_cpp(base, adapter, ggufs, cmmlu, tmp_path):
    file, lora = ggufs
    models = ModelsFlags(
        model_path=[str(one) for one in (base, base, file, file)],
        lora_path=["-", str(adapter), "-", str(lora)],
        bits=[32],
    )
    flags = ChoiceFlags(data_path=str(cmmlu), num_fewshot=1, micro_batch=5)

    evaluate_choice(models, flags, OutputFlags(output_path=str(tmp_path / "found")))

    lines: dict[str, dict] = {}
    for text in (tmp_path / "found/rows.jsonl").read_text(encoding="utf-8").splitlines():
        line = json.loads(text)
        key = (line["subject"], line["question"])
        lines.setdefault(line["model"], {})[key] = line["log_likelihoods"]
    alone, adapted, gguf, gguf_adapted = lines.values()
    assert len(alone) == 14
    for one, other in ((alone, gguf), (adapted, gguf_adapted)):
        for key, values in one.items():
            assert other[key] == pytest.approx(values, abs=1e-3)
    assert max(abs(one[0] - adapted[key][0]) for key, one in alone.items()) > 0.01

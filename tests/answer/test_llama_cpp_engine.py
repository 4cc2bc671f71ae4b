"""Answers from a GGUF file: HF's greedy text, settings that mean the same, adapters, stop, and embeddings."""

import json
import random
import shutil
import threading

import numpy as np
import pytest
import torch
from transformers import (
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
)

from tests.answer.gguf_assistants import BARE, GREEDY, POEMS, PROMPTS, answered, opened
from tests.answer.stops import Awaited, Looked, StopsAtLook
from tests.gguf.gguf_models import distance, export, gguf_logits, hf_logits, hf_model, make_model
from vicuna.answer.decoding import generation_kwargs
from vicuna.answer.flags import DecodingFlags
from vicuna.answer.grammar import Grammar
from vicuna.errors import UserError

pytest.importorskip("gguf", reason="gguf is not installed: bash scripts/install_cpp.sh")
pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed: bash scripts/install_cpp.sh")

from vicuna.answer.llama_cpp_engine import CHUNK, LogitsProcessor
from vicuna.pages.strings import STRINGS

# Where the two best logits are closer than this, as a share of the largest logit, either may come first.
NEAR = {"f32": 1e-5, "f16": 5e-3}
ROUNDED = {"f32": torch.float32, "f16": torch.float16}


@torch.inference_mode()
def greedy(model: torch.nn.Module, ids: list[int], suppressed: list[int]) -> tuple[list[int], list[float]]:
    """HF's greedy answer of at most 32 tokens; and by how much each token was ahead of the next best one."""
    new, ahead = [], []
    while len(new) < 32:
        logits = hf_logits(model, [*ids, *new])[-1]
        logits[suppressed] = -torch.inf
        best, second = logits.topk(2).values.tolist()
        ahead.append((best - second) / float(logits[logits.isfinite()].abs().max()))
        new.append(int(logits.argmax()))
        if new[-1] == 2:
            break
    return new, ahead


@pytest.mark.parametrize("kind", NEAR)
@pytest.mark.parametrize("name", [*PROMPTS, "tiny"])
def test_the_greedy_text_is_that_of_hugging_face(hf_folders, exported, name, kind):
    model, assistant = hf_model(hf_folders[name], ROUNDED[kind]), opened(exported(name, kind))
    suppressed = assistant.engine.suppressed
    assert suppressed == ([0] if name == "poem-zh-750k" else [])
    for prompt in PROMPTS.get(name, ["春天的花有哪些？", "Tell me", "User:你好\n\nAssistant:"]):
        ids = assistant.prompt_ids([{"role": "user", "content": prompt}])
        expected, ahead = greedy(model, ids, suppressed)

        found = answered(assistant, ids, GREEDY)

        apart = next((at for at, pair in enumerate(zip(found, expected, strict=False)) if pair[0] != pair[1]), None)
        assert (apart is None and found == expected) or ahead[apart] < NEAR[kind], (prompt, apart)


def test_a_penalty_and_a_least_length_change_the_greedy_text_as_they_do_there(tiny, tiny_base):
    chosen = generation_kwargs(DecodingFlags(repetition_penalty=1.4, max_new_tokens=40, min_new_tokens=40), BARE)
    model = hf_model(tiny_base)
    for prompt in ("春天的花有哪些？", "Tell me about alpacas."):
        ids = tiny.prompt_ids([{"role": "user", "content": prompt}])
        expected = model.generate(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)), **chosen)

        assert answered(tiny, ids, chosen) == expected[0, len(ids) :].tolist()


def test_an_answer_follows_a_grammar_and_ends_with_it(tiny):
    schema = {"type": "object", "properties": {"花": {"enum": ["桃花", "杏花"]}}, "required": ["花"]}
    chosen = generation_kwargs(DecodingFlags(max_new_tokens=60, temperature=1.5), BARE)
    grammar = Grammar({**schema, "additionalProperties": False}, tiny.tokenizer)
    ids = tiny.prompt_ids([{"role": "user", "content": "春天的花有哪些？"}])
    *_, last = tiny.stream(ids, chosen, 1, grammar=grammar)
    assert json.loads(last.text)["花"] in ("桃花", "杏花")
    assert last.finish == "eos"


def test_logits_are_changed_as_transformers_changes_them():
    chosen = {"do_sample": True, "repetition_penalty": 1.3, "temperature": 0.7, "min_new_tokens": 3}
    draw = np.random.default_rng(0)
    mine = LogitsProcessor(chosen, [5, 6], {2, 9}, prompt_len=10)
    theirs = LogitsProcessorList([
        RepetitionPenaltyLogitsProcessor(1.3), MinNewTokensLengthLogitsProcessor(10, 3, [2, 9], device="cpu"),
        SuppressTokensLogitsProcessor([5, 6], device="cpu"), TemperatureLogitsWarper(0.7),
    ])  # fmt: skip
    for length in (10, 12, 13, 40):
        ids = draw.integers(0, 50, length)
        logits = draw.normal(size=50).astype(np.float32)
        expected = theirs(torch.from_numpy(ids)[None], torch.from_numpy(logits.copy())[None])[0].numpy()

        assert np.array_equal(mine(ids.astype(np.intc), logits), expected)


def test_draws_have_the_probabilities_that_top_k_and_top_p_leave(tiny):
    """2,000 first tokens against the distribution of transformers' order: temperature, top-k, top-p."""
    chosen = generation_kwargs(
        DecodingFlags(repetition_penalty=1.0, temperature=1.5, top_k=8, top_p=0.6, max_new_tokens=1, min_new_tokens=0),
        BARE,
    )
    ids = tiny.prompt_ids([{"role": "user", "content": "春天"}])
    logits = gguf_logits(tiny.engine.file.path, ids)[-1] / 1.5
    best = logits.topk(8)
    probabilities = best.values.softmax(-1)
    kept = int((probabilities.cumsum(0) < 0.6).sum()) + 1
    expected = probabilities[:kept] / probabilities[:kept].sum()
    counts = dict.fromkeys(best.indices.tolist(), 0)
    for seed in range(2000):
        counts[answered(tiny, ids, chosen, seed)[0]] += 1

    found = torch.tensor(list(counts.values()))
    assert found[kept:].sum() == 0
    assert 1 < kept < 8
    assert (found[:kept] / 2000 - expected).abs().max() < 0.04


def test_the_same_seed_draws_the_same_answer(tiny):
    ids = tiny.prompt_ids([{"role": "user", "content": "春天"}])
    chosen = generation_kwargs(DecodingFlags(temperature=1.5, top_k=0, max_new_tokens=20), BARE)

    first, again, other = (answered(tiny, ids, chosen, seed) for seed in (0, 0, 2**32 - 2))

    assert first == again != other
    assert answered(tiny, ids, chosen) != answered(tiny, ids, chosen)


@pytest.mark.parametrize("name", ["stories260K", "poem-zh-750k"])
def test_answers_are_the_same_with_and_without_what_earlier_prompts_left(exported, name):
    keeping, forgetting = opened(exported(name)), opened(exported(name), cache_gib=0)
    draw = random.Random(0)
    for turn in range(24):
        if turn % 6 == 0:
            ids = [1]
        ids = [*ids, *(draw.randrange(3, 200) for _ in range(draw.randrange(1, 6)))]
        chosen = generation_kwargs(DecodingFlags(max_new_tokens=10, **({"temperature": 0.8} if turn % 2 else {})), BARE)
        found = answered(keeping, ids, chosen, seed=turn)
        assert found == answered(forgetting, ids, chosen, seed=turn)
        assert answered(keeping, ids, chosen, seed=turn) == found  # the whole prompt is known
        ids += found


def test_a_long_prompt_is_computed_in_chunks_and_can_be_stopped_between_them(tmp_path, tiny_base):
    folder = make_model(tmp_path / "hf", tiny_base / "tokenizer.model", max_position_embeddings=1200)
    assistant = opened(export(folder, tmp_path / "x.gguf", "f32"))
    draw = random.Random(2)
    ids = [1, *(draw.randrange(300, 1800) for _ in range(1000))]
    chosen = generation_kwargs(DecodingFlags(max_new_tokens=8, min_new_tokens=8, repetition_penalty=1.0), BARE)
    expected, _ = greedy(hf_model(folder), ids, [])
    assert answered(assistant, ids, chosen) == expected[:8]

    other = [1, *reversed(ids[1:])]
    patient = Looked()
    assert len(answered(assistant, other, chosen, stop=patient)) == 8
    quick = Looked()
    assert len(answered(assistant, other, chosen, stop=quick)) == 8
    assert patient.looks - quick.looks >= len(range(CHUNK, len(ids), CHUNK))  # what is known is not computed again
    for n in (2, 3, 4):
        draw.shuffle(other)
        *_, last = assistant.stream([1, *other], chosen, stop=StopsAtLook(n))
        assert (last.finish, last.tokens, last.text) == ("stopped", 0, "")
    assert answered(assistant, ids, chosen) == expected[:8]


def test_stop_in_the_middle_keeps_what_was_said(tiny):
    ids = tiny.prompt_ids([{"role": "user", "content": "春天"}])
    chosen = generation_kwargs(DecodingFlags(max_new_tokens=200, min_new_tokens=200), BARE)
    stop, seen = Awaited(), []
    for update in tiny.stream(ids, chosen, stop=stop):
        seen.append(update)
        if update.tokens >= 3:
            stop.set()

    assert seen[-1].finish == "stopped"
    assert 3 <= seen[-1].tokens < 200
    assert seen[-1].beams[0].ids[: len(seen[0].beams[0].ids)] == seen[0].beams[0].ids
    assert tiny.worker.waiting == 0


def test_a_closed_iterator_frees_the_model(tiny):
    ids = tiny.prompt_ids([{"role": "user", "content": "春天"}])
    answers = tiny.stream(ids, generation_kwargs(DecodingFlags(max_new_tokens=300, min_new_tokens=300), BARE))
    next(answers)
    answers.close()

    assert len(answered(tiny, ids, {**GREEDY, "max_new_tokens": 2, "min_new_tokens": 2})) == 2


def test_a_stop_text_ends_the_answer_and_is_never_shown(tiny):
    ids = tiny.prompt_ids([{"role": "user", "content": "春天"}])
    chosen = generation_kwargs(DecodingFlags(max_new_tokens=40, min_new_tokens=40), BARE)
    *_, whole = tiny.stream(ids, chosen)
    stop = whole.text[10:13]

    updates = list(tiny.stream(ids, chosen, stops=["not there", stop]))

    assert (updates[-1].finish, updates[-1].text) == ("stop", whole.text[: whole.text.index(stop)])
    assert not any(stop in update.text for update in updates)
    assert updates[-1].tokens < 40


def test_eos_ends_the_answer_and_every_declared_id_is_one(tmp_path, tiny_base, tiny):
    folder = tmp_path / "hf"
    shutil.copytree(tiny_base, folder)
    ids = tiny.prompt_ids([{"role": "user", "content": "春天"}])
    third = answered(tiny, ids, GREEDY)[2]
    config = {"bos_token_id": 1, "eos_token_id": [2, third]}
    (folder / "generation_config.json").write_text(json.dumps(config), encoding="utf-8")
    assistant = opened(export(folder, tmp_path / "x.gguf", "f32"))

    *_, last = assistant.stream(ids, GREEDY)

    assert last.finish == "eos"
    assert third == last.beams[0].ids[-1]
    assert last.tokens <= 3


@pytest.mark.parametrize("text", ["A", "🦙", "\n", "A🦙\n\n𠮷", "</s>", "<s>", "", " "])
@pytest.mark.parametrize("name", ["babyllama-tok105", "poem-zh-750k"])
def test_characters_without_a_piece_do_not_end_the_program(exported, hf_folders, name, text):
    """Neither model has byte pieces, where llama.cpp's own tokenizer would end the process."""
    assistant = opened(exported(name))
    ids = assistant.prompt_ids([{"role": "user", "content": text}])
    assert 2 not in ids
    expected, _ = greedy(hf_model(hf_folders[name]), ids, assistant.engine.suppressed)

    assert answered(assistant, ids, GREEDY) == expected


def test_a_prompt_that_fills_the_context_is_refused_and_no_answer_passes_it(tiny):
    with pytest.raises(UserError, match="the prompt has 512 tokens, the base's context is 512"):
        next(tiny.stream([5] * 512, GREEDY))
    *_, last = tiny.stream([5] * 505, {**GREEDY, "max_new_tokens": 100, "min_new_tokens": 100})
    assert (last.tokens, last.finish) == (7, "length")


def test_beams_are_refused(tiny):
    assert tiny.engine.max_beams == 1
    with pytest.raises(UserError, match=r"--num_beams 4 is beam search, which llama\.cpp does not have"):
        next(tiny.stream([1, 5], {**GREEDY, "num_beams": 4}))


def test_an_id_that_the_model_does_not_have_is_a_sentence(tiny):
    with pytest.raises(UserError, match="failed while answering"):
        list(tiny.stream([1, 10**6], GREEDY))
    assert answered(tiny, [1, 5], GREEDY)  # the worker goes on


@pytest.mark.parametrize("text", ["题：春日\n", "题：远寺钟\n", "题：江上\n"])
def test_an_adapter_on_its_base_gives_the_greedy_text_of_base_and_adapter(shared, poems, text):
    from peft import PeftModel

    ids = poems.prompt_ids([{"role": "user", "content": text}])
    base = hf_model(shared / "models/poem-zh-750k-hf")
    alone, _ = greedy(base, ids, [0])
    expected, _ = greedy(PeftModel.from_pretrained(base, shared / POEMS / "peft-safetensors").eval(), ids, [0])

    assert expected != alone
    assert [answered(poems, ids, GREEDY, adapter=name) for name in ("poems-f32.gguf", "", "poems-f16.gguf", "")] == [
        expected, alone, expected, alone,
    ]  # fmt: skip


def test_adapters_by_turns_from_several_threads_give_their_own_answers(poems):
    names = ("poems-f32.gguf", "", "poems-f16.gguf")
    ids = poems.prompt_ids([{"role": "user", "content": "题：秋夜\n"}])
    alone = {name: answered(poems, ids, GREEDY, adapter=name) for name in names}
    found: list[tuple[str, list[int]]] = []

    def ask(name: str) -> None:
        for _ in range(4):
            found.append((name, answered(poems, ids, GREEDY, adapter=name, client=name)))

    threads = [threading.Thread(target=ask, args=[name]) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)

    assert len(found) == 12
    assert all(ids == alone[name] for name, ids in found)


def test_the_recorded_poem(shared, poems):
    recorded = json.loads((shared / "lora/poem-zh-lora-generated/expected.json").read_text(encoding="utf-8"))["r8-qv"]
    ids = poems.prompt_ids([{"role": "user", "content": recorded["prompt"]}])
    *_, last = poems.stream(ids, {**GREEDY, "max_new_tokens": 100})

    assert recorded["prompt"] + last.text == recorded["greedy"]


def test_embeddings_are_the_means_of_hugging_faces_hidden_states(shared, poems):
    from peft import PeftModel

    texts = ["题：春日\n", "江南春草色", "北阙青山远，南天白日寒。" * 4, "A"]
    rows = [[1, *poems.tokenizer.encode(text)] for text in texts]
    base = hf_model(shared / "models/poem-zh-750k-hf")
    for name in ("", "poems-f32.gguf"):
        model = PeftModel.from_pretrained(base, shared / POEMS / "peft-safetensors") if name else base
        decoder = (model.get_base_model() if name else model).model
        found = torch.tensor(poems.engine.embed(rows, name))
        for row, vector in zip(rows, found, strict=True):
            with torch.inference_mode():
                expected = decoder(torch.tensor([row])).last_hidden_state[0].mean(0)
            assert torch.cosine_similarity(vector, expected, dim=0) > 0.999
            assert float(vector.norm()) == pytest.approx(1, abs=1e-4)
    with pytest.raises(UserError, match="text 2 has 129 tokens; expected 1 to 128"):
        poems.engine.embed([[1], [5] * 129], "")


def test_q8_0_and_q4_k_m_answer(tmp_path, tiny_base):
    folder = make_model(
        tmp_path / "hf", tiny_base / "tokenizer.model",
        hidden_size=256, intermediate_size=768, num_attention_heads=8, num_key_value_heads=4, initializer_range=0.06,
    )  # fmt: skip
    expected, _ = greedy(hf_model(folder), [1, 500, 600], [])
    for kind in ("q8_0", "q4_k_m"):
        assistant = opened(export(folder, tmp_path / f"{kind}.gguf", kind))
        found = answered(assistant, [1, 500, 600], {**GREEDY, "min_new_tokens": 32})
        assert len(found) == 32
        assert f"{'q8_0' if kind == 'q8_0' else 'q4_k'} · llama.cpp" in assistant.status(STRINGS["en"]["status"])
        if kind == "q8_0":
            assert found[0] == expected[0]


def test_generate_py_answers_from_a_gguf(program, exported, shared, tmp_path):
    file = exported("poem-zh-750k")
    done = program("generate.py", "--model_path", file, "--text", "题：春日\n", "--repetition_penalty", 1)

    assistant = opened(file)
    *_, expected = assistant.stream(
        assistant.prompt_ids([{"role": "user", "content": "题：春日\n"}]), {**GREEDY, "max_new_tokens": 256}
    )
    assert (done.returncode, done.stdout) == (0, expected.text + "\n"), done.stderr
    assert "Traceback" not in done.stderr
    assert "llama" not in done.stderr  # nothing of the library's own talk


def test_two_precisions_of_one_model_are_near_each_other(exported):
    ids = [1, *range(300, 360)]
    assert 0 < distance(gguf_logits(exported("tiny", "f16"), ids), gguf_logits(exported("tiny"), ids)) < 1e-2

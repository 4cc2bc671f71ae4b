"""The same programs on a GGUF file: HF's greedy text, settings that mean the same, adapters, stop and refusals."""

import json
import os
import random
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
)

from tests.answer.stops import Awaited, Looked, StopsAtLook
from tests.gguf.gguf_models import ROOT, distance, export, gguf_logits, hf_logits, hf_model, make_model

pytest.importorskip("gguf", reason="gguf is not installed: bash scripts/install_cpp.sh")
pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed: bash scripts/install_cpp.sh")

from vicuna.answer.assistant import Assistant, load_assistant
from vicuna.answer.decoding import generation_kwargs
from vicuna.answer.flags import DecodingFlags, ServeFlags
from vicuna.answer.llama_cpp_engine import CHUNK, LogitsProcessor, describe_model, resolve_gpu_layers
from vicuna.errors import UserError
from vicuna.gguf.library import load_llama_cpp
from vicuna.gguf.reader import read_model
from vicuna.model.flags import ModelFlags
from vicuna.pages.strings import STRINGS

BARE = GenerationConfig()
GREEDY = generation_kwargs(DecodingFlags(repetition_penalty=1.0, max_new_tokens=32), BARE)
PROMPTS = {
    "stories260K": ["Once upon a time", "Lily and Tom went", "The big red dog said,"],
    "babyllama-tok105": ["Once upon a time", "the dog", "She was so happy that"],
    "poem-zh-750k": ["题：春日\n", "题：送友人\n青山", "题：夜雨\n"],
}
# Where the two best logits are closer than this, as a share of the largest logit, either may come first.
NEAR = {"f32": 1e-5, "f16": 5e-3}
ROUNDED = {"f32": torch.float32, "f16": torch.float16}
POEMS = "lora/poem-zh-lora-generated/r8-qv"


def opened(file: Path, *lora: Path, **serve: object) -> Assistant:
    return load_assistant(ModelFlags(model_path=str(file)), ServeFlags(**serve), [str(one) for one in lora])


def answered(assistant: Assistant, ids: list[int], chosen: dict, seed: int | None = None, **more: object) -> list[int]:
    *_, last = assistant.stream(ids, chosen, seed, **more)
    return last.beams[0].ids


@pytest.fixture(scope="module")
def folders(shared, tiny_base) -> dict[str, Path]:
    return {name: shared / f"models/{name}-hf" for name in PROMPTS} | {"tiny": tiny_base}


@pytest.fixture(scope="module")
def exported(folders, tmp_path_factory):
    """exported("stories260K", "f32"): the file, made once."""
    made: dict[tuple[str, str], Path] = {}
    place = tmp_path_factory.mktemp("gguf")

    def get(name: str, kind: str = "f32") -> Path:
        if (name, kind) not in made:
            made[name, kind] = export(folders[name], place / f"{name}-{kind}.gguf", kind, prompt_type="text")
        return made[name, kind]

    return get


@pytest.fixture(scope="module")
def tiny(exported) -> Assistant:
    return opened(exported("tiny"))


@pytest.fixture(scope="module")
def poems(exported, shared, tmp_path_factory) -> Assistant:
    """The poem model with a real adapter at two types."""
    place = tmp_path_factory.mktemp("adapters")
    base, lora = shared / "models/poem-zh-750k-hf", str(shared / POEMS / "peft-safetensors")
    adapters = [
        export(base, place / f"poems-{kind}.gguf", kind, lora_path=lora, prompt_type="text") for kind in ("f32", "f16")
    ]
    return opened(exported("poem-zh-750k"), *adapters)


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
def test_the_greedy_text_is_that_of_hugging_face(folders, exported, name, kind):
    model, assistant = hf_model(folders[name], ROUNDED[kind]), opened(exported(name, kind))
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
def test_characters_without_a_piece_do_not_end_the_program(exported, folders, name, text):
    """Neither model has byte pieces, where llama.cpp's own tokenizer would end the process."""
    assistant = opened(exported(name))
    ids = assistant.prompt_ids([{"role": "user", "content": text}])
    assert 2 not in ids
    expected, _ = greedy(hf_model(folders[name]), ids, assistant.engine.suppressed)

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


def test_the_status_says_what_is_loaded(poems):
    assert poems.status(STRINGS["en"]["status"]) == (
        "base poem-zh-750k-f32.gguf · adapter poems-f32.gguf (r 8) · f32 · llama.cpp, CPU, 1 threads · prompt text"
    )
    assert [choice.prompt_type for choice in poems.choices.values()] == ["text"] * 3
    assert poems.warnings == []


def test_layers_for_a_gpu_are_refused_by_a_llama_cpp_that_has_none(exported, tiny_base):
    if load_llama_cpp().llama_supports_gpu_offload():
        pytest.skip("this llama.cpp has a GPU")
    for layers in (None, 0):
        status = opened(exported("tiny"), gpu_layers=layers).status(STRINGS["en"]["status"])
        assert "llama.cpp, CPU, 1 threads" in status
    with pytest.raises(
        UserError, match=r"--gpu_layers 2 needs .* CMAKE_ARGS=-DGGML_CUDA=on bash scripts/install_cpp\.sh"
    ):
        opened(exported("tiny"), gpu_layers=2)
    with pytest.raises(UserError, match="--gpu_layers -1"):
        ServeFlags(gpu_layers=-1)
    with pytest.raises(UserError, match="--gpu_layers 2 is for a GGUF file"):
        opened(tiny_base, gpu_layers=2)


def test_all_layers_go_to_the_gpu_unless_fewer_are_asked_for(exported):
    file = read_model(str(exported("tiny")))

    assert [resolve_gpu_layers(file, asked, has_gpu=True) for asked in (None, 0, 2, 99)] == [3, 0, 2, 3]
    assert describe_model(file, 2) == "f32 · llama.cpp, 2 of 3 layers on GPU, 1 threads"


def test_another_prompt_type_than_the_trained_one_warns(exported):
    assistant = opened(exported("tiny"), prompt_type="chat")

    assert assistant.first.prompt_type == "chat"
    assert assistant.warnings == [
        "the model in tiny-f32.gguf was trained with --prompt_type text; chat gives worse answers."
    ]


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


def test_an_adapter_given_twice_is_refused(poems):
    one = poems.engine.adapters["poems-f32.gguf"].path
    with pytest.raises(UserError, match=r"names the adapter .* twice"):
        opened(poems.engine.file.path, one, one)


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


def rewritten(file: Path, out: Path, tensors: bool = True, **keys: object) -> Path:
    """A copy of a GGUF with other string values; "" leaves a key out."""
    import gguf

    reader = gguf.GGUFReader(file)
    writer = gguf.GGUFWriter(out, str(keys.get("general.architecture", "llama")))
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        if field.types[0] == gguf.GGUFValueType.ARRAY:
            writer.add_array(name, field.contents())
        elif keys.get(name) != "":
            writer.add_key_value(name, keys.get(name, field.contents()), field.types[0])
    for tensor in reader.tensors if tensors else ():
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


def test_a_file_from_elsewhere_has_no_keys_of_ours_and_works(exported, tmp_path):
    ours = exported("tiny")
    keys = ("vicuna.prompt_type", "vicuna.generation_config", "vicuna.unknown_text", "tokenizer.chat_template")
    theirs = rewritten(ours, tmp_path / "x.gguf", **dict.fromkeys(keys, ""))

    assistant = opened(theirs, prompt_type="text")

    ids = assistant.prompt_ids([{"role": "user", "content": "春天"}])
    assert answered(assistant, ids, GREEDY) == answered(opened(ours), ids, GREEDY)
    assert opened(theirs).first.prompt_type == "instruct"


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"general.architecture": "gptneox"}, "is for the architecture gptneox; expected llama"),
        ({"tokenizer.ggml.model": "gpt2"}, "has gpt2 vocabulary; expected a SentencePiece one"),
        ({"vicuna.generation_config": "[1]"}, "is not JSON of settings"),
        ({"vicuna.generation_config": "{"}, "is not JSON of settings"),
    ],
)
def test_a_gguf_of_another_kind_is_refused(exported, tmp_path, keys, said):
    with pytest.raises(UserError, match=said):
        opened(rewritten(exported("tiny"), tmp_path / "x.gguf", **keys))


@pytest.mark.parametrize("magic", [b"lmgg", b"fmgg", b"tjgg"])
def test_a_file_from_before_gguf_is_refused_with_the_command_that_makes_it_again(tmp_path, magic):
    file = tmp_path / "ggml-model-q4_0.bin"
    file.write_bytes(magic + bytes(1000))

    with pytest.raises(
        UserError, match=r"before GGUF.*tools/export_gguf\.py --model_path FOLDER --out_path ggml-model-q4_0\.gguf"
    ):
        opened(file)


def test_what_is_no_gguf_is_refused(exported, tmp_path):
    (tmp_path / "x.gguf").write_bytes(b"version https://git-lfs.github.com/spec/v1")
    with pytest.raises(UserError, match="is a file, but not a GGUF one"):
        opened(tmp_path / "x.gguf")
    with pytest.raises(UserError, match=r"--model_path \S+y\.gguf does not exist"):
        opened(tmp_path / "y.gguf")
    whole = exported("tiny").read_bytes()
    for size in (5, 100, len(whole) // 2, len(whole) - 5000):
        (tmp_path / "x.gguf").write_bytes(whole[:size])
        with pytest.raises(UserError, match=r"(is broken or|is) incomplete.* Copy or export it again"):
            opened(tmp_path / "x.gguf")


@pytest.mark.parametrize(
    ("without", "tensors", "said"),
    [
        (["llama.context_length"], True, r"is no model: it has no llama\.context_length"),
        (["llama.block_count"], True, r"is no model: it has no llama\.block_count"),
        ([], False, r"is no model: it has no weights"),
    ],
)
def test_a_gguf_that_is_no_model_is_refused(exported, tmp_path, without, tensors, said):
    file = rewritten(exported("tiny"), tmp_path / "x.gguf", tensors, **dict.fromkeys(without, ""))
    with pytest.raises(UserError, match=said):
        opened(file)


def test_a_folder_with_the_name_of_a_gguf_is_refused(tmp_path):
    (tmp_path / "x.gguf").mkdir()
    with pytest.raises(UserError, match=r"x\.gguf is a folder; expected a GGUF file"):
        opened(tmp_path / "x.gguf")


def test_an_adapter_that_does_not_belong_is_refused(exported, poems, shared, tmp_path, tiny_base):
    adapter = poems.engine.adapters["poems-f32.gguf"].path
    with pytest.raises(UserError, match=r"was made for another base: its blk\.0\.attn_q\.weight\.lora_a is \(8, 96\)"):
        opened(exported("tiny"), adapter)
    with pytest.raises(UserError, match="is an adapter: pass it as --lora_path"):
        opened(adapter)
    with pytest.raises(UserError, match="is a whole model, not a LoRA adapter"):
        opened(exported("tiny"), exported("tiny"))
    with pytest.raises(UserError, match=r"is not a GGUF file, but .* Export the adapter.*--lora_path"):
        opened(exported("poem-zh-750k"), shared / POEMS / "peft-safetensors")
    with pytest.raises(UserError, match=r"no adapter 'x' is loaded; there is poems-f32\.gguf, poems-f16\.gguf"):
        next(poems.stream([1], GREEDY, adapter="x"))


def test_without_a_package_the_command_that_installs_it_is_named(exported, monkeypatch):
    for name in ("llama_cpp", "gguf"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, name, None)  # as if it were not installed
            load_llama_cpp.cache_clear()
            with pytest.raises(
                UserError, match=rf"not installed \(.*{name}.*\); install them: bash scripts/install_cpp.sh"
            ):
                opened(exported("tiny"))
    load_llama_cpp.cache_clear()


def test_two_precisions_of_one_model_are_near_each_other(exported):
    ids = [1, *range(300, 360)]
    assert 0 < distance(gguf_logits(exported("tiny", "f16"), ids), gguf_logits(exported("tiny"), ids)) < 1e-2


@pytest.mark.parametrize(
    ("argv", "variables", "expected"),
    [
        (["x.gguf"], {}, ["--model_path", "{here}/x.gguf"]),
        (["/models/x y.gguf", "--cli"], {}, ["--model_path", "/models/x y.gguf", "--cli"]),
        (["--cli"], {"BASE_MODEL": "x.gguf"}, ["--model_path", "{here}/x.gguf", "--cli"]),
        (
            ["x.gguf"],
            {"LORA_PATH": "a.gguf /b.gguf"},
            ["--model_path", "{here}/x.gguf", "--lora_path", "{here}/a.gguf", "/b.gguf"],
        ),
    ],
)
def test_the_launcher_for_the_cpu_finds_files_where_it_was_called(tmp_path, argv, variables, expected):
    python = tmp_path / "python"
    python.write_text("#!/usr/bin/env bash\nprintf '%s\\n' \"$@\"\n", encoding="utf-8")
    python.chmod(0o755)
    env = {"PATH": os.environ["PATH"], "PYTHON": str(python), **variables}

    done = subprocess.run(
        ["bash", str(ROOT / "scripts/chat_cpu.sh"), *argv], cwd=tmp_path, env=env, capture_output=True, text=True
    )

    assert done.stdout.splitlines() == ["chat.py", *(part.format(here=tmp_path) for part in expected)]


def test_the_launcher_for_the_cpu_asks_for_a_file(tmp_path):
    done = subprocess.run(["bash", str(ROOT / "scripts/chat_cpu.sh")], cwd=tmp_path, capture_output=True, text=True)

    assert (done.returncode, done.stdout) == (2, "")
    assert "name a GGUF file" in done.stderr

"""One template everywhere: 10,000 random dialogues have the same prompt ids in training and on every path that serves.

Compared, id by id, for each of the eight prompt types (an eighth of the dialogues each):

    training      what `vicuna.prompt.templates.encode` puts in front of the answer that is learnt
    chat page     `ChatController.trim`, on transformers and on the GGUF that tools/export_gguf.py makes of the merged
                  folder
    API           the request of /v1/chat/completions as `vicuna.api.parsing.parse_chat` reads it, on both as well
    one question  `Assistant.prompt_ids`, which generate.py asks with (records with an input; the two above have none)
    chat_template the template in the folder that tools/merge_lora.py wrote, read back by AutoTokenizer: text behind
                  BOS, tokenised with split_special_tokens=True
    llama.cpp     its own tokenizer on that text, control words not parsed; our GGUF path never asks it

Texts hold Chinese, English, emoji, code, words of the templates, the control words <s>, </s> and <unk>, and nothing.
Programs that look for control words in users' texts themselves (vLLM, Ollama, llama.cpp's server, and
`apply_chat_template(tokenize=True)`) turn a typed </s> into the id; for them dialogues with such words are excluded,
and the others compared. `chat_eos` has EOS ids within the prompt, behind which every tokenizer but ours puts one more
dummy space: there its ids are compared without these spaces, and only where there are no control words.

Every trained answer ends in the id that stops generation: of the tokenizer, of both engines, of the merged folder.

The tiny tokenizer takes all 10,000. Where ../shared/data is there, LLaMA's own tokenizer and that of Chinese-LLaMA-2,
as folders of 2023 have them, and the one of poem-zh-750k take 100 of `instruct`, `chat` or `chinese_alpaca`; the last
has no byte pieces, for want of which llama.cpp's tokenizer ends the process, so that path is left out there.
"""

import json
import random
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.export.tool_models import random_llama, tool
from tests.gguf.gguf_models import export
from tests.served import make_adapter

pytest.importorskip("gguf", reason="gguf is not installed: bash scripts/install_cpp.sh")
pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed: bash scripts/install_cpp.sh")

from vicuna.answer.assistant import Assistant
from vicuna.answer.flags import ChatFlags, DecodingFlags, ServeFlags
from vicuna.answer.loading import load_assistant
from vicuna.api.parsing import parse_chat
from vicuna.gguf.library import load_llama_cpp
from vicuna.model.flags import ModelFlags
from vicuna.pages.chat_controller import ChatController
from vicuna.pages.chat_queue import ChatSettings
from vicuna.prompt.chat_template import chat_template
from vicuna.prompt.templates import IGNORE_INDEX, PROMPT_TYPES, TEMPLATES, Encoded, encode, render, split_system
from vicuna.prompt.tokenizer import TextTokenizer

COUNT = 10_000
CONTEXT = 4096
CONTROL = ("<s>", "</s>", "<unk>")
PIECES = [
    *("你好", "春天的花有哪些？", "，", "。", "　", "鹉", "𠮷野家", "한국어", "Tell me ", "What is a llama?", " a "),
    *("🦙", "👨‍👩‍👧", "🏳️‍🌈", "é", "e\u0301", "ﬁ", "\u00a0", "\ufeff", "\u200b", "\ufffd", "\x00", "\x7f", "▁"),
    *(" ", "  ", "     ", "\n", "\n\n", "\r\n", "\t", "\\n", '"', "'", "#", "0x1F", "12:30", "$x^2$", "|a|b|"),
    *("```cpp\nvector<int> x; a<b && c\n```", "def f(x):\n    return {'a': x[1:]}", "<b>&amp;</b>", "%s %d", "{0}"),
    *("User:", "\n\nAssistant:", "\nUser:", "Bot:", "### Instruction:\n", "### Input:\n", "### Response:", "[PAD1800]"),
    *("{content}", "{input}", "{{ bos_token }}", "{% for x in y %}", "{# x #}", "{{", "[INST]", "<|im_end|>", "<0x0A>"),
    "The following is a conversation between an AI assistant called Assistant and a human user called User.",
]  # fmt: skip


def drawn_text(draw: random.Random, least: int = 0) -> str:
    """Up to six pieces, control words among them in one text of ten, and now and then letters from everywhere."""
    pieces = draw.choices(PIECES, k=draw.randint(least, 6))
    if draw.random() < 0.1:
        pieces.insert(draw.randint(0, len(pieces)), draw.choice(CONTROL))
    if draw.random() < 0.2:
        pieces += [chr(draw.choice((draw.randint(32, 126), draw.randint(0x4E00, 0x9FFF)))) for _ in range(5)]
    return "".join(pieces)


def dialogue(prompt_type: str, seed: int) -> list[dict]:
    """A random dialogue that the prompt type has place for and that ends with an answer, which alone is never empty."""
    draw, template = random.Random(seed), TEMPLATES[prompt_type]
    turns = draw.randint(0, 3) if template.turn else 0
    messages = [{"role": role, "content": drawn_text(draw)} for _ in range(turns + 1) for role in ("user", "assistant")]
    messages[-1]["content"] = drawn_text(draw, 1)
    if template.takes_system and draw.random() < 0.4:
        messages.insert(0, {"role": "system", "content": drawn_text(draw)})
    if draw.random() < 0.15:
        messages[-2]["input"] = drawn_text(draw)
    return messages


def has_control(messages: list[dict]) -> bool:
    return any(word in text for one in messages for text in (one["content"], one.get("input", "")) for word in CONTROL)


@dataclass
class Paths:
    """A model that was trained with one prompt type, as everything that makes prompt ids of a dialogue."""

    prompt_type: str
    trained: TextTokenizer
    merged: Path
    hugging_face: Any  # AutoTokenizer
    served: dict[str, ChatController]  # the chat page on transformers and on GGUF
    llama_cpp: Any = None

    def stops(self) -> list[set[int]]:
        """The ids that end an answer, as each path knows them."""
        found = [{self.trained.eos_id}, {self.hugging_face.eos_token_id}]
        declared = json.loads((self.merged / "generation_config.json").read_text(encoding="utf-8"))["eos_token_id"]
        found.append(set(declared if isinstance(declared, list) else [declared]))
        assistant = self.served["hf"].assistant
        found.append({assistant.engine.generation_config.eos_token_id})
        return [*found, self.served["gguf"].assistant.engine.eos_ids]

    def example(self, messages: list[dict], train_turns: str = "last") -> tuple[list[int], Encoded]:
        """The prompt's ids in training, and the whole example."""
        example = encode(self.trained, self.prompt_type, messages, 1 << 20, train_turns=train_turns)
        first = next(at for at, label in enumerate(example.labels) if label != IGNORE_INDEX)
        return example.input_ids[:first], example

    def asked(self, messages: list[dict]) -> dict[str, list[int]]:
        """Where a prompt comes from -> its ids."""
        found = {}
        for name, controller in self.served.items():
            found[f"one question, {name}"] = controller.assistant.prompt_ids(messages)
            if "input" not in messages[-1]:
                found[f"chat page, {name}"] = controller.trim(messages, settings(controller.assistant)).ids
                flags, body = ChatFlags(max_memory=CONTEXT), {"messages": messages}
                asked = parse_chat(body, controller.assistant, flags, DecodingFlags(), "127.0.0.1:1")
                found[f"API, {name}"] = asked.prompts[0]
        return found

    def rendered(self, messages: list[dict]) -> str:
        """What the merged folder's template makes of the messages, behind BOS."""
        text = self.hugging_face.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert text.startswith(self.hugging_face.bos_token)
        return text.removeprefix(self.hugging_face.bos_token)


def settings(assistant: Assistant) -> ChatSettings:
    return ChatSettings("", assistant.first.prompt_type, "", CONTEXT, False, {"max_new_tokens": 1})


def paths(base: Path, place: Path, prompt_type: str) -> Paths:
    """Train (with random weights), merge, export and load."""
    from transformers import AutoTokenizer

    adapter = make_adapter(base, place / "adapter", prompt_type, 0)
    merged, merge = place / "merged", tool("merge_lora")
    merge.main(merge.MergeFlags(model_path=str(base), lora_path=[str(adapter)], out_path=str(merged)))
    file = export(merged, place / "merged.gguf", "f16")
    served = {
        name: ChatController(load_assistant(ModelFlags(model_path=str(path), bits=32), ServeFlags()), None, True)
        for name, path in (("hf", merged), ("gguf", file))
    }
    found = Paths(prompt_type, TextTokenizer(base), merged, AutoTokenizer.from_pretrained(merged), served)
    if found.trained.unk_id not in found.trained.encode("\x00"):
        found.llama_cpp = load_llama_cpp().Llama(str(file), vocab_only=True, verbose=False)
    return found


@pytest.fixture(scope="module")
def roomy(tiny_base, tmp_path_factory) -> Path:
    """The tiny base's tokenizer with a context that every dialogue fits in."""
    return random_llama(
        tmp_path_factory.mktemp("roomy") / "roomy", tiny_base, vocab_size=1800, hidden_size=32, intermediate_size=64,
        max_position_embeddings=CONTEXT,
    )  # fmt: skip


@pytest.fixture(scope="module", params=PROMPT_TYPES)
def everywhere(request, roomy, tmp_path_factory) -> Paths:
    return paths(roomy, tmp_path_factory.mktemp("trained"), request.param)


def test_ten_thousand_dialogues_have_the_same_ids_everywhere(everywhere):
    prompt_type = everywhere.prompt_type
    assert everywhere.llama_cpp
    seeds = range(PROMPT_TYPES.index(prompt_type), COUNT, len(PROMPT_TYPES))
    empty = with_words = 0
    for seed in seeds:
        messages = dialogue(prompt_type, seed)
        same_everywhere(everywhere, messages, f"seed {seed}")
        empty += any(not one["content"].strip() for one in messages[:-1])
        with_words += has_control(messages[:-1])
    assert min(empty, with_words) > len(seeds) / 20  # the hard ones were among them


def same_everywhere(found: Paths, messages: list[dict], which: str) -> None:
    """The prompt's ids are the same on every path."""
    *asked, answer = messages
    turns = len(split_system(asked)[1]) // 2
    prompt, example = found.example(messages)
    for where, ids in found.asked(asked).items():
        assert ids == prompt, (which, where)
    learnt = example.input_ids[len(prompt) :]
    eos = found.trained.eos_id
    apart = TEMPLATES[found.prompt_type].answer_apart
    as_text = found.trained.encode if apart else found.trained.encode_continuation
    assert learnt == [*as_text(answer["content"]), eos], which
    assert eos not in learnt[:-1], which
    assert prompt.count(eos) == (turns if found.prompt_type == "chat_eos" else 0), which

    text = found.rendered(asked)
    if found.prompt_type != "chat_eos":
        assert text == render(found.prompt_type, asked), which
        without_parsing(found, text, prompt, which)
    if not has_control(asked):
        parsing(found, asked, text, prompt, which)


def without_parsing(found: Paths, text: str, prompt: list[int], which: str) -> None:
    """Tokenizers of others that are told to take control words for text."""
    ids = found.hugging_face(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert ids == prompt[1:], (which, "chat_template")
    if found.llama_cpp:
        assert found.llama_cpp.tokenize(text.encode(), add_bos=True, special=False) == prompt, (which, "llama.cpp")


def parsing(found: Paths, asked: list[dict], text: str, prompt: list[int], which: str) -> None:
    """Programs that look for control words in the whole rendered text, which has none but the template's."""
    ids = found.hugging_face.apply_chat_template(asked, add_generation_prompt=True)["input_ids"]
    assert without_spaces_behind_eos(found, ids) == prompt, (which, "apply_chat_template")
    if found.llama_cpp:
        ids = found.llama_cpp.tokenize(f"<s>{text}".encode(), add_bos=False, special=True)
        assert without_spaces_behind_eos(found, ids) == prompt, (which, "llama.cpp's server")


def without_spaces_behind_eos(found: Paths, ids: list[int]) -> list[int]:
    """`ids` without the dummy space that others put behind each EOS within the text, which only chat_eos has."""
    if found.prompt_type != "chat_eos":
        return ids
    (space,) = set(found.trained.encode("\n")) - set(found.trained.encode_continuation("\n"))
    eos = found.trained.eos_id
    kept = [one for before, one in zip([None, *ids], ids, strict=False) if (before, one) != (eos, space)]
    assert len(ids) - len(kept) == ids.count(eos)
    return kept


def test_the_gguf_holds_the_template_of_the_merged_folder(everywhere):
    inside = everywhere.served["gguf"].assistant.engine.file.keys["tokenizer.chat_template"]
    assert inside == everywhere.hugging_face.chat_template == chat_template(everywhere.prompt_type)


def test_every_trained_answer_ends_in_the_id_that_stops_generation(everywhere):
    stops = everywhere.stops()
    assert len(stops) == 5
    for seed in range(300):
        messages = dialogue(everywhere.prompt_type, seed)
        _, example = everywhere.example(messages)
        assert all(example.input_ids[-1] in ids for ids in stops)
        if everywhere.prompt_type == "chat_eos":
            _, example = everywhere.example(messages, "all")
            labels = [*example.labels, IGNORE_INDEX]
            ends = [one for one, after in pairwise(labels) if after == IGNORE_INDEX != one]
            assert len(ends) == len(split_system(messages)[1]) // 2
            assert all(end in ids for end in ends for ids in stops)


@pytest.mark.parametrize(
    ("name", "prompt_type"),
    [
        ("tokenizers/llama", "instruct"),
        ("tokenizers/chinese-llama-2", "chat"),
        ("tokenizers/chinese-llama-2", "chinese_alpaca"),
        ("models/poem-zh-750k-hf", "instruct"),
    ],
)
def test_real_tokenizers_have_the_same_ids_too(shared, tmp_path, name, prompt_type):
    size = TextTokenizer(shared / name).size
    base = random_llama(
        tmp_path / "base", shared / name, vocab_size=size, hidden_size=32, max_position_embeddings=CONTEXT
    )
    found = paths(base, tmp_path, prompt_type)
    assert (found.llama_cpp is None) == (name == "models/poem-zh-750k-hf")
    for seed in range(100):
        same_everywhere(found, dialogue(prompt_type, seed), f"seed {seed}")

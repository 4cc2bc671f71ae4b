"""Ask the base alone and the base with its adapter the same questions, and print the answers side by side.

    python tools/compare_answers.py --model_path models/tiny-llama-zh --lora_path lora-Vicuna

Reads records with their expected answers from --questions, in any format of training data. Of a dialogue every user
turn is asked, behind the model's own earlier answers, and the last answer counts. It is right when it begins as the
expected one does, for its first 8 characters. Answers are greedy.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vicuna import log
from vicuna.answer.flags import DecodingFlags, ServeFlags
from vicuna.args import flag, parse
from vicuna.data.records import read_records
from vicuna.errors import UserError, run
from vicuna.files.aside import write_text
from vicuna.model.flags import ModelFlags
from vicuna.prompt.templates import Message

if TYPE_CHECKING:
    from vicuna.answer.assistant import Assistant

BEGINNING = 8  # characters that decide


@dataclass
class CompareFlags:
    """What is asked, and what is demanded."""

    lora_path: str = flag("lora-Vicuna", "adapter: a folder or a hub id")
    questions: str = flag("sample/instruct/quickstart.json", "records that are asked, single questions or dialogues")
    at_least: int = flag(0, "end with status 1 when the adapter has fewer right answers")
    json_path: str = flag("", "also write the answers to this file")


def main(model_flags: ModelFlags, flags: CompareFlags) -> None:
    """Ask, compare, print."""
    log.set_up()
    from vicuna.answer.first_look import look_first

    look_first(model_flags.model_path, ServeFlags(), [flags.lora_path])  # a path that is mistyped is told before torch
    records = read_records(flags.questions, "instruct")
    from tqdm import tqdm

    from vicuna.answer.decoding import generation_kwargs
    from vicuna.answer.loading import load_assistant

    assistant = load_assistant(model_flags, ServeFlags(), [flags.lora_path])
    for warning in assistant.warnings:
        log.log.warning("WARNING %s", warning)
    chosen = generation_kwargs(
        DecodingFlags(repetition_penalty=1.0, max_new_tokens=64), assistant.engine.generation_config
    )
    rows = []
    for dialogue in tqdm(records.dialogues, desc="Asking", unit="question", disable=None, leave=False):
        expected = dialogue[-1]["content"]
        row = {"question": " / ".join(turn["content"] for turn in dialogue if turn["role"] == "user")}
        row["expected"] = expected
        for who, adapter in (("base", ""), ("adapter", None)):
            row[who] = last_answer(assistant, dialogue, chosen, adapter)
            row[f"{who}_right"] = row[who].startswith(expected[:BEGINNING])
        rows.append(row)
    for row in rows:
        print(f"\n{row['question']}")
        for who in ("base", "adapter"):
            mark = "✓" if row[f"{who}_right"] else "✗"
            print(f"  {who:<8}{mark}  {row[who].strip()[:60]!r}")
    right = {who: sum(row[f"{who}_right"] for row in rows) for who in ("base", "adapter")}
    print(f"\nright answers of {len(rows)}: base {right['base']}, adapter {right['adapter']}")
    if flags.json_path:
        write_text(Path(flags.json_path), json.dumps(rows, ensure_ascii=False, indent=2) + "\n")
    if right["adapter"] < flags.at_least:
        raise UserError(
            f"the adapter has {right['adapter']} right answers, --at_least {flags.at_least} were asked for."
        )
    sys.stdout.flush()


def last_answer(assistant: "Assistant", dialogue: list[Message], chosen: dict[str, Any], adapter: str | None) -> str:
    """What is answered to the last user turn, behind what the same model has answered to those before."""
    told: list[Message] = []
    for turn in dialogue:
        if turn["role"] == "assistant":
            prompt_ids = assistant.prompt_ids(told)
            *_, last = assistant.stream(prompt_ids, chosen, adapter=adapter, prompt_type=assistant.first.prompt_type)
            turn = {"role": "assistant", "content": last.text}
        told.append(turn)
    return told[-1]["content"]


if __name__ == "__main__":
    run(lambda: main(*parse(__doc__, ModelFlags, CompareFlags)))

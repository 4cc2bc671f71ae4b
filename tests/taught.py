"""A small base that has learnt some dialogues by heart: it thinks, and calls a function, in its template's form."""

from pathlib import Path
from typing import Any

from tests.own_bases import write_base

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {}}},
    },
}
HELLO = [{"role": "user", "content": "你好"}]
THOUGHT, GREETING, BRIEFLY = "先打个 <b>招呼</b>。", "你好！有什么事？", "好。"
ASK_WEATHER = [{"role": "user", "content": "北京天气？"}]
SAID_BEFORE, CITY = "我查一下。", {"city": "北京"}
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "北京"}'}}
CALLED = [*ASK_WEATHER, {"role": "assistant", "content": SAID_BEFORE, "tool_calls": [CALL]}]
TOLD = [*CALLED, {"role": "tool", "tool_call_id": "call_1", "content": "晴"}]
SUNNY = "今天晴。"
SECOND = [*HELLO, {"role": "assistant", "content": GREETING}, {"role": "user", "content": "再见"}]
BYE = "再见！"


def dialogues() -> list[tuple[str, list[dict[str, Any]]]]:
    """What it has learnt, each under a setting of --thinking."""

    def with_tools(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{**messages[0], "tools": [WEATHER]}, *messages[1:]]

    return [
        ("keep", [*HELLO, {"role": "assistant", "content": GREETING, "reasoning_content": THOUGHT}]),
        ("empty", [*HELLO, {"role": "assistant", "content": BRIEFLY}]),
        ("drop", with_tools(CALLED)),
        ("drop", with_tools([*TOLD, {"role": "assistant", "content": SUNNY}])),
        ("keep", [*SECOND, {"role": "assistant", "content": BYE, "reasoning_content": "他要走了。"}]),
    ]


def teach(folder: Path, kind: str = "thinking", steps: int = 160) -> Path:
    """Write such a base; training it takes some seconds."""
    import torch
    from transformers import AutoModelForCausalLM

    from vicuna.prompt.templates import BASE, encode
    from vicuna.prompt.tokenizer import TextTokenizer

    write_base(folder, kind)
    tokenizer = TextTokenizer(folder)
    rows = [encode(tokenizer.with_settings(thinking=thinking), BASE, one, 512) for thinking, one in dialogues()]
    longest = max(len(row.input_ids) for row in rows)
    ids, labels = (
        torch.tensor([[*values, *[pad] * (longest - len(values))] for values in found])
        for found, pad in (([row.input_ids for row in rows], 0), ([row.labels for row in rows], -100))
    )
    model = AutoModelForCausalLM.from_pretrained(folder)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0)
    for _ in range(steps):
        loss = model(input_ids=ids, labels=labels).loss
        if loss.item() < 0.02:
            break
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    assert loss.item() < 0.02
    model.save_pretrained(folder)
    return folder

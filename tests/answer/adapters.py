"""What the tests of adapters share: adapters of random values, loaded together and asked."""

import json
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model

from vicuna.answer.assistant import Assistant
from vicuna.answer.flags import ServeFlags
from vicuna.answer.loading import load_assistant
from vicuna.model import adapter
from vicuna.model.base import check_base, load_base
from vicuna.model.flags import ModelFlags

GREEDY = {"do_sample": False, "num_beams": 1, "repetition_penalty": 1.2, "max_new_tokens": 16, "min_new_tokens": 16}
SAMPLING = {**GREEDY, "do_sample": True, "temperature": 0.9, "top_k": 30, "top_p": 0.9}
SEARCH = {**GREEDY, "num_beams": 3}
PROMPTS = [list(range(300 + 40 * n, 340 + 30 * n)) for n in range(3)]


def make_adapter(base: Path, folder: Path, seed: int, prompt_type: str = "", **config) -> Path:
    """An adapter of random values, everything it replaces included."""
    torch.manual_seed(seed)
    settings = {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"], **config}
    model = get_peft_model(load_base(check_base(str(base)), 32), LoraConfig(task_type="CAUSAL_LM", **settings))
    for name, value in model.named_parameters():
        if "lora_B" in name or "modules_to_save" in name:
            torch.nn.init.normal_(value, std=0.3)
    adapter.save_adapter(model, folder)
    if prompt_type:
        (folder / "run_args.json").write_text(json.dumps({"prompt_type": prompt_type, "step": 7}), encoding="utf-8")
    return folder


def loaded(base: Path, paths: list, bits: int = 32, **serve) -> Assistant:
    return load_assistant(
        ModelFlags(model_path=str(base), bits=bits), ServeFlags(**serve), [str(path) for path in paths]
    )


def answer(assistant: Assistant, name: str | None, ids: list[int], chosen: dict, client: str = "") -> list[list[int]]:
    *_, last = assistant.stream(ids, chosen, seed=3, adapter=name, client=client)
    return [beam.ids for beam in last.beams]

"""What the tests of bases and adapters share: the tiny base, adapters of random values for it, and their logits."""

from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

from vicuna.model.base import check_base, load_base

IDS = torch.tensor([[1, 300, 500, 700, 900, 1100, 1300, 1500]])
ALL_MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS.to(model.device)).logits.float().cpu()


def base_model(tiny_base: Path, bits: int = 32) -> torch.nn.Module:
    return load_base(check_base(str(tiny_base)), bits)


def new_adapter(tiny_base: Path, learnt: bool = True, **config: object) -> torch.nn.Module:
    """The tiny base with an adapter of random values, lora_B included where it has `learnt`."""
    torch.manual_seed(1)
    settings = {"r": 8, "lora_alpha": 16, "lora_dropout": 0.05, "target_modules": ["q_proj", "v_proj"], **config}
    model = get_peft_model(base_model(tiny_base), LoraConfig(task_type="CAUSAL_LM", **settings))
    if learnt:
        for name, value in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(value, std=0.3)
    return model


def listing(folder: Path) -> dict[str, bytes]:
    """Every file below `folder` with its content."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def train_losses(folder: Path, bits: int, evaluate: bool) -> list[float]:
    """Losses of three training steps, with or without an evaluation between them."""
    model = prepare_model_for_kbit_training(load_base(check_base(str(folder)), bits), False)
    torch.manual_seed(0)
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "gate_proj"]))
    optimizer = torch.optim.SGD([value for value in model.parameters() if value.requires_grad], lr=0.5)
    losses = []
    for _ in range(3):
        model.train()
        loss = model(input_ids=IDS.to(model.device), labels=IDS.to(model.device)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if evaluate:
            logits(model)
    return losses

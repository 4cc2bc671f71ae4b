"""Anything that base + adapters are exported to, opened as what gives logits: folders, shards, GGUF, fewer bits.

An artefact also says what other programs take from it beside its weights (`Identity`), and how the base alone is
opened in the same type: its control.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM

from vicuna.certificate.adapted_base import load_with_adapters
from vicuna.certificate.identity import (
    Identity,
    base_identity,
    gguf_adapter_identity,
    gguf_identity,
    meta_identity,
)
from vicuna.errors import UserError, listing
from vicuna.evaluation.runners import HFRunner, LlamaCppRunner
from vicuna.export.meta_layout import MetaModel, is_meta, read_meta
from vicuna.export.meta_params import NORM_EPS, ROPE_THETA, LlamaShape
from vicuna.export.updates import AdapterUpdate
from vicuna.files.json_files import read_json
from vicuna.files.tensors import dtype_name, main_dtype, read_tensor_files, weight_paths
from vicuna.foreign.odd_files import NEVER_RUN
from vicuna.gguf_file import reader
from vicuna.gguf_file.types import PLAIN_TYPES, QUANTISED_TYPES
from vicuna.model.base import Base, check_base, device, load_base
from vicuna.model.found import ADAPTER_CONFIG, holds_adapter
from vicuna.model.gptq import KERNELS


@dataclass(frozen=True)
class Setup:
    """What artefacts are opened beside.

    Attributes:
        stored: as it is; base: with what its weights stand for, where they are quantised; alone: that with as many
            embeddings as the adapters bring, for controls.
        updates: the adapters, in order.
        context: longest row, in tokens.
        aside: a folder for files that are made on the way.
    """

    stored: Base
    base: Base
    alone: Base
    updates: list[AdapterUpdate]
    context: int
    aside: Path


class Artefact:
    """Something that was exported.

    Attributes:
        type: a row of `vicuna.certificate.verdict.BOUNDS`.
        files: what is hashed.
        vocab: rows of its embeddings, 0 where they are the reference's.
    """

    layout: str
    name: str
    type: str
    files: list[Path]
    vocab = 0

    def identity(self) -> Identity | None:
        """What it says about itself, None where it says nothing."""

    def open(self, setup: Setup) -> Any:
        """The model.

        Raises:
            UserError: it can not be opened.
        """

    def control(self, setup: Setup) -> Any:
        """The base alone in the same type."""
        return HFRunner(load_base(setup.alone, 32))

    @property
    def control_name(self) -> str:
        """What tells its control from those of other artefacts."""
        return f"the base in {self.type}"


class HFFolder(Artefact):
    """A folder in Hugging Face format, of any precision that transformers opens."""

    layout = "HF"

    def __init__(self, path: Path):
        self.path, self.name, self.files = path, str(path), [path]
        self.settings = read_json(path / "config.json").get("quantization_config") or {}
        self.type = self._type()
        self.bits = {"8 bit": 8, "4 bit": 4}.get(self.type, 0)  # of bitsandbytes
        self.vocab = read_json(path / "config.json").get("vocab_size", 0)

    def _type(self) -> str:
        method = self.settings.get("quant_method", "")
        if method == "bitsandbytes":
            return "8 bit" if self.settings.get("load_in_8bit") else "4 bit"
        if method:
            return f"{method} {self.settings.get('bits', '?')} bit"
        return dtype_name(main_dtype(read_tensor_files(weight_paths(self.path))))

    def identity(self) -> Identity:
        return base_identity(check_base(str(self.path)))

    def open(self, setup: Setup) -> HFRunner:
        if holds_adapter(self.path):
            raise UserError(
                "an adapter lies in it, which transformers loads together with it: move adapter_config.json and "
                "adapter_model.* out of the folder."
            )
        # What GPTQ and AWQ lost is told from what 16 bits would lose on top.
        exact = not self.settings or self.settings.get("quant_method") in KERNELS
        bits = self.bits or (32 if exact else 16)
        return HFRunner(load_base(check_base(str(self.path)), bits))

    def control(self, setup: Setup) -> HFRunner:
        if self.bits:
            return HFRunner(load_base(setup.alone, self.bits))
        return super().control(setup) if self.settings else rounded_base(setup.alone, self.type)

    @property
    def control_name(self) -> str:
        return "the base in float32" if self.settings and not self.bits else super().control_name


class MetaFolder(Artefact):
    """A folder of Meta's consolidated.*.pth, computed by transformers."""

    layout = "pth"

    def __init__(self, path: Path):
        self.path, self.name, self.files = path, str(path), [path]
        self.meta: MetaModel = read_meta(path, flag="--export")
        self.type = dtype_name(main_dtype(self.meta.tensors()))
        self.vocab = self.meta.shape.vocab

    def identity(self) -> Identity:
        return meta_identity(self.path, self.meta.tokenizer)

    def open(self, setup: Setup) -> HFRunner:
        shape, params = LlamaShape.from_config(setup.alone.config, setup.alone.path), self.meta.params
        if shape != self.meta.shape:
            odd = [name for name, value in vars(shape).items() if vars(self.meta.shape)[name] != value]
            raise UserError(
                f"its {odd[0]} is {vars(self.meta.shape)[odd[0]]}, that of base + adapters {vars(shape)[odd[0]]}."
            )
        config = deepcopy(setup.alone.config)
        config.tie_word_embeddings = False  # this layout has both
        config.rms_norm_eps = params.get("norm_eps", NORM_EPS)
        rope = config.rope_parameters or {"rope_type": "default"}
        config.rope_parameters = {**rope, "rope_theta": float(params.get("rope_theta", ROPE_THETA))}
        tensors = {name: parts[0 : parts.shape[0]] for name, parts in self.meta.tensors().items()}
        model = LlamaForCausalLM.from_pretrained(
            None, config=config, state_dict=tensors, dtype=torch.float32, **NEVER_RUN
        )
        return HFRunner(model.to(device()))

    def control(self, setup: Setup) -> HFRunner:
        return rounded_base(setup.alone, self.type)


class GGUFModel(Artefact):
    """A whole model as a GGUF file, in llama.cpp."""

    layout = "GGUF"

    def __init__(self, file: reader.GGUFFile):
        self.file, self.name, self.files = file, str(file.path), [file.path]
        self.kind = file_type(file)
        self.type = f"gguf {self.kind}"
        self.vocab = file.shapes["token_embd.weight"][0]

    def identity(self) -> Identity:
        return gguf_identity(self.file)

    def open(self, setup: Setup) -> LlamaCppRunner:
        return LlamaCppRunner(self.file, setup.context)

    def control(self, setup: Setup) -> LlamaCppRunner:
        from vicuna.gguf import model_file

        if self.kind not in (*PLAIN_TYPES, *QUANTISED_TYPES):
            return HFRunner(load_base(setup.alone, 32))
        model_file.check_exportable(setup.alone)
        made = setup.aside / f"base-{self.kind}.gguf"
        model_file.write_model(setup.alone, made, self.kind)
        model = LlamaCppRunner(reader.read_gguf_model(str(made)), setup.context)
        made.unlink()  # it is mapped as long as it is needed
        return model

    @property
    def control_name(self) -> str:
        return f"the base as {self.type}"


class GGUFAdapter(GGUFModel):
    """An adapter as a GGUF file on a GGUF file of its base."""

    layout = "GGUF adapter"

    def __init__(self, lora: reader.GGUFFile, file: reader.GGUFFile):
        super().__init__(file)
        self.lora, self.name, self.files = lora, f"{lora.path} on {file.path}", [lora.path, file.path]

    def identity(self) -> Identity:
        return gguf_adapter_identity(self.lora, self.file)

    def open(self, setup: Setup) -> LlamaCppRunner:
        return LlamaCppRunner(self.file, setup.context, self.lora)

    def control(self, setup: Setup) -> LlamaCppRunner:
        return LlamaCppRunner(self.file, setup.context)

    @property
    def control_name(self) -> str:
        return f"{self.file.path} alone"


class QuantisedBase(Artefact):
    """Base + adapters with the base at fewer bits, as the programs here open them."""

    layout = "bits"

    def __init__(self, bits: int):
        self.bits, self.name, self.files = bits, f"--bits {bits}", []
        self.type = f"{bits} bit"

    def open(self, setup: Setup) -> HFRunner:
        return HFRunner(load_with_adapters(setup.stored, setup.updates, self.bits))

    def control(self, setup: Setup) -> HFRunner:
        grown = setup.alone is not setup.base
        return HFRunner(load_base(setup.alone if grown else setup.stored, self.bits))


def rounded_base(base: Base, dtype: str) -> HFRunner:
    """The base, its weights rounded to a dtype and computed in float32."""
    model = load_base(base, 32)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(getattr(torch, dtype)).float()
    return HFRunner(model)


def detect_artefacts(name: str, base_ggufs: Sequence[str]) -> list[Artefact]:
    """What `--export` names: an adapter in GGUF once for each GGUF of its base.

    Raises:
        UserError: nothing that is known, or broken.
    """
    path = Path(name).expanduser()
    if not path.exists():
        raise UserError(f"--export {name} does not exist.")
    if path.is_file():
        file = reader.read_gguf(name, "--export")
        if not file.is_adapter:
            return [GGUFModel(file)]
        if not base_ggufs:
            raise UserError(f"--export {name} is an adapter: name the GGUF of its base with --base_gguf.")
        bases = [reader.read_gguf_model(one) for one in base_ggufs]
        return [GGUFAdapter(reader.read_gguf_adapter(name, base), base) for base in bases]
    if is_meta(path):
        return [MetaFolder(path)]
    if (path / "config.json").is_file():
        return [HFFolder(path)]
    if (path / ADAPTER_CONFIG).is_file():
        raise UserError(f"--export {name} is an adapter; name what was made of it, and the adapter as --lora_path.")
    raise UserError(
        f"--export {name}: expected a folder with config.json or consolidated.00.pth, or a .gguf file; found "
        f"{listing(path)}."
    )


def file_type(file: reader.GGUFFile) -> str:
    """The type of a GGUF by its own word, such as q4_k_m."""
    number = file.keys.get("general.file_type")
    try:
        name = reader.optional_package("gguf").LlamaFileType(number).name
    except ValueError:
        return f"of type {number}"
    return name.removeprefix("MOSTLY_").removeprefix("ALL_").lower()

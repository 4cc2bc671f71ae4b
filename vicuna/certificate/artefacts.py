"""Anything that base + adapters are exported to, opened as what gives logits: folders, shards, GGUF, fewer bits.

An artefact also says what other programs take from it beside its weights (`Identity`), and how the base alone is
opened in the same type: its control.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM

from vicuna.certificate.identity import Identity, of_base, of_gguf, of_gguf_adapter, of_meta, read_json
from vicuna.certificate.reference import with_adapters
from vicuna.certificate.runners import HFModel, LlamaCpp
from vicuna.errors import UserError
from vicuna.export.merge import Update
from vicuna.export.meta_layout import MetaModel, is_meta, read_meta
from vicuna.export.meta_params import NORM_EPS, ROPE_THETA, Shape
from vicuna.files.tensors import LazyTensor, main_dtype, read_files, weight_paths
from vicuna.gguf import reader
from vicuna.model import adapter
from vicuna.model.base import Base, check_base, device, load_base


@dataclass(frozen=True)
class Setting:
    """What artefacts are opened beside.

    Attributes:
        base: as it is; alone: with as many embeddings as the adapters bring, for controls.
        updates: the adapters, in order.
        context: longest row, in tokens.
        aside: a folder for files that are made on the way.
    """

    base: Base
    alone: Base
    updates: list[Update]
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

    def open(self, setting: Setting) -> Any:
        """The model.

        Raises:
            UserError: it can not be opened.
        """

    def control(self, setting: Setting) -> Any:
        """The base alone in the same type."""
        return HFModel(load_base(setting.alone, 32))

    @property
    def control_name(self) -> str:
        """What tells its control from those of other artefacts."""
        return "the base in float32"


class HFFolder(Artefact):
    """A folder in Hugging Face format, of any precision that transformers opens."""

    layout = "HF"

    def __init__(self, path: Path):
        self.path, self.name, self.files = path, str(path), [path]
        self.settings = read_json(path / "config.json").get("quantization_config") or {}
        self.type = self._type()
        self.vocab = read_json(path / "config.json").get("vocab_size", 0)

    def _type(self) -> str:
        method = self.settings.get("quant_method", "")
        if method == "bitsandbytes":
            return "8 bit" if self.settings.get("load_in_8bit") else "4 bit"
        if method:
            return f"{method} {self.settings.get('bits', '?')} bit"
        return dtype_of(read_files(weight_paths(self.path)))

    def identity(self) -> Identity:
        return of_base(check_base(str(self.path)))

    def open(self, setting: Setting) -> HFModel:
        bits = int(self.type[0]) if self.type in ("8 bit", "4 bit") else 16 if self.settings else 32
        return HFModel(load_base(check_base(str(self.path)), bits))

    def control(self, setting: Setting) -> HFModel:
        if self.type in ("8 bit", "4 bit"):
            return HFModel(load_base(setting.alone, int(self.type[0])))
        return super().control(setting) if self.settings else rounded_base(setting.alone, self.type)

    @property
    def control_name(self) -> str:
        plain = not self.settings or self.type in ("8 bit", "4 bit")
        return f"the base in {self.type}" if plain else "the base in float32"


class MetaFolder(Artefact):
    """A folder of Meta's consolidated.*.pth, computed by transformers."""

    layout = "pth"

    def __init__(self, path: Path):
        self.path, self.name, self.files = path, str(path), [path]
        self.meta: MetaModel = read_meta(path, flag="--export")
        self.type = dtype_of(self.meta.tensors())
        self.vocab = self.meta.shape.vocab

    def identity(self) -> Identity:
        return of_meta(self.path, self.meta.tokenizer)

    def open(self, setting: Setting) -> HFModel:
        shape, params = Shape.of_config(setting.alone.config, setting.alone.path), self.meta.params
        if shape != self.meta.shape:
            odd = [name for name, value in vars(shape).items() if vars(self.meta.shape)[name] != value]
            raise UserError(
                f"its {odd[0]} is {vars(self.meta.shape)[odd[0]]}, that of base + adapters {vars(shape)[odd[0]]}."
            )
        config = deepcopy(setting.alone.config)
        config.tie_word_embeddings = False  # this layout has both
        config.rms_norm_eps = params.get("norm_eps", NORM_EPS)
        rope = config.rope_parameters or {"rope_type": "default"}
        config.rope_parameters = {**rope, "rope_theta": float(params.get("rope_theta", ROPE_THETA))}
        tensors = {name: parts[0 : parts.shape[0]] for name, parts in self.meta.tensors().items()}
        model = LlamaForCausalLM.from_pretrained(None, config=config, state_dict=tensors, dtype=torch.float32)
        return HFModel(model.to(device()))

    def control(self, setting: Setting) -> HFModel:
        return rounded_base(setting.alone, self.type)

    @property
    def control_name(self) -> str:
        return f"the base in {self.type}"


class GGUFModel(Artefact):
    """A whole model as a GGUF file, in llama.cpp."""

    layout = "GGUF"

    def __init__(self, file: reader.GGUFFile):
        self.file, self.name, self.files = file, str(file.path), [file.path]
        self.kind = kind_of(file)
        self.type = f"gguf {self.kind}"
        self.vocab = file.shapes["token_embd.weight"][0]

    def identity(self) -> Identity:
        return of_gguf(self.file)

    def open(self, setting: Setting) -> LlamaCpp:
        return LlamaCpp(self.file, setting.context)

    def control(self, setting: Setting) -> LlamaCpp:
        from vicuna.gguf import writer

        if self.kind not in (*reader.PLAIN_TYPES, *reader.QUANTISED_TYPES):
            return HFModel(load_base(setting.alone, 32))
        writer.check_exportable(setting.alone)
        made = setting.aside / f"base-{self.kind}.gguf"
        if self.kind in reader.PLAIN_TYPES:
            writer.write_model(setting.alone, made, self.kind, "", "")
        else:
            plain = setting.aside / "plain.gguf"
            writer.write_model(setting.alone, plain, "", "", "")
            writer.quantise(plain, made, self.kind, torch.get_num_threads())
            plain.unlink()
        model = LlamaCpp(reader.read_model(str(made)), setting.context)
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
        return of_gguf_adapter(self.lora, self.file)

    def open(self, setting: Setting) -> LlamaCpp:
        return LlamaCpp(self.file, setting.context, self.lora)

    def control(self, setting: Setting) -> LlamaCpp:
        return LlamaCpp(self.file, setting.context)

    @property
    def control_name(self) -> str:
        return f"{self.file.path} alone"


class Live(Artefact):
    """Base + adapters with the base at fewer bits, as the programs here open them."""

    layout = "bits"

    def __init__(self, bits: int):
        self.bits, self.name, self.files = bits, f"--bits {bits}", []
        self.type = f"{bits} bit"

    def open(self, setting: Setting) -> HFModel:
        return HFModel(with_adapters(setting.base, setting.updates, self.bits))

    def control(self, setting: Setting) -> HFModel:
        return HFModel(load_base(setting.alone, self.bits))

    @property
    def control_name(self) -> str:
        return f"the base in {self.type}"


def rounded_base(base: Base, dtype: str) -> HFModel:
    """The base, its weights rounded to a dtype and computed in float32."""
    model = load_base(base, 32)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(getattr(torch, dtype)).float()
    return HFModel(model)


def recognise(name: str, base_ggufs: Sequence[str]) -> list[Artefact]:
    """What `--export` names: an adapter in GGUF once for each GGUF of its base.

    Raises:
        UserError: nothing that is known, or broken.
    """
    path = Path(name).expanduser()
    if not path.exists():
        raise UserError(f"--export {name} does not exist.")
    if path.is_file():
        file = reader.read(name, "--export")
        if not file.is_adapter:
            return [GGUFModel(file)]
        if not base_ggufs:
            raise UserError(f"--export {name} is an adapter: name the GGUF of its base with --base_gguf.")
        bases = [reader.read_model(one) for one in base_ggufs]
        return [GGUFAdapter(reader.read_adapter(name, base), base) for base in bases]
    if is_meta(path):
        return [MetaFolder(path)]
    if (path / "config.json").is_file():
        return [HFFolder(path)]
    if (path / adapter.CONFIG_FILE).is_file():
        raise UserError(f"--export {name} is an adapter; name what was made of it, and the adapter as --lora_path.")
    found = ", ".join(sorted(file.name for file in path.iterdir())[:12]) or "nothing"
    raise UserError(
        f"--export {name}: expected a folder with config.json or consolidated.00.pth, or a .gguf file; found {found}."
    )


def dtype_of(tensors: Mapping[str, LazyTensor]) -> str:
    """The dtype that most of the weights have."""
    return str(main_dtype(tensors)).removeprefix("torch.")


def kind_of(file: reader.GGUFFile) -> str:
    """The type of a GGUF by its own word, such as q4_k_m."""
    number = file.keys.get("general.file_type")
    try:
        return (
            reader.optional_package("gguf")
            .LlamaFileType(number)
            .name.removeprefix("MOSTLY_")
            .removeprefix("ALL_")
            .lower()
        )
    except ValueError:
        return f"of type {number}"

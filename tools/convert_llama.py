"""Convert a LLaMA from Meta's layout to Hugging Face's, or back.

    python tools/convert_llama.py --input_dir llama --model_size 7B --output_dir llama-7b-hf
    python tools/convert_llama.py --input_dir llama-7b-hf --output_dir llama-7b --to_meta --num_shards 2

From consolidated.*.pth (any number of shards), params.json and tokenizer.model it writes .safetensors, config.json,
generation_config.json and the tokenizer to --output_dir; with --to_meta the other way round. Weights keep their
precision, and every bit; a merged model keeps its template. LLaMA 1 and 2 of any size, with their grouped heads, are
read from params.json.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vicuna import log
from vicuna.args import flag, parse
from vicuna.errors import UserError, run

if TYPE_CHECKING:
    from vicuna.export.meta_layout import MetaModel
    from vicuna.export.meta_params import LlamaShape

TOKENIZER_ONLY = "tokenizer_only"
CONTEXT = 2048  # of LLaMA 1: params.json says nothing about it


@dataclass
class ConvertFlags:
    """What is converted, and to what."""

    input_dir: str = flag(
        "", "folder with consolidated.00.pth, or with a folder of each size that has it; with --to_meta a folder in "
        "Hugging Face format, or a hub id"
    )  # fmt: skip
    output_dir: str = flag("", "new folder to write, itself: no folder of the size is put into it")
    model_size: str = flag(
        "", "which folder inside --input_dir, such as 7B, 13B, 30B or 65B, where there are several; tokenizer_only "
        "converts tokenizer.model alone"
    )  # fmt: skip
    config_from: str = flag(
        "", "folder in Hugging Face format of the same model: what params.json does not say is taken from its config"
    )
    to_meta: bool = flag(False, "write Meta's layout")
    num_shards: int | None = flag(
        None, "consolidated.*.pth files, with --to_meta; default: as many as Meta published for this depth, else 1"
    )

    def __post_init__(self) -> None:
        if self.num_shards is not None and not self.to_meta:
            raise UserError(f"--num_shards {self.num_shards} is for --to_meta; .safetensors are cut at 2 GiB.")
        if self.to_meta and (self.config_from or self.model_size):
            name = "config_from" if self.config_from else "model_size"
            raise UserError(f"--{name} is for the way from Meta's layout; leave it out with --to_meta.")


def main(flags: ConvertFlags) -> None:
    """Convert in one of the two directions."""
    log.set_up()
    if not flags.input_dir:
        raise UserError("--input_dir is empty; name the folder to convert.")
    from vicuna.files.outputs import atomic_folder, check_new_folder
    from vicuna.model.found import existing_folder

    check_new_folder(flags.output_dir, "--output_dir")
    if flags.to_meta:
        existing_folder(flags.input_dir, "--input_dir")
    elif not Path(flags.input_dir).expanduser().is_dir():
        raise UserError(f"--input_dir {flags.input_dir} is no folder; expected one with a model in Meta's layout.")
    with atomic_folder(flags.output_dir, "--output_dir") as folder:
        if flags.to_meta:
            to_meta(flags, folder)
        elif flags.model_size == TOKENIZER_ONLY:
            file = Path(flags.input_dir) / "tokenizer.model"
            write_tokenizer(file if file.is_file() else None, folder, CONTEXT)
        else:
            to_hf(flags, folder)
    print(f"converted {flags.input_dir} to {flags.output_dir}")


def to_hf(flags: ConvertFlags, folder: Path) -> None:
    """Meta's layout to Hugging Face's."""
    from transformers import GenerationConfig

    from vicuna.export.manifests import check_input
    from vicuna.export.meta_layout import EMBEDDING, HEAD, copy_template, read_meta
    from vicuna.files.tensors import bit_equal, write_model
    from vicuna.model.known_files import copy_known
    from vicuna.model.openable import make_openable

    model = read_meta(Path(flags.input_dir).expanduser(), flags.model_size)
    check_input(model.folder)
    tensors = model.tensors()
    equal = bit_equal(tensors[HEAD], tensors[EMBEDDING])
    given = hf_config(Path(flags.config_from), "--config_from") if flags.config_from else None
    context = given.max_position_embeddings if given else model.params.get("max_seq_len", CONTEXT)
    tokenizer = write_tokenizer(model.tokenizer, folder, context, Path(flags.config_from) if given else None)
    if tokenizer.size > model.shape.vocab:
        raise UserError(
            f"{model.tokenizer} has {tokenizer.size} pieces, but the model has {model.shape.vocab} embeddings: the "
            "tokenizer belongs to another model."
        )
    config = known_config(model, given, flags.config_from) if given else assumed_config(model, context, tokenizer)
    if given and given.tie_word_embeddings and not equal:
        log.log.warning("head and embeddings differ, though --config_from ties them: both are written")
    config.tie_word_embeddings = equal and (given is None or given.tie_word_embeddings)
    config.architectures = ["LlamaForCausalLM"]
    config.dtype = tensors["model.layers.0.self_attn.q_proj.weight"].dtype
    if config.tie_word_embeddings:
        del tensors[HEAD]
    copy_template(model.folder, folder)
    config.save_pretrained(folder)
    generation = Path(flags.config_from) / "generation_config.json"
    if given and generation.is_file():
        copy_known(generation.parent, folder, [generation.name])
    else:
        GenerationConfig.from_model_config(config).save_pretrained(folder)
    make_openable(folder)
    write_model(folder, tensors)


def hf_config(folder: Path, flag: str) -> Any:
    """The config of a folder in Hugging Face format, which a flag names."""
    from vicuna.model.config import read_config

    if not (folder / "config.json").is_file():
        raise UserError(f"{flag} {folder} has no config.json; expected a model in Hugging Face format.")
    return read_config(folder)


def known_config(model: "MetaModel", given: Any, name: str) -> Any:
    """The config of --config_from, which must agree with params.json in all that this says."""
    from vicuna.export.meta_params import LlamaShape, rope_theta

    shape = LlamaShape.from_config(given, Path(name) / "config.json")
    said = {
        **vars(model.shape),
        **{key: model.params[key] for key in ("norm_eps", "rope_theta") if key in model.params},
    }
    there = {**vars(shape), "norm_eps": given.rms_norm_eps, "rope_theta": rope_theta(given)}
    for key, value in said.items():
        if there[key] != value:
            raise UserError(
                f"--config_from {name} is of another model: its {key} is {there[key]}, in {model.folder} it is {value}."
            )
    return given


def assumed_config(model: "MetaModel", context: int, tokenizer: Any) -> Any:
    """A config from params.json and the tokenizer, and what these leave open as LLaMA 1 has it."""
    from transformers import LlamaConfig

    from vicuna.export.meta_params import NORM_EPS, ROPE_THETA

    shape, params = model.shape, model.params
    assumed = {"norm_eps": NORM_EPS, "rope_theta": ROPE_THETA, "max_seq_len": context}
    taken = ", ".join(f"{key} {value:g}" for key, value in assumed.items() if key not in params)
    if taken:
        log.log.info(
            "params.json does not say everything; taken for granted: %s. If the model has others (LLaMA 2 has a "
            "context of 4096), pass --config_from.", taken,
        )  # fmt: skip
    return LlamaConfig(
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        intermediate_size=shape.ffn,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        rms_norm_eps=params.get("norm_eps", NORM_EPS),
        rope_parameters={"rope_type": "default", "rope_theta": float(params.get("rope_theta", ROPE_THETA))},
        max_position_embeddings=context,
        bos_token_id=tokenizer.bos_id,
        eos_token_id=tokenizer.eos_id,
    )


def write_tokenizer(file: Path | None, folder: Path, context: int, given: Path | None = None) -> Any:
    """tokenizer.model as it is, and tokenizer.json for programs that read only this.

    Args:
        given: a folder whose tokenizer files are taken if they are of the same tokenizer.
    """
    from vicuna.model.openable import copy_tokenizer
    from vicuna.prompt.tokenizer import TextTokenizer
    from vicuna.prompt.tokenizer_json import write_tokenizer_json

    if file is None:
        raise UserError(
            "there is no tokenizer.model beside the shards, nor in the folder above them: put the one that was "
            "published with the model there."
        )
    there = given / "tokenizer.model" if given else None
    if there and there.is_file() and there.read_bytes() == file.read_bytes():
        copy_tokenizer(given, folder)
        return TextTokenizer(folder)
    shutil.copyfile(file, folder / "tokenizer.model")
    tokenizer = TextTokenizer(folder)
    if warning := write_tokenizer_json(folder, context):
        log.log.warning("%s", warning)
    return tokenizer


def to_meta(flags: ConvertFlags, folder: Path) -> None:
    """Hugging Face's layout to Meta's."""
    from vicuna.export.manifests import check_input
    from vicuna.export.meta_layout import copy_template, write_meta
    from vicuna.export.meta_params import PARAMS_FILE, LlamaShape, check_shard_count, default_shard_count, make_params
    from vicuna.model.base_tensors import read_base_tensors
    from vicuna.model.config import quantization_method
    from vicuna.model.found import BASE_FILES, local_folder
    from vicuna.model.known_files import copy_known

    path = local_folder(flags.input_dir, "--input_dir", BASE_FILES)
    config = hf_config(path, "--input_dir")
    shape = LlamaShape.from_config(config, path / "config.json")
    if method := quantization_method(config):
        raise UserError(f"{path} is quantised with {method}, which Meta's layout has no place for.")
    count = default_shard_count(shape) if flags.num_shards is None else flags.num_shards
    check_shard_count(count, shape, "--num_shards")
    check_input(path)
    tensors = read_base_tensors(path, config)
    (folder / PARAMS_FILE).write_text(json.dumps(make_params(config, shape)), encoding="utf-8")
    copy_template(path, folder)
    copy_known(path, folder, ["tokenizer.model"])
    if not (path / "tokenizer.model").is_file():
        log.log.warning("%s has no tokenizer.model, which programs for Meta's layout need", path)
    if lost := lost_settings(config, shape):
        log.log.info("Meta's layout has no place for %s; --config_from brings it back on the way back", lost)
    write_meta(folder, shape, tensors, count)


def lost_settings(config: Any, shape: "LlamaShape") -> str:
    """What of a config is not what the way back takes for granted."""
    lost = {} if config.max_position_embeddings == CONTEXT else {"a context of": config.max_position_embeddings}
    rope = {key: value for key, value in (config.rope_parameters or {}).items() if key != "rope_theta"}
    if rope.get("rope_type", "default") != "default":
        lost["the rotation's"] = rope
    return ", ".join(f"{name} {value}" for name, value in lost.items())


if __name__ == "__main__":
    run(lambda: main(*parse(__doc__, ConvertFlags)))

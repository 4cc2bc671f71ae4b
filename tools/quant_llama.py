"""Quantise a LLaMA by GPTQ at 2, 3, 4 or 8 bits, or by AWQ at 4, to a folder that every program here opens.

    python tools/quant_llama.py models/tiny-llama-zh sample/text --wbits 4 --groupsize 128 --act-order \\
        --true-sequential --save tiny-4bit
    python tools/quant_llama.py models/tiny-llama-zh my.jsonl --lora_path lora-Vicuna --awq --save tiny-awq --eval
    python tools/quant_llama.py models/tiny-llama-zh wikitext2 --wbits 16 --eval

DATASET is what the layers are quantised on: a local file of text or records, which are rendered in the template that
the model was trained with, or wikitext2, ptb or c4 of the hub. With --lora_path the adapters are merged first. --save
gets the weights, the tokenizer, the template, the configs as the base has them, and quantisation.json with the
settings, the text's hash and the error of each layer. bash scripts/install_gptq.sh installs what it needs.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vicuna import log
from vicuna.args import at_least, check_seed, flag, parse, switch
from vicuna.errors import UserError, ended_by_signals, run
from vicuna.prompt.templates import ALL_PROMPT_TYPES

if TYPE_CHECKING:
    import torch

    from vicuna.model.base import Base
    from vicuna.quantise.calibration import Calibration
    from vicuna.quantise.settings import Settings
    from vicuna.quantise.size import Size

PLAIN = 16  # the original's --wbits for no quantisation at all
SEQLEN = 2048
CLAIM = 4  # GB: what the original says a 7B takes at 4 bits
SINGLE_FILES = (".pt", ".pth", ".bin", ".safetensors", ".ckpt")


@dataclass
class QuantiseFlags:
    """What is quantised, how, on which text."""

    model_path: str = flag(
        "", "the model, also as the first bare word: a folder in Hugging Face format, or a hub id owner/name"
    )
    dataset: str = flag(
        "",
        "what it is quantised on, also as the second bare word: a file as for --data_path, or wikitext2, ptb, c4",
    )
    wbits: Literal[2, 3, 4, 8, 16] = flag(4, "bits of a weight; 16 quantises nothing, and is for --eval")
    groupsize: int = flag(128, "columns that share a scale: 32, 64, 128, or -1 for a whole row")
    act_order: bool = flag(False, "round the columns that matter most first; GPTQ")
    true_sequential: bool = flag(False, "let each layer of a block see what those before it became")
    sym: bool | None = switch(
        "zero in the middle of the range; 0 gives each group a zero point. Default: on, off at 2 bits and with --awq"
    )
    percdamp: float = flag(0.01, "share of the mean of the Hessian's diagonal that is added to it; GPTQ")
    awq: bool = flag(False, "AWQ instead of GPTQ: 4 bits with zero points, in groups of 32, 64 or 128")
    nsamples: int = flag(128, "rows of DATASET to quantise on, drawn by --seed; fewer where there are no more")
    seqlen: int = flag(SEQLEN, "longest row in tokens; at most the model's context")
    batch_size: int = flag(1, "rows that are run together")
    seed: int = flag(0, "draws the rows")
    save: str = flag("", "new folder for the quantised model")
    save_safetensors: str = flag("", "the original's second spelling of --save; the weights are .safetensors anyway")
    lora_path: list[str] = flag([], "adapters to merge into the model before, in this order")
    ignore_fingerprint: bool = flag(False, "merge although an adapter was trained on other files than the model's")
    prompt_type: Literal[ALL_PROMPT_TYPES] | None = flag(
        None, "template around records of DATASET; default: the one the model or its last adapter was trained with"
    )
    eval: bool = flag(
        False, "perplexity before and after on text that it was not quantised on: a tenth of DATASET, or its test part"
    )
    plan_only: bool = flag(False, "print what it is going to take, and stop there")

    def __post_init__(self) -> None:
        self._check_words()
        if self.groupsize not in (-1, 32, 64, 128):
            raise UserError(f"--groupsize {self.groupsize} is not offered: expected 32, 64, 128, or -1 for whole rows.")
        if not 0 < self.percdamp < 1:
            raise UserError(f"--percdamp {self.percdamp} is out of range: expected a share between 0 and 1.")
        for name, low in (("nsamples", 1), ("seqlen", 16), ("batch_size", 1)):
            at_least(f"--{name}", getattr(self, name), low)
        check_seed(self.seed)
        if self.awq:
            self._check_awq()
        self.sym = (self.wbits != 2 and not self.awq) if self.sym is None else self.sym

    def _check_words(self) -> None:
        if not self.model_path or not self.dataset:
            raise UserError("a model and a DATASET are needed, such as: models/tiny-llama-zh my.txt --save quantised.")
        if self.save and self.save_safetensors and self.save != self.save_safetensors:
            raise UserError(f"--save {self.save} and --save_safetensors {self.save_safetensors}: give one of them.")
        self.save = self.save or self.save_safetensors
        if Path(self.save).suffix in SINGLE_FILES:
            raise UserError(f"--save {self.save} is the name of a file, and a folder is written: name one.")
        if self.wbits == PLAIN and (self.save or self.awq or not self.eval):
            raise UserError("--wbits 16 quantises nothing: it is for --eval alone, without --save and --awq.")
        if self.wbits != PLAIN and not self.save and not self.plan_only:
            raise UserError("--save is empty: name a new folder for the quantised model.")

    def _check_awq(self) -> None:
        if self.wbits != 4:
            raise UserError(f"--awq is 4 bits, not {self.wbits}: leave --wbits out, or take GPTQ without --awq.")
        if self.groupsize == -1:
            raise UserError("--awq needs groups: pass --groupsize 32, 64 or 128.")
        if self.act_order or self.sym or self.percdamp != QuantiseFlags.percdamp:
            odd = "--act-order" if self.act_order else "--sym" if self.sym else "--percdamp"
            raise UserError(f"{odd} is of GPTQ, and does nothing with --awq: leave one of them out.")


def main(flags: QuantiseFlags) -> None:
    """Check everything, then quantise."""
    log.set_up()
    # Imported here so that --help and a mistyped flag answer at once.
    from vicuna.files.outputs import atomic_folder

    with ended_by_signals():
        if flags.wbits == PLAIN or flags.plan_only:
            work(flags, None)
        else:
            with atomic_folder(flags.save, "--save") as folder:
                work(flags, folder)
            print(f"wrote {flags.save}; talk to it: python generate.py --model_path {flags.save}")


def work(flags: QuantiseFlags, folder: Path | None) -> None:
    """Everything up to the folder's name."""
    from vicuna.model.found import look_at_paths
    from vicuna.quantise.calibration import check_dataset

    look_at_paths(flags.model_path, flags.lora_path)
    check_dataset(flags.dataset)
    from vicuna.export.manifests import check_input
    from vicuna.gguf_file.folder import refuse_file
    from vicuna.model.base import check_base

    base = check_base(flags.model_path)
    refuse_file(base.path, "the quantiser")
    check_input(base.path)
    settings = check_settings(flags, base)
    with merged(base, flags, folder) as one:
        if settings:
            check_room(show_plan(one, settings), folder)
        if flags.plan_only:
            return
        calibration = read_rows(flags, one)
        if flags.eval:
            show_perplexity(one, calibration, "before")
        if settings and folder:
            quantise_to(folder, one, settings, calibration, flags)
            if flags.eval:
                show_perplexity(replace(one, path=folder, config=check_base(str(folder)).config), calibration, "after")


def check_settings(flags: QuantiseFlags, base: "Base") -> "Settings | None":
    """What is asked of the quantisation, checked against the model; None for --wbits 16.

    Raises:
        UserError: it does not fit, or the model is quantised already, or the library is missing.
    """
    from vicuna.model.config import quantization_method
    from vicuna.model.gptq import AWQ, GPTQ
    from vicuna.quantise.settings import Settings, check_library, check_shapes

    if flags.wbits == PLAIN:
        return None
    if method := quantization_method(base.config):
        raise UserError(
            f"{flags.model_path} is quantised with {method} already: take the model that it was made of, whose weights "
            "are 16 or 32 bits."
        )
    settings = Settings(
        AWQ if flags.awq else GPTQ,
        flags.wbits,
        flags.groupsize,
        flags.act_order,
        flags.true_sequential,
        bool(flags.sym),
        flags.percdamp,
    )
    check_shapes(settings, base.config, base.path)
    check_library()
    return settings


@contextmanager
def merged(base: "Base", flags: QuantiseFlags, folder: Path | None) -> "Iterator[Base]":
    """The base, or, with --lora_path, what it becomes with the adapters, in a folder that is removed afterwards."""
    if not flags.lora_path:
        yield base
        return
    from vicuna.export.merge import merge
    from vicuna.export.merged import describe, write_hf
    from vicuna.export.updates import read_updates
    from vicuna.files.aside import aside_folder
    from vicuna.model.base import check_base
    from vicuna.model.base_tensors import read_base_tensors

    updates = read_updates(flags.lora_path, base, flags.ignore_fingerprint)
    with aside_folder(folder and folder.parent) as whole:
        aside = whole / base.path.name
        aside.mkdir()
        describe(aside, base, updates, Path(flags.save or base.path.name), flags.prompt_type, "base")
        write_hf(aside, merge(read_base_tensors(base.path, base.config), updates, None), base, updates)
        yield check_base(str(aside))


def show_plan(base: "Base", settings: "Settings") -> "Size":
    """Print what the model takes before and after, by counted bytes."""
    from vicuna.files.tensors import dtype_name
    from vicuna.quantise.settings import weights_dtype
    from vicuna.quantise.size import count_size

    stored = stored_dtype(base)
    dtype = weights_dtype(settings, stored)
    size = count_size(base.config, settings, stored, dtype, min(base.context, SEQLEN))
    billions, gigabyte = size.parameters / 1e9, 10**9
    print(
        f"model     {base.path}  {billions:.3g} B parameters, {size.before / gigabyte:.3g} GB in {dtype_name(stored)}"
    )
    print(f"quantise  {settings.describe()}; embeddings, head and norms stay {dtype_name(dtype)}")
    print(
        f"size      weights {size.after / gigabyte:.3g} GB, keys and values of {size.context:,} tokens "
        f"{size.cache / gigabyte:.3g} GB: {size.fits(CLAIM)}"
    )
    return size


def check_room(size: "Size", folder: Path | None) -> None:
    """Refuse what the disk has no room for: the result, and the blocks that are kept there on the way."""
    from vicuna.files.outputs import check_disk_space

    if folder:
        check_disk_space(folder, 2 * size.after)


def stored_dtype(base: "Base") -> "torch.dtype":
    """The dtype that most of a base's weights have."""
    from vicuna.files.tensors import main_dtype, read_tensor_files, weight_paths

    return main_dtype(read_tensor_files(weight_paths(base.path)))


def read_rows(flags: QuantiseFlags, base: "Base") -> "Calibration":
    """The rows that it is quantised on, and what is kept to measure on."""
    from vicuna.model.adapter_files import model_prompt_type
    from vicuna.quantise.calibration import read_calibration

    prompt_type = flags.prompt_type or model_prompt_type(base)
    length = min(flags.seqlen, base.context)
    if length < flags.seqlen and flags.seqlen != SEQLEN:
        log.log.info("--seqlen %d is cut to the model's context of %d tokens", flags.seqlen, length)
    found = read_calibration(flags.dataset, base.tokenizer, prompt_type, flags.nsamples, length, flags.seed, flags.eval)
    template = f" in the template {found.prompt_type}" if found.prompt_type else ""
    short = f", {found.too_short} too short" if found.too_short else ""
    print(f"text      {len(found.rows)} rows, {found.tokens:,} tokens of {flags.dataset}{template}{short}")
    return found


def quantise_to(
    folder: Path, base: "Base", settings: "Settings", calibration: "Calibration", flags: QuantiseFlags
) -> None:
    """Quantise, report the error of each layer, and complete the folder."""
    from vicuna.quantise.folder import complete
    from vicuna.quantise.run import quantise
    from vicuna.quantise.settings import weights_dtype

    dtype = weights_dtype(settings, stored_dtype(base))
    errors = quantise(base, settings, calibration, dtype, flags.batch_size, folder)
    for number in sorted({one.block for one in errors}):
        own = [(one.layer.split(".")[-1], one.error) for one in errors if one.block == number]
        row = "  ".join(f"{name} {'–' if error is None else f'{error:.2g}'}" for name, error in own)
        print(f"block {number:<4} {row}")
    complete(folder, base, settings, calibration, errors, dtype=dtype, seed=flags.seed, name=Path(flags.save).name)


def show_perplexity(base: "Base", calibration: "Calibration", when: str) -> None:
    """Print a model's perplexity on what was kept back, and how many tokens that is."""
    from vicuna.evaluation.likelihood import perplexity
    from vicuna.evaluation.runners import HFRunner
    from vicuna.model.base import load_base

    runner = HFRunner(load_base(base, 32))
    nll = [runner.nll([row])[0] for row in calibration.held_out if len(row) > 1]
    count = sum(map(len, nll))
    print(f"{when:<9} perplexity {perplexity(nll):.4f} by {count:,} tokens of {calibration.source}", flush=True)
    del runner
    gc.collect()  # models refer to themselves, and would stay beside the next one


if __name__ == "__main__":
    run(lambda: main(*parse(__doc__, QuantiseFlags, words=("model_path", "dataset"))))

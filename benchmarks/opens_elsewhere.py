"""Folders that the tools write from small bases of several architectures, with what must come of them elsewhere.

    python benchmarks/opens_elsewhere.py --output_path made

benchmarks/opens_elsewhere.sh makes them, and opens them by benchmarks/open_folder.py in an environment with an older
transformers. A base is of random weights. Each folder has a probe.pt in it: ids of texts, logits, a rendered dialogue.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vicuna.args import flag, parse
from vicuna.errors import UserError, run
from vicuna.foreign.odd_files import NEVER_RUN

ROOT = Path(__file__).resolve().parent.parent
TEXTS = ["你好，世界 2026", "  42 apples, 7.5 pears\n\nand x = 'y'", "def f(x):\n    return x\t# naïve café"]
DIALOGUE = [
    {"role": "user", "content": "你好"},
    {"role": "assistant", "content": "在。"},
    {"role": "user", "content": "再见"},
]
SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
SIZES |= {"num_key_value_heads": 2, "max_position_embeddings": 256, "initializer_range": 0.2}
EXPERTS = {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
FAR = {"rope_type": "default", "rope_theta": 500_000.0}  # what older programs take without it is 10,000
LLAMA_3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA_3 |= {"original_max_position_embeddings": 64, "rope_theta": 500_000.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "rope_theta": 1_000_000.0}
# Name -> kind of model, its settings, and whether it has a tokenizer.model; the others have a tokenizer.json alone.
BASES: dict[str, tuple[str, dict[str, Any], bool]] = {
    "llama": ("llama", {"rope_parameters": FAR}, True),
    "llama3": ("llama", {"rope_parameters": LLAMA_3}, False),
    "mistral": ("mistral", {"rope_parameters": FAR, "sliding_window": 32}, True),
    "qwen2": ("qwen2", {"rope_parameters": YARN, "tie_word_embeddings": True}, False),
    "qwen3": ("qwen3", {"rope_parameters": FAR, "head_dim": 16}, False),
    "qwen3_moe": ("qwen3_moe", {"rope_parameters": FAR, "head_dim": 16, **EXPERTS}, False),
    "mixtral": ("mixtral", {"rope_parameters": FAR, **EXPERTS}, True),
    "phi3": ("phi3", {"rope_parameters": {**FAR, "partial_rotary_factor": 0.5}, "pad_token_id": 0}, True),
}  # fmt: skip


@dataclass
class MakeFlags:
    """Where to."""

    output_path: str = flag("", "new folder for the bases and for what is made of them")

    def __post_init__(self) -> None:
        if not self.output_path or Path(self.output_path).exists():
            raise UserError(f"--output_path {self.output_path or 'is empty'}; expected a new folder.")


def main(flags: MakeFlags) -> None:
    """Make the bases, what the tools write from them, and the probes."""
    from vicuna.model.openable import make_openable

    out = Path(flags.output_path).resolve()
    (out / "bases").mkdir(parents=True)
    for name in BASES:
        make_base(out / "bases" / name, name)
    for folder, base in written(out):
        probe(folder, base)
        print(f"made {folder.relative_to(out)}", flush=True)
    for base in (out / "bases").iterdir():
        make_openable(base)  # what an adapter is put on there; it was made by what transformers 5 itself writes


def make_base(folder: Path, name: str) -> None:
    """A base as transformers 5 itself saves it."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    kind, settings, sentencepiece = BASES[name]
    size = (sentencepiece_tokenizer if sentencepiece else json_tokenizer)(folder)
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **{**SIZES, **settings}, vocab_size=size, bos_token_id=1, eos_token_id=2)
    AutoModelForCausalLM.from_config(config, **NEVER_RUN).save_pretrained(folder)


def sentencepiece_tokenizer(folder: Path) -> int:
    """That of the embedded base; its size."""
    embedded = ROOT / "models/tiny-llama-zh"
    if not embedded.is_dir():
        raise UserError("models/tiny-llama-zh does not exist yet: make it with python tools/make_tiny_llama.py.")
    folder.mkdir()
    for file in embedded.glob("tokenizer*"):
        shutil.copyfile(file, folder / file.name)
    return 2600


def json_tokenizer(folder: Path) -> int:
    """One in bytes that splits digits one by one, saved by transformers 5 with special tokens of its own; its size."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    splits = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    made.pre_tokenizer, made.decoder = pre_tokenizers.Sequence(splits), decoders.ByteLevel()
    text = (ROOT / "sample/instruct/data_sample.jsonl").read_text(encoding="utf-8")
    controls = ["<|endoftext|>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    made.train_from_iterator(
        text.splitlines(),
        trainers.BpeTrainer(
            vocab_size=1000,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            special_tokens=controls,
            show_progress=False,
        ),
    )
    saved = PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", extra_special_tokens=["<|im_start|>", "<|im_end|>"]
    )
    saved.save_pretrained(folder)
    return made.get_vocab_size()


def written(out: Path) -> Iterator[tuple[Path, Path | None]]:
    """Each folder that a program writes, and the base of those that are an adapter."""
    short = [
        "--max_steps",
        1,
        "--total_batch",
        2,
        "--micro_batch",
        2,
        "--test_size",
        0,
        "--bits",
        32,
        "--lora_dropout",
        0,
    ]
    for name in BASES:
        base, adapter = out / "bases" / name, out / f"adapter-{name}"
        train = ["finetune.py", "--model_path", base, *short, "--learning_rate", "0.5", "--warmup_steps", 0]
        call(*train, "--output_path", adapter, "--lora_target_modules", "all-linear")
        yield adapter, base
        merged = out / f"merged-{name}"
        call("tools/merge_lora.py", "--model_path", base, "--lora_path", adapter, "--out_path", merged)
        yield merged, None
    for name in ("llama3", "qwen2", "qwen3_moe"):
        full = out / f"full-{name}"
        base = out / "bases" / name
        call("finetune.py", "--model_path", base, *short, "--train", "full", "--output_path", full)
        yield full, None
    words = out / "words.txt"
    words.write_text("冠状动脉粥样硬化\nmetformin\n", encoding="utf-8")
    enlarged = out / "enlarged-qwen2"
    base = out / "bases/qwen2"
    call("tools/expand_vocabulary.py", "--model_path", base, "--add_tokens", words, "--output_path", enlarged)
    yield enlarged, None
    meta, back = out / "meta", out / "converted-llama"
    call("tools/convert_llama.py", "--input_dir", out / "merged-llama", "--output_dir", meta, "--to_meta")
    call("tools/convert_llama.py", "--input_dir", meta, "--output_dir", back)
    shutil.rmtree(meta)
    yield back, None
    embedded = out / "embedded"
    call("tools/make_tiny_llama.py", "--output_path", embedded, "--steps", 2, "--hidden_size", 64, "--num_layers", 2)
    yield embedded, None
    if importlib.util.find_spec("gptqmodel"):
        quantised = out / "quantised-llama"
        dataset = ROOT / "sample/text/knowledge.txt"
        call(
            "tools/quant_llama.py",
            out / "merged-llama",
            dataset,
            "--save",
            quantised,
            "--nsamples",
            2,
            "--groupsize",
            32,
        )
        yield quantised, None


def call(*command: Any) -> None:
    """Run a program of the project."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise UserError(f"{' '.join(map(str, command))} ended with {done.returncode}: {done.stderr[-2000:]}")


def probe(folder: Path, base: Path | None) -> None:
    """Write down what this environment makes of a folder."""
    import torch
    from peft import PeftModel
    from tokenizers import Tokenizer
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from vicuna.files.json_files import read_json
    from vicuna.model.config import read_config

    tokenizer = AutoTokenizer.from_pretrained(base or folder, **NEVER_RUN)
    # Of the file itself: in a folder of qwen2, AutoTokenizer of transformers 5 puts Qwen2's own splitting in its place.
    ids = [Tokenizer.from_file(str((base or folder) / "tokenizer.json")).encode(text).ids for text in TEXTS]
    found: dict[str, Any] = {"base": base and str(base), "texts": TEXTS, "ids": ids, "dialogue": DIALOGUE}
    settings = read_json((base or folder) / "tokenizer_config.json")
    found["special"] = [settings["bos_token"], settings["eos_token"], *settings.get("extra_special_tokens", [])]
    if tokenizer.chat_template:
        found["rendering"] = tokenizer.apply_chat_template(DIALOGUE, tokenize=False, add_generation_prompt=True)
    if not getattr(read_config(base or folder), "quantization_config", None):
        model = AutoModelForCausalLM.from_pretrained(base or folder, dtype=torch.float32, **NEVER_RUN)
        model = PeftModel.from_pretrained(model, folder) if base else model
        with torch.no_grad():
            found["logits"] = [model.eval()(torch.tensor([one])).logits for one in ids]
    torch.save(found, folder / "probe.pt")


if __name__ == "__main__":
    run(lambda: main(*parse(__doc__, MakeFlags)))

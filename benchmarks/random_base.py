"""A folder with a LLaMA of random weights, of any size, and a tokenizer that knows the sample texts."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from vicuna.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
SEED = 1


def make_base(
    folder: Path, hidden_size: int, num_layers: int, context: int, vocab_size: int, tokenizer: str = ""
) -> None:
    """Make the folder.

    Args:
        hidden_size: a multiple of 64.
        vocab_size: of a tokenizer that is made of the sample texts.
        tokenizer: folder with a tokenizer.model to use in its place.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from vicuna.prompt.tokenizer import TextTokenizer

    if tokenizer:
        folder.mkdir()
        shutil.copy(Path(tokenizer) / "tokenizer.model", folder)
    else:
        make_tokenizer(folder, vocab_size, context)
    torch.manual_seed(SEED)
    shape = {
        "hidden_size": hidden_size,
        "intermediate_size": hidden_size * 11 // 4 // 64 * 64,  # LLaMA's proportion
        "num_attention_heads": hidden_size // 64,
        "num_hidden_layers": num_layers,
    }
    LlamaForCausalLM(
        LlamaConfig(
            **shape,
            vocab_size=TextTokenizer(folder).size,
            max_position_embeddings=context,
            bos_token_id=1,
            eos_token_id=2,
            tie_word_embeddings=False,
        )
    ).save_pretrained(folder)


def make_tokenizer(folder: Path, vocab_size: int, context: int) -> None:
    """Have the tool make a base, of which the tokenizer is of use."""
    sizes = ["--hidden_size", "32", "--num_layers", "1", "--steps", "1", "--context", str(context)]
    command = ["tools/make_tiny_llama.py", "--output_path", str(folder), "--vocab_size", str(vocab_size), *sizes]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, *command], cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"{shlex.join(command)} failed: {''.join(done.stderr.strip().splitlines()[-1:])}")

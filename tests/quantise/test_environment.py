"""What reading GPTQModel leaves behind in the environment."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
READ = """
import gc
import os
import sys
import weakref
sys.modules["llama_cpp"] = None  # as where it is not installed
from huggingface_hub import constants
from vicuna.model.gptq import read_gptqmodel
class Held:
    pass
def reads():
    held = Held()
    read_gptqmodel()
    return weakref.ref(held)
before = dict(os.environ)
held = reads()
changed = {name for name in {*before, *os.environ} if before.get(name) != os.environ.get(name)}
gc.collect()
print(sorted(name for name in changed if not name.startswith("GPTQMODEL_")))
print(held() is None)
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory) -> list[str]:
    """Lines of a process that has read it: what it changed, and whether what was there while it did could be freed."""
    home = tmp_path_factory.mktemp("home")
    away = {"HF_HOME", "HF_HUB_CACHE", "TRANSFORMERS_CACHE", "HF_MODULES_CACHE"}
    env = {name: value for name, value in os.environ.items() if name not in away}
    env |= {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", READ], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()


def test_nothing_of_who_reads_it_is_kept(said):
    """gptqmodel 7.6.0 keeps the ImportError of llama_cpp, and the frames of all who led to it."""
    assert said[1:] == ["True"]


def test_it_is_as_it_was_and_the_hubs_cache_stays_where_it_is(said):
    """tokenicer 0.0.14 sends processes that are started later to a folder of /tmp for the hub's models."""
    assert said[0] == "[]"

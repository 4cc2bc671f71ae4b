"""What reading GPTQModel leaves behind in the environment."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
READ = """
import os
from huggingface_hub import constants
from vicuna.model.gptq import read_gptqmodel
before = dict(os.environ)
read_gptqmodel()
changed = {name for name in {*before, *os.environ} if before.get(name) != os.environ.get(name)}
print(sorted(name for name in changed if not name.startswith("GPTQMODEL_")))
"""


HOLD = """
import gc
import sys
import weakref
sys.modules["llama_cpp"] = None  # as where it is not installed
from vicuna.model.gptq import read_gptqmodel
class Held:
    pass
def reads():
    held = Held()
    read_gptqmodel()
    return weakref.ref(held)
held = reads()
gc.collect()
print(held() is None)
"""


def test_nothing_of_who_reads_it_is_kept():
    """gptqmodel 7.6.0 keeps the ImportError of llama_cpp, and the frames of all who led to it."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", HOLD], env=env, capture_output=True, text=True, timeout=300)

    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr[-2000:]


def test_it_is_as_it_was_and_the_hubs_cache_stays_where_it_is(tmp_path):
    """tokenicer 0.0.14 sends processes that are started later to a folder of /tmp for the hub's models."""
    away = {"HF_HOME", "HF_HUB_CACHE", "TRANSFORMERS_CACHE", "HF_MODULES_CACHE"}
    env = {name: value for name, value in os.environ.items() if name not in away}
    env |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", READ], env=env, capture_output=True, text=True, timeout=300)

    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == "[]\n"

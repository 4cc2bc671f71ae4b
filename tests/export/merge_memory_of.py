"""Prints how much anonymous memory loading a base takes, and merging an adapter into it to each format, in bytes.

A process of its own, for in one that other work has used, what that freed is taken again unseen.
"""

import ctypes
import gc
import json
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))
sys.path.append(str(Path(__file__).resolve().parent.parent.parent / "benchmarks"))

from merge_memory import Peak

from tests.export.tool_models import tensors_of, tool

merge_lora = tool("merge_lora")


def taken(work: Callable[[], object]) -> int:
    """Anonymous memory in bytes that `work`, and what it returns, need at most, beside what is in use."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what was freed counts as in use until it is given back
    before = Peak().stop()
    peak = Peak()
    held = work()
    most = peak.stop()
    del held
    return most - before


def main(base: str, adapter: str, out: str) -> None:
    def merged(name: str, **more: object) -> None:
        flags = {"model_path": base, "lora_path": [adapter], "out_path": f"{out}/{name}", **more}
        merge_lora.main(merge_lora.MergeFlags(**flags))

    merged("first")  # libraries and pools are there from now on
    found = {
        "loaded": taken(lambda: [tensor.clone() for tensor in tensors_of(Path(base)).values()]),
        "hf": taken(lambda: merged("hf")),
        "pth": taken(lambda: merged("pth", format="pth", num_shards=1)),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])

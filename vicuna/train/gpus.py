"""Which GPUs a process sees: to be settled before torch is imported, which counts them once."""

from collections.abc import MutableMapping
from pathlib import Path


def one_gpu_per_process(environ: MutableMapping[str, str]) -> int:
    """Let a plain `python finetune.py` see the first GPU only, before torch counts them; how many there were.

    The Trainer would otherwise spread every batch with DataParallel, which is slow and breaks quantised bases.
    """
    if "LOCAL_RANK" in environ:
        return 1
    chosen = environ.get("CUDA_VISIBLE_DEVICES")
    here = len(list(Path("/proc/driver/nvidia/gpus").glob("*")))
    names = [str(i) for i in range(here)] if chosen is None else chosen.split(",")
    if len(names) > 1:
        environ["CUDA_VISIBLE_DEVICES"] = names[0]
    return len(names)

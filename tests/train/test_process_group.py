"""The group of a run's processes: DeepSpeed without a launcher, and an end that no thread outlives."""

import hashlib
import threading
from pathlib import Path

import torch

from vicuna.train import process_group
from vicuna.train.flags import RunFlags
from vicuna.train.process_group import leave_process_group, prepare_process_group


def test_one_process_needs_no_launcher_for_deepspeed():
    environ: dict[str, str] = {}
    prepare_process_group(RunFlags(), environ)
    assert environ == {}
    prepare_process_group(RunFlags(deepspeed="config-sample/ds_zero2.json"), environ)
    assert (environ["RANK"], environ["WORLD_SIZE"]) == ("0", "1")
    torchruns = {"WORLD_SIZE": "2", "RANK": "1"}
    prepare_process_group(RunFlags(deepspeed="config-sample/ds_zero2.json"), torchruns)
    assert torchruns == {"WORLD_SIZE": "2", "RANK": "1"}


def test_the_end_waits_for_a_thread_of_gloo_that_works(monkeypatch):
    monkeypatch.setattr(process_group, "GLOO_TIMEOUT_S", 300)
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    named, digests = threading.Event(), []

    def work():
        Path(f"/proc/self/task/{threading.get_native_id()}/comm").write_text("pt_gloo_runloop", encoding="utf-8")
        named.set()
        digests.append(hashlib.pbkdf2_hmac("sha256", b"", b"", 5_000_000))  # seconds, without the interpreter's lock

    thread = threading.Thread(target=work)
    thread.start()
    named.wait()
    leave_process_group()
    assert digests
    thread.join()
    assert not torch.distributed.is_initialized()

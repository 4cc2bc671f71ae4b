"""The peak of memory is that of what comes next, whatever was there before."""

from pathlib import Path

import pytest
import torch

from vicuna.evaluation.memory import PeakMemory

MIB = 1 << 20


@pytest.mark.skipif(
    torch.cuda.is_available() or not Path("/proc/self/clear_refs").exists(), reason="read from Linux's /proc"
)
def test_the_peak_is_what_was_taken_at_most_since():
    before = torch.ones(100 * MIB, dtype=torch.uint8)
    del before
    memory = PeakMemory()

    held = torch.ones(64 * MIB, dtype=torch.uint8)
    more = torch.ones(64 * MIB, dtype=torch.uint8)
    del more

    assert 120 * MIB < memory.taken_bytes() < 160 * MIB
    again = PeakMemory()
    assert again.taken_bytes() < 30 * MIB
    assert len(held) == 64 * MIB

"""What a training step frees stays with the process."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

COUNT_FAULTS = """
import resource
import torch
from edgeseg.train.memory import keep_freed_memory

if {keep}:
    assert keep_freed_memory()

def step():
    blocks = [torch.ones(16 << 20) for _ in range(4)]  # 64 MiB each
    del blocks

for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_repeated_step_touches_no_new_memory() -> None:
    faults = {
        keep: int(subprocess.check_output([sys.executable, "-c", COUNT_FAULTS.format(keep=keep)], text=True))
        for keep in (False, True)
    }
    # A fault brings a page of 4 KiB, or of 2 MiB where the kernel gives huge ones: 128 a step, otherwise 65,536.
    assert faults[False] >= 2 * 128
    assert faults[True] < 128

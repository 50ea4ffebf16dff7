"""Freed memory is kept for the next tensors of the same size."""

import subprocess
import sys

import pytest

# 64 MB, each page of which the system must clear where it is new.
FAULTS = """
import resource
import torch
from mmpoolformer.utils.memory import keep_freed_memory

def faults():
    start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - start

before = [faults() for _ in range(20)]
keep_freed_memory()
after = [faults() for _ in range(20)]
print(before[-1], after[-1])
"""


@pytest.mark.skipif(sys.platform != 'linux', reason='of glibc')
def test_memory_is_cleared_once() -> None:
    run = subprocess.run(
        [sys.executable, '-c', FAULTS], capture_output=True, text=True, check=True
    )
    before, after = map(int, run.stdout.split())
    assert after < before / 100

import platform
import subprocess
import sys

import pytest

COUNT = """
import resource
import sys
import torch
from raygen.process import keep_freed_memory

if sys.argv[1] == "kept":
    assert keep_freed_memory()
torch.ones(16 * 2**20)  # 64 MB, freed at once
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(32):
    torch.ones(16 * 2**20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    """Pages mapped while the same 64 MB are allocated and freed 32 times."""
    # In a process of its own: what others left on the heap decides where large blocks go, and it is asked of all of it.
    ran = subprocess.run([sys.executable, "-c", COUNT, how], capture_output=True, text=True, check=True)
    return int(ran.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be asked")
def test_freed_memory_is_used_again_without_being_mapped_anew_each_time():
    # A small block above a freed large one makes the heap grow; that happens a few times at first, not each time.
    assert faults("kept") < faults("returned") / 4

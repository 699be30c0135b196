import platform
import subprocess
import sys

import pytest

COUNT = """
import resource
import torch
from raygen.networks import keep_freed_memory

assert keep_freed_memory()
torch.ones(16 * 2**20)  # 64 MB, freed at once
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(8):
    torch.ones(16 * 2**20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be asked")
def test_freed_memory_is_used_again_without_being_mapped_anew_each_time():
    # In a process of its own: what others left on the heap decides where large blocks go, and it is asked of all of it.
    ran = subprocess.run([sys.executable, "-c", COUNT], capture_output=True, text=True, check=True)
    # Mapped anew each time, the eight would fault in 16,384 pages of 4 kB each; kept, the heap may grow twice at most.
    assert int(ran.stdout) <= 2 * 16_384

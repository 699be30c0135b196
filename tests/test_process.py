"""Freed memory is kept, the peak of memory and the start of a process are known."""

import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from raygen.process import PeakMemory, free_memory, process_start

SIZE = 200 * 10**6

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


@pytest.mark.skipif(platform.system() != "Linux", reason="only Linux has such a file")
def test_the_start_of_a_process_is_that_of_the_system_which_locks_of_older_versions_hold():
    for pid in (os.getpid(), os.getppid(), 1):
        assert process_start(pid) == Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]


def test_a_process_that_has_ended_is_gone_even_before_its_parent_notices():
    ended = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    assert process_start(ended.pid).isdecimal()
    ended.stdin.close()
    deadline = time.monotonic() + 60
    while process_start(ended.pid) != "gone":  # it is a zombie until it is waited for
        assert time.monotonic() < deadline
        time.sleep(0.01)
    ended.wait()
    assert process_start(ended.pid) == "gone"


@pytest.mark.parametrize("pid", [-1, 2**31 - 1, 2**80])
def test_a_number_of_no_process_is_gone(pid):
    assert process_start(pid) == "gone"


def test_the_peak_counts_memory_that_was_freed_within_the_block():
    with PeakMemory() as memory:
        held = np.ones(SIZE, dtype=np.uint8)
        del held
    assert memory.peak - memory.base > 0.9 * SIZE


def test_a_block_that_needs_nothing_has_the_memory_that_it_began_with():
    with PeakMemory() as memory:
        pass
    assert memory.base <= memory.peak < memory.base + 0.1 * SIZE


def test_free_memory_is_some_of_what_the_machine_has():
    assert 0 < free_memory() < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")

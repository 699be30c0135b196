import platform
import resource

import pytest
import torch

from raygen.sampling import keep_freed_memory


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be asked")
def test_freed_memory_is_used_again_without_being_mapped_anew():
    assert keep_freed_memory()
    torch.ones(16 * 2**20)  # 64 MB, freed at once
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        torch.ones(16 * 2**20)
    # Mapped anew, each of the eight would fault in its 16,384 pages (or 32 huge ones).
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 100

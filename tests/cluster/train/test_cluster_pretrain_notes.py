"""What Ray Train notes for itself goes to a folder that no driver leaves behind for good."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from raygen.cluster.train.pretrain import _bookkeeping

KILLED = """
import os, sys
from pathlib import Path
from raygen.cluster.train.pretrain import _bookkeeping
with _bookkeeping() as folder:
    Path(folder, "note").write_text("x")
    print(folder, flush=True)
    os._exit(9)
"""


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield tmp_path
    tempfile.tempdir = None


def test_the_folder_of_a_driver_that_was_killed_is_removed_by_the_next_one(temporary):
    left = Path(
        subprocess.run([sys.executable, "-c", KILLED], capture_output=True, text=True, check=False).stdout.strip()
    )
    assert left.parent == temporary
    assert (left / "note").exists()
    other = temporary / "raygen-train-notes-of-mine"
    other.mkdir()
    with _bookkeeping() as alive:
        assert not left.exists()
        with _bookkeeping() as second:
            assert Path(alive).is_dir()
            assert Path(second).is_dir()
        assert Path(alive).name.startswith(f"raygen-train-{os.getpid()}-")
    assert [path.name for path in temporary.iterdir()] == [other.name]


def test_the_folder_of_another_process_that_has_the_number_now_is_removed(temporary):
    (temporary / f"raygen-train-{os.getpid()}-12345-abc").mkdir()
    with _bookkeeping() as folder:
        assert [str(path) for path in temporary.iterdir()] == [folder]

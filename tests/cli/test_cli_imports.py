"""What works without Ray does not import it."""

import sys
from pathlib import Path
from typing import Any

CHECK = (
    "import sys; loaded = [name for name in sys.modules if name.split('.')[0] == 'ray']; assert not loaded, loaded[:5]"
)


def test_the_stages_and_the_command_line_are_imported_without_ray(launcher: Any) -> None:
    done = launcher.run(sys.executable, "-c", f"import raygen.stages, raygen.cli, raygen.config; {CHECK}")
    assert done.returncode == 0, done.stderr


def test_nodes_local_sampling_and_the_gallery_do_not_import_ray(launcher: Any, tmp_path: Path) -> None:
    sample = ["sample", "--out", str(tmp_path / "run"), "--nodes", "conv1:0", "--weights", "random", "--local"]
    sample += ["--chains", "2", "--draws", "2", "--thin", "1", "--warm-up", "2", "--steps", "1"]
    program = f"""
from raygen.cli import main
assert main(["nodes", "--weights", "random"]) == 0
assert main({sample!r}) == 0
assert main(["gallery", "--out", {str(tmp_path / "run")!r}]) == 0
{CHECK}
"""
    done = launcher.run(sys.executable, "-c", program)
    assert done.returncode == 0, done.stderr

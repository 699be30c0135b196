"""The job scripts and their configurations, and the cluster's description."""

import os
import runpy
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from raygen.config import LookConfig, PipelineConfig, PretrainConfig, SampleConfig, TuneConfig, load_config
from raygen.networks import NetworkSettings
from raygen.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
JOBS = ROOT / "jobs"
KINDS = {"look": LookConfig, "pipeline": PipelineConfig, "pretrain": PretrainConfig, "sample": SampleConfig,
         "tune": TuneConfig}  # fmt: skip


def test_every_job_has_a_script_and_a_configuration() -> None:
    for ending in ("py", "yaml"):
        assert {path.stem for path in JOBS.glob(f"*.{ending}")} - {"__init__"} == KINDS.keys()


@pytest.mark.parametrize(("name", "kind"), KINDS.items(), ids=KINDS)
def test_every_configuration_is_one_of_its_command(name: str, kind: type[Settings]) -> None:
    found = load_config(kind, str(JOBS / f"{name}.yaml"), {})
    assert found.model_fields_set >= {"out"}


def test_the_jobs_go_on_with_what_the_one_before_leaves() -> None:
    trained = load_config(PretrainConfig, str(JOBS / "pretrain.yaml"), {}).out + "/network.safetensors"
    for name in ("look", "sample", "tune"):
        assert NetworkSettings.part_of(load_config(KINDS[name], str(JOBS / f"{name}.yaml"), {})).weights == trained


@pytest.mark.parametrize("name", KINDS)
def test_every_script_is_its_command(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [f"jobs/{name}.py", "--help"])
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(JOBS / f"{name}.py"), run_name="__main__")
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith(f"Usage: raygen {name} [OPTIONS]")


def test_a_script_as_a_program_passes_its_status_on(launcher: Any) -> None:
    done = launcher.run(sys.executable, JOBS / "sample.py", "--nodes", "conv1:0")
    assert done.returncode == 2
    assert done.stderr.splitlines() == ["raygen: options: out is not given; give out (--out)"]


@pytest.fixture
def description() -> dict[str, Any]:
    file = ROOT / "cluster.yaml"
    if not file.exists():
        pytest.skip("there is no cluster.yaml")
    found: dict[str, Any] = yaml.safe_load(file.read_text())
    return found


@pytest.mark.slow
def test_the_clusters_description_passes_rays_own_check(description: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    # What `ray up` does before it speaks to the cloud: fill in the defaults of the provider, then check the whole.
    whole = prepare_config(description)
    validate_config({"cluster_synced_files": [], **whole})
    assert whole["provider"]["type"] == description["provider"]["type"]
    assert whole["head_node_type"] in whole["available_node_types"]
    with pytest.raises(Exception, match="available_node_type"):
        validate_config({"cluster_synced_files": [], **whole, "available_node_typos": {}})


def test_the_cluster_installs_raygen_and_starts_the_ray_that_came_with_it(description: dict[str, Any]) -> None:
    installs = [shlex.split(command) for command in description["setup_commands"] if "pip install" in command]
    assert len(installs) == 1
    folder = installs[0][-1]
    assert description["file_mounts"][folder] == ".", "raygen is installed from what is brought there"
    binaries = os.path.dirname(installs[0][0])  # noqa: PTH120  (a path of another machine)
    starts = [*description["head_start_ray_commands"], *description["worker_start_ray_commands"]]
    assert all(f"{binaries}/ray " in command for command in starts)
    assert any("--autoscaling-config=" in command for command in description["head_start_ray_commands"])

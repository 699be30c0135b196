"""The search on a real Ray Tune, and the profile that it leaves for sampling."""

import json
import signal
from pathlib import Path

import numpy as np
import pytest
import yaml

from raygen import stages
from raygen.cli import main
from raygen.config import SampleConfig, TuneConfig
from raygen.errors import SettingsError, StoreError
from raygen.networks import NetworkSettings, load_network
from raygen.runs import FarmReport
from raygen.store import Run

TINY = {"chains": 2, "draws": 4, "thin": 2, "warm_up": 4, "steps": 2, "seed": 6}
GRID = {"nodes": "conv1:0-2", "contrasts": (1.0, 3.0), "step_sizes": (0.1, 0.3)}


def config_of(weights: Path, out: Path, **changes: object) -> TuneConfig:
    return TuneConfig.parse({**TINY, **GRID, "weights": str(weights), "out": str(out), **changes}, where="test")


def no_progress(done: int, of: int) -> None:
    del done, of


def ignore(_: FarmReport) -> None:
    pass


@pytest.fixture(scope="module")
def searched(cluster: None, lenet_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search made by the command itself, with its display."""
    del cluster
    folder = tmp_path_factory.mktemp("search")
    config = folder / "tune.yaml"
    config.write_text(json.dumps({**TINY, **GRID, "weights": str(lenet_file), "out": str(folder / "out")}))
    handler = signal.getsignal(signal.SIGTERM)
    assert main(["tune", "--config", str(config)]) == 0
    signal.signal(signal.SIGTERM, handler)
    return folder / "out"


@pytest.mark.slow
def test_a_search_tries_the_whole_grid_and_names_the_best_in_a_profile(searched: Path, lenet_file: Path) -> None:
    found = [json.loads(path.read_text()) for path in (searched / "trials").iterdir()]
    assert sorted((trial["contrast"], trial["step_size"]) for trial in found) == [
        (1.0, 0.1),
        (1.0, 0.3),
        (3.0, 0.1),
        (3.0, 0.3),
    ]
    best = max(found, key=lambda trial: trial["ess_rate"] * trial["share"])
    profile = yaml.safe_load((searched / "profile.yaml").read_text())
    assert profile == {
        "network": "lenet",
        "weights_hash": load_network(NetworkSettings(weights=str(lenet_file))).weights_hash,
        "layers": {"conv1": {name: best[name] for name in ("contrast", "step_size")}},
    }


@pytest.mark.slow
def test_a_second_search_tries_nothing_again_and_a_wider_one_only_what_is_new(searched: Path, lenet_file: Path) -> None:
    kept = {path: path.stat().st_mtime_ns for path in (searched / "trials").iterdir()}
    again = stages.tune(config_of(lenet_file, searched), no_progress)
    assert {path: path.stat().st_mtime_ns for path in (searched / "trials").iterdir()} == kept
    found = [trial.objective for trial in again.trials]
    assert found == sorted(found, reverse=True)
    progress: list[tuple[int, int]] = []
    wider = stages.tune(
        config_of(lenet_file, searched, step_sizes=(0.1, 0.3, 0.5), contrasts=(1.0,)),
        lambda done, of: progress.append((done, of)),
    )
    assert progress == [(3, 3)]
    assert len(wider.trials) == 3
    now = {path: path.stat().st_mtime_ns for path in (searched / "trials").iterdir()}
    assert len(now) == 5
    assert now.items() >= kept.items()


@pytest.mark.slow
def test_another_search_in_the_same_folder_is_refused(searched: Path, lenet_file: Path) -> None:
    with pytest.raises(StoreError, match=r'it holds another run: there nodes is \["conv1:0", .*\], now \["conv1:0"\]'):
        stages.tune(config_of(lenet_file, searched, nodes="conv1:0"), no_progress)


def write_profile(folder: Path, weights: Path, **layers: dict[str, float]) -> Path:
    weights_hash = load_network(NetworkSettings(weights=str(weights))).weights_hash
    file = folder / "profile.yaml"
    file.write_text(yaml.safe_dump({"network": "lenet", "weights_hash": weights_hash, "layers": layers}))
    return file


def sample_config(weights: Path, out: Path, **changes: object) -> SampleConfig:
    values = {**TINY, "nodes": "conv1:0-1 conv2:0", "weights": str(weights), "out": str(out), "local": True}
    return SampleConfig.parse(values | changes, where="test")


def test_a_profile_rules_the_layers_that_it_names_and_no_other(lenet_file: Path, tmp_path: Path) -> None:
    profile = write_profile(tmp_path, lenet_file, conv1={"contrast": 2.0, "step_size": 0.125})
    stages.sample(sample_config(lenet_file, tmp_path / "run", profile=str(profile)), ignore)
    run = Run.open(str(tmp_path / "run"))
    steps = {unit.layer: np.unique(run.samples(unit)["step_size"].to_numpy()) for unit in run.plan}
    assert steps["conv1"].tolist() == [0.125]
    assert 0.125 not in steps["conv2"]
    assert run.request["request"]["profile"] == {"conv1": {"contrast": 2.0, "step_size": 0.125}}
    with pytest.raises(StoreError, match=r"there profile\.conv1"):
        stages.sample(sample_config(lenet_file, tmp_path / "run"), ignore)


def test_sampling_by_a_profile_is_sampling_with_its_settings(lenet_file: Path, tmp_path: Path) -> None:
    values = {"contrast": 2.0, "step_size": 0.125}
    profile = write_profile(tmp_path, lenet_file, conv1=values)
    for name, changes in (("profile", {"profile": str(profile)}), ("settings", values)):
        stages.sample(sample_config(lenet_file, tmp_path / name, nodes="conv1:0-1", **changes), ignore)
    first, second = (Run.open(str(tmp_path / name)) for name in ("profile", "settings"))
    for unit in first.plan:
        assert first.samples(unit) == second.samples(unit)


def test_a_profile_of_other_weights_is_refused(lenet_file: Path, tmp_path: Path) -> None:
    profile = write_profile(tmp_path, lenet_file, conv1={"step_size": 0.1})
    with pytest.raises(SettingsError, match=r"profile\.yaml: is a profile of other weights; give the weights"):
        stages.sample(sample_config(Path("random"), tmp_path / "run", profile=str(profile)), ignore)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("nodes", ["conv1:0 conv2:0", "conv1:0@1,1"])
def test_nodes_of_two_layers_or_with_positions_are_refused(nodes: str, lenet_file: Path, tmp_path: Path) -> None:
    with pytest.raises(
        SettingsError, match=r"^nodes: .*; tune the nodes of one layer, without positions, @mean or @relu$"
    ):
        stages.tune(config_of(lenet_file, tmp_path / "out", nodes=nodes), no_progress)
    assert not (tmp_path / "out").exists()

"""``import raygen``: a module goes in, images come out."""

import gc
import html.parser
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import raygen
from raygen import stages
from raygen.config import SampleConfig
from raygen.errors import InputError, NodeError, SettingsError
from raygen.networks import lenet, save_checkpoint

SMALL = {"chains": 2, "draws": 2, "thin": 2, "warm_up": 4, "steps": 2, "seed": 3, "reference": "white", "threads": 1}


LENET = {"network": "lenet", "arguments": {}, "input_shape": [1, 28, 28], "mean": [0.1], "std": [0.5]}
LENET |= {"class_names": list("0123456789")}


class Means(nn.Module):
    """A convolution and a class for each of its channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3)
        self.fc = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.conv(x).relu().mean((2, 3)))


@pytest.fixture
def module() -> nn.Module:
    torch.manual_seed(2)
    return Means()


def test_importing_raygen_imports_nothing_that_takes_a_while() -> None:
    script = "import sys, raygen; dir(raygen); print({'torch', 'ray', 'pyarrow', 'numpy'} & set(sys.modules) or '')"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
    assert {"nodes", "score", "sample", "look", "open"} <= set(dir(raygen))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = raygen.nothing


def test_the_layers_of_a_module_show_themselves_as_text_and_as_html(module: nn.Module) -> None:
    layers = raygen.nodes(module, input_shape=(1, 12, 16))
    assert [(layer.name, layer.map_size) for layer in layers] == [("conv", (10, 14)), ("fc", None)]
    assert [line.split()[:4] for line in str(layers).splitlines()[1:]] == [
        ["conv", "conv", "3", "10x14"],
        ["fc", "linear", "2", "-"],
    ]
    assert layers._repr_html_().count("<tr>") == 3


def test_a_score_is_the_response_to_the_normalised_image() -> None:
    linear = nn.Sequential(nn.Flatten(), nn.Linear(2 * 3 * 3, 4))
    images = torch.rand(5, 2, 3, 3)
    found = raygen.score(linear, "1:2", images, mean=[0.25, 0.5], std=[0.5, 2.0])
    shifted = (images - torch.tensor([0.25, 0.5])[:, None, None]) / torch.tensor([0.5, 2.0])[:, None, None]
    torch.testing.assert_close(found, shifted.flatten(1) @ linear[1].weight[2] + linear[1].bias[2])
    assert not found.requires_grad
    with pytest.raises(InputError, match=r"images of shape \(2, 3, 3\); give \(N, C, H, W\)"):
        raygen.score(linear, "1:2", images[0])
    with pytest.raises(NodeError, match="give one node"):
        raygen.score(linear, "1:0-1", images)


def test_a_module_gives_the_samples_that_its_file_gives_on_the_command_line(tmp_path: Path) -> None:
    torch.manual_seed(5)
    module = lenet()
    save_checkpoint(tmp_path / "net.safetensors", module, LENET)
    asked = {"weights": str(tmp_path / "net.safetensors"), "nodes": "conv1:0-1 ip2:3", "local": True, **SMALL}
    stages.sample(SampleConfig.parse(asked | {"out": str(tmp_path / "run")}, where=""), lambda _: None)
    by_file = raygen.open(str(tmp_path / "run"))
    samples = raygen.sample(
        module, "conv1:0-1 ip2:3", input_shape=(1, 28, 28), mean=[0.1], std=[0.5],
        class_names=LENET["class_names"], **SMALL,
    )  # fmt: skip
    assert samples.nodes == by_file.nodes == ("conv1:0", "conv1:1", "ip2:3")
    for node in samples:
        assert samples[node].table["image"].equals(by_file[node].table["image"])
        assert torch.equal(samples[node].scores, by_file[node].scores)
    assert samples["3"].images.shape == (4, 1, 28, 28)
    assert samples["3"].chains.tolist() == [0, 0, 1, 1]
    assert 0 <= float(samples["3"].images.min()) < float(samples["3"].images.max()) <= 1


def test_a_module_is_looked_at_and_its_modes_are_called_so(module: nn.Module) -> None:
    threads = torch.get_num_threads()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    named = {"class_names": ["<b>cat</b>", "dog"], "input_shape": (1, 12, 12)}
    modes = raygen.look(module, "fc:*", chains=2, mode_steps=3, reference="white", **named)
    assert torch.get_num_threads() == threads
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    shown = modes._repr_html_()
    assert shown.count("modes, not samples") == shown.count("<img") == 2
    assert "<b>" not in shown and "&lt;b&gt;cat" in shown
    parser = html.parser.HTMLParser()
    parser.feed(shown)
    assert modes["dog"]._repr_html_().count("<img") == 1
    assert repr(modes).startswith("Samples of 2 nodes (fc:0, fc:1) in ")
    assert Path(modes.gallery()).is_file()


def test_a_run_without_a_folder_goes_with_what_was_returned_and_one_with_a_folder_is_continued(
    module: nn.Module, tmp_path: Path
) -> None:
    given = {"input_shape": (1, 12, 12), **SMALL}
    samples = raygen.sample(module, "conv:0", **given)
    folder = Path(samples.run.location.title)
    assert folder.is_dir()
    del samples
    gc.collect()
    assert not folder.exists()
    first = raygen.sample(module, "conv:0", out=str(tmp_path / "run"), **given)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")}
    again = raygen.sample(module, "conv:0", out=str(tmp_path / "run"), **given)
    assert files == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")}
    assert torch.equal(first["conv:0"].images, again["conv:0"].images)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"weights": "net.pt"}, "raygen.sample: weights is for networks by name; leave it out: the module is given"),
        ({"chain": 3}, "raygen.sample: unknown setting 'chain'; did you mean chains"),
        ({"chains": -1}, "raygen.sample: chains = -1 is not possible"),
    ],
)
def test_a_setting_that_is_wrong_is_refused_in_one_line(
    module: nn.Module, settings: dict[str, object], says: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        raygen.sample(module, "conv:0", input_shape=(1, 12, 12), **settings)
    assert str(caught.value).startswith(says)


def test_a_node_that_is_not_in_a_run_is_refused_with_those_that_are_near(module: nn.Module) -> None:
    samples = raygen.sample(module, "conv:0-1", input_shape=(1, 12, 12), **SMALL)
    with pytest.raises(NodeError, match=r"unknown node 'conv:7'; did you mean conv:[01]"):
        _ = samples["conv:7"]

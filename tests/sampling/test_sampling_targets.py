"""What chains sample is checked at the reference's own scale, when the first unit of a layer begins."""

import pytest
import torch
from torch import nn

from raygen.errors import NetworkError
from raygen.networks import NetworkSettings, Node, computes_bfloat16, cut_for, load_network, wrap_network
from raygen.sampling import SamplingSettings, UnitSampler
from raygen.sampling.targets import Targets
from raygen.store import Unit

NODE = Node("last", 0)


class Saturates(nn.Module):
    """What is beyond 100 is handled by ``beyond``: never so at the scale of ordinary images."""

    def __init__(self, beyond):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)
        self.beyond = beyond

    def forward(self, x):
        x = self.first(x)
        return self.last(self.beyond(x) if float(x.detach().abs().max()) > 100 else x.relu()).mean((2, 3))


def targets(beyond, sigma):
    network = wrap_network(Saturates(beyond), name="case", input_shape=(3, 12, 12))
    assert not cut_for(network, NODE).one_by_one
    return Targets(network, SamplingSettings(sigma=sigma, chains=2), None, torch.device("cpu"))


def test_a_network_that_mixes_images_of_the_references_scale_is_refused():
    mixed = targets(lambda x: x - x.mean(0, keepdim=True), 1000.0)
    with pytest.raises(NetworkError, match=r"^layer last of network case: .*other images"):
        mixed.cut(NODE)
    targets(lambda x: x - x.mean(0, keepdim=True), 1.0).cut(NODE)


def test_a_network_that_draws_random_numbers_at_the_references_scale_is_refused():
    with pytest.raises(NetworkError, match=r"^layer last of network case: draws random numbers"):
        targets(lambda x: torch.nn.functional.dropout(x, 0.5), 1000.0).cut(NODE)


def test_a_network_that_takes_one_image_of_the_references_scale_is_given_one_which_is_noted():
    made = targets(lambda x: x.view(1, 8, 10, 10), 1000.0)
    assert made.notes == ()
    assert made.cut(NODE).one_by_one
    (note,) = made.notes
    assert note.startswith("layer last of network case: the network is run as it is, one image at a time")


class OnlyFloat(nn.Module):
    def __init__(self):
        super().__init__()
        self.last = nn.Linear(12, 3)

    def forward(self, x):
        return self.last((x if x.dtype == torch.float32 else -x).flatten(1))


@pytest.mark.parametrize(
    ("module", "cheap"),
    [(OnlyFloat(), False), (nn.Sequential(nn.Conv2d(3, 4, 2), nn.Tanh(), nn.Conv2d(4, 4, 1)), True)],
)
def test_forces_are_cheap_only_where_they_lead_uphill(module, cheap, caplog):
    network = wrap_network(module, name="case", input_shape=(3, 2, 2))
    node = Node("last" if hasattr(module, "last") else "2", 0)
    made = Targets(network, SamplingSettings(forces="bfloat16", chains=2), None, torch.device("cpu"))
    for _ in range(2):
        assert made.density(made.scores([node], 2)).cheap_forces is cheap
    assert caplog.text.count("lead elsewhere") == (0 if cheap else 1)
    # Said once, and only by a processor that does not compute in bfloat16.
    assert caplog.text.count("makes bfloat16 of float32") == (0 if computes_bfloat16(torch.device("cpu")) else 1)


def test_views_change_the_target_and_are_off_by_default():
    few = SamplingSettings(steps=2, warm_up=2, chains=2, draws=1, thin=1, tilt=3.0)
    unit, network = Unit("unit", "ip2", ("ip2:1",), 2), load_network(NetworkSettings(weights="random"))
    tables = {
        views: UnitSampler(network, few.model_copy(update={"views": views}), None, torch.device("cpu")).sample(unit)
        for views in (0, 3)
    }
    assert few.views == 0 and tables[0]["score"] != tables[3]["score"]
    again = UnitSampler(network, few.model_copy(update={"views": 3}), None, torch.device("cpu")).sample(unit)
    assert again["image"] == tables[3]["image"] and again["score"] == tables[3]["score"]

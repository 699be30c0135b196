"""A unit's samples: decided by the seed and the node, whoever shares the batch."""

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from raygen.data import ImageSet
from raygen.errors import ScoreError
from raygen.hmc import Kernel, Streams, WarmUp, begin, draw, potential, warm_up
from raygen.networks import (
    NetworkSettings,
    Node,
    NodeScores,
    cut_for,
    cut_network,
    load_network,
    read_node,
    score_nodes,
    wrap_network,
)
from raygen.sampling import SamplingSettings, UnitSampler
from raygen.store import SAMPLES, Unit
from raygen.tilting import FixedTilt, WhitenedScore, WhiteNoise

LENET = load_network(NetworkSettings(weights="random"))
FEW = SamplingSettings(steps=2, warm_up=6, chains=3, draws=2, thin=2, sigma=1.0, step_size=0.1)
NUMBERS = ("score", "potential", "tilt", "contrast", "acceptance_rate", "step_size", "image_low", "image_high")


def sampler(settings=FEW, *, network=LENET, images=None, profile=None):
    return UnitSampler(network, settings, images, torch.device("cpu"), profile)


def few(**changes):
    return FEW.model_copy(update=changes)


def unit(layer, *channels, chains=3, position=None):
    return Unit(f"{layer}-00000", layer, tuple(str(Node(layer, channel, position)) for channel in channels), chains)


def rows_of(table, channel):
    return [row for row in table.to_pylist() if row["channel"] == channel]


def assert_same(rows, others, tolerance):
    """The same samples, but for the round-off of a batch of another size."""
    assert len(rows) == len(others) > 0
    for row, other in zip(rows, others, strict=True):
        for name in NUMBERS:
            assert row[name] == pytest.approx(other[name], rel=tolerance, abs=tolerance), name
        pictures = [np.array(Image.open(io.BytesIO(one["image"]["bytes"]))).astype(int) for one in (row, other)]
        assert np.abs(pictures[0] - pictures[1]).max() <= 1
        for name in ("node", "chain", "draw", "top_channel", "class_name", "divergences", "gradients", "seed"):
            assert row[name] == other[name], name


@pytest.mark.parametrize("layer", ["ip2", "conv1", "conv2"])
def test_the_same_seed_gives_the_same_samples_to_the_bit(layer):
    torch.manual_seed(1)
    first = sampler().sample(unit(layer, 0, 4))
    torch.manual_seed(2)
    assert sampler().sample(unit(layer, 0, 4)).equals(first)
    assert first.schema.equals(SAMPLES, check_metadata=True)
    assert first.num_rows == 2 * 3 * 2
    assert np.array(first["acceptance_rate"]).mean() > 0.2  # chains that never move would agree for nothing


def test_a_sampler_that_sampled_other_units_before_gives_the_same_samples():
    used = sampler()
    for other in (unit("conv1", 3), unit("ip2", 1), unit("conv2", 0, position=(1, 2))):
        used.sample(other)
    for asked in (unit("conv2", 5), unit("ip2", 2), unit("conv1", 3, 4)):
        assert used.sample(asked).equals(sampler().sample(asked))


@pytest.mark.parametrize("layer", ["ip2", "conv1"])
@pytest.mark.parametrize(
    "settings",
    [FEW, few(each_chain=True, tilt=3.0, step_size=None)],
    ids=["contrast", "adapted"],
)
def test_a_nodes_samples_do_not_depend_on_who_shares_its_unit(layer, settings):
    alone = sampler(settings).sample(unit(layer, 4))
    front = sampler(settings).sample(unit(layer, 4, 7, 1))
    back = sampler(settings).sample(unit(layer, 2, 4))
    for shared in (front, back):
        assert_same(rows_of(shared, 4), rows_of(alone, 4), 2e-3)


def test_nodes_of_a_unit_and_chains_of_a_node_differ():
    table = sampler().sample(unit("ip2", 0, 1))
    images = [row["image"]["bytes"] for row in table.to_pylist() if row["draw"] == 0]
    assert len(set(images)) == len(images) == 6


def test_a_units_samples_are_those_of_chains_composed_by_hand():
    table = sampler(few(tilt=3.0)).sample(unit("ip2", 2, 5))
    scores = NodeScores(cut_network(LENET, "ip2"), torch.tensor([2, 2, 2, 5, 5, 5]))
    target, streams = WhitenedScore(scores, WhiteNoise((1, 28, 28), 1.0)), Streams(("0/ip2:2", "0/ip2:5"), 3)
    kernel, plan, kept = Kernel("rotation", 2), WarmUp(6, step_size=0.1), []
    state = kernel.init(target, streams.start((1, 28, 28)))
    state, found = warm_up(plan, kernel, target, streams, begin(plan, kernel, state, FixedTilt(torch.full((2,), 3.0))))
    draw(kernel, target, state, found, streams, first=6, iterations=4,
         on_step=lambda count, state, info: kept.append((state, info)))  # fmt: skip
    for row, line in ((row, row["chain"] + (3 if row["channel"] == 5 else 0)) for row in table.to_pylist()):
        state = kept[2 * row["draw"] + 1][0]
        assert row["score"] == state.score[line].item()
        assert row["potential"] == potential(state, found.tilt)[line].item()
        assert row["top_channel"] == LENET.module(state.position[line : line + 1]).argmax()
        signal = sum(kept[step][0].gradient[rows].square().sum() for step in (1, 3) for rows in _rows(row["channel"]))
        assert row["contrast"] == pytest.approx(9 * signal.item() / 6 / 784, rel=1e-4)
        rates = torch.stack([info.acceptance[line] for _, info in kept])
        assert row["acceptance_rate"] == pytest.approx(rates.mean().item())


def _rows(channel):
    return range(3, 6) if channel == 5 else range(3)


def test_another_seed_gives_other_samples():
    first, other = (sampler(few(seed=seed)).sample(unit("ip2", 3)) for seed in (0, 1))
    assert not set(first["score"].to_pylist()) & set(other["score"].to_pylist())
    assert set(other["seed"].to_pylist()) == {1}


def test_a_node_at_a_position_is_another_node_on_the_whole_image():
    centre, placed, elsewhere = (
        sampler().sample(unit("conv2", 5, position=position)) for position in (None, (3, 4), (3, 5))
    )
    assert set(placed["node"].to_pylist()) == {"conv2:5@3,4"} and set(centre["node"].to_pylist()) == {"conv2:5"}
    sizes = [Image.open(io.BytesIO(table["image"][0]["bytes"].as_py())).size for table in (centre, placed)]
    assert sizes == [(14, 14), (28, 28)]
    assert placed["score"].to_pylist() != elsewhere["score"].to_pylist()


def test_only_what_a_node_at_a_position_sees_is_tilted():
    # A bright 5x5 filter at row 2, column 20 of conv1 moves the mean of its own window, and of nothing else.
    module = nn.Sequential(nn.Conv2d(1, 1, 5))
    with torch.no_grad():
        module[0].weight.fill_(1.0)
    network = wrap_network(module, name="box", input_shape=(1, 28, 28))
    settings = few(chains=40, draws=1, tilt=3.0, warm_up=30, step_size=None)
    table = sampler(settings, network=network).sample(unit("0", 0, chains=40, position=(2, 20)))
    pixels = torch.stack([
        row["image_low"] + (row["image_high"] - row["image_low"]) / 255
        * torch.from_numpy(np.array(Image.open(io.BytesIO(row["image"]["bytes"]))).astype(np.float32))
        for row in table.to_pylist()
    ])  # fmt: skip
    mean = pixels.mean(0)
    window = torch.zeros(28, 28, dtype=torch.bool)
    window[2:7, 20:25] = True
    assert mean[window].min() > 1.5  # 3 but for the tail that the grey scale cuts
    assert mean[~window].abs().max() < 5 / math.sqrt(40)


def test_the_whole_image_is_sampled_where_no_crop_is_asked_for():
    table = sampler(few(crop=False)).sample(unit("conv1", 2))
    assert Image.open(io.BytesIO(table["image"][0]["bytes"].as_py())).size == (28, 28)
    table = sampler().sample(unit("conv1", 2))
    assert Image.open(io.BytesIO(table["image"][0]["bytes"].as_py())).size == (5, 5)


def test_cheap_forces_sample_the_same_target():
    wide = {"chains": 20, "tilt": 0.5, "warm_up": 30, "draws": 4, "thin": 4, "steps": 3, "step_size": None}
    tables = [
        sampler(few(forces=forces, **wide)).sample(unit("ip2", 3, chains=20)) for forces in ("float32", "bfloat16")
    ]
    scores = [np.array(table["score"]).reshape(20, 4).mean(1) for table in tables]
    assert not np.array_equal(*scores)
    error = math.hypot(*(score.std(ddof=1) / math.sqrt(20) for score in scores))
    assert abs(scores[0].mean() - scores[1].mean()) < 5 * error
    assert min(np.array(table["acceptance_rate"]).mean() for table in tables) > 0.4


def test_a_tilted_class_scores_higher_than_the_reference():
    weak, strong = (
        sampler(few(tilt=tilt, warm_up=30, chains=6, step_size=None)).sample(unit("ip2", 3, chains=6))
        for tilt in (1e-6, 20.0)
    )
    assert np.array(strong["score"]).min() > np.array(weak["score"]).max()
    assert set(strong["top_channel"].to_pylist()) == {3}
    assert set(strong["class_name"].to_pylist()) == {"3"}


def test_a_contrast_is_met():
    settings = few(contrast=2.0, warm_up=50, chains=6, draws=4, step_size=None)
    table = sampler(settings).sample(unit("ip2", 3, 6, chains=6))
    for channel in (3, 6):
        assert rows_of(table, channel)[0]["contrast"] == pytest.approx(2.0, rel=0.4)


def test_a_profile_goes_before_the_settings_for_its_layer_only():
    profile = {"ip2": {"tilt": 0.25, "step_size": 0.125}}
    table = sampler(profile=profile).sample(unit("ip2", 1))
    assert set(table["tilt"].to_pylist()) == {0.25} and set(table["step_size"].to_pylist()) == {0.125}
    assert table.equals(sampler(few(tilt=0.25, step_size=0.125)).sample(unit("ip2", 1)))
    assert sampler(profile=profile).sample(unit("conv1", 1)).equals(sampler().sample(unit("conv1", 1)))


def test_a_fitted_reference_reaches_the_chains():
    generator = torch.Generator().manual_seed(0)
    shades = 100 + torch.randint(11, (60, 1, 28, 28), generator=generator)
    images = ImageSet("shades", shades.to(torch.uint8), torch.zeros(60, dtype=torch.int64), ("one",))
    table = sampler(few(reference="fitted", tilt=1e-6), images=images).sample(unit("conv1", 2))
    assert np.array(table["image_low"]).min() > 90 / 255 and np.array(table["image_high"]).max() < 120 / 255


def test_images_are_kept_as_pixels_and_not_as_network_inputs():
    plain, scaled = (
        wrap_network(LENET.module, name="lenet", input_shape=(1, 28, 28), mean=(mean,), std=(std,))
        for mean, std in ((0.0, 1.0), (0.5, 0.25))
    )
    first, other = (sampler(network=network).sample(unit("conv2", 3)) for network in (plain, scaled))
    assert first["score"].equals(other["score"])
    for name in ("image_low", "image_high"):
        np.testing.assert_allclose(np.array(other[name]), 0.25 * np.array(first[name]) + 0.5, rtol=0, atol=1e-5)


def test_gradients_are_counted_and_classes_named():
    table = sampler().sample(unit("ip2", 7))
    assert set(table["gradients"].to_pylist()) == {(6 + 2 * 2) * 2}
    assert set(table["class_name"].to_pylist()) == {"7"}
    assert set(sampler().sample(unit("conv1", 7))["class_name"].to_pylist()) == {None}


def test_progress_goes_up_to_the_whole():
    seen = []
    sampler().sample(unit("ip2", 7), seen.append)
    assert [progress.fraction for progress in seen] == pytest.approx([count / 10 for count in range(1, 11)])
    assert all(0 <= progress.acceptance <= 1 for progress in seen)


def test_the_network_is_left_as_it_was():
    before = {name: value.clone() for name, value in LENET.module.state_dict().items()}
    sampler(few(forces="bfloat16")).sample(unit("conv2", 1))
    assert all(torch.equal(value, before[name]) for name, value in LENET.module.state_dict().items())
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in LENET.module.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in LENET.module.modules())


def broken(weight):
    module = LENET.module
    copy = wrap_network(module, name="broken", input_shape=(1, 28, 28), class_names=tuple("0123456789"))
    with torch.no_grad():
        copy.module.ip2.weight[3] = weight
    return copy


@pytest.mark.parametrize(("weight", "what"), [(math.nan, "not finite|nan"), (math.inf, "finite")])
def test_a_node_that_cannot_be_sampled_is_refused_in_one_line(weight, what):
    network = broken(weight)
    with pytest.raises(ScoreError, match=what) as caught:
        sampler(network=network).sample(unit("ip2", 2, 3))
    assert str(caught.value).startswith("node ip2:3: ")
    assert "\n" not in str(caught.value)
    assert sampler(network=network).sample(unit("ip2", 2)).num_rows == 6


@pytest.mark.parametrize("tilt", [{}, {"tilt": 1.0}])
def test_a_constant_node_is_marked_and_its_neighbours_are_sampled_as_without_it(tilt):
    dead = sampler(few(**tilt), network=broken(0.0)).sample(unit("ip2", 2, 3, 5))
    sound = sampler(few(**tilt), network=broken(0.0)).sample(unit("ip2", 2, 5))
    assert dead["node"].to_pylist() == ["ip2:2"] * 6 + ["ip2:3"] * 3 + ["ip2:5"] * 6
    marked = rows_of(dead, 3)
    assert all(row["dead"].startswith("constant") and not row["converged"] for row in marked)
    assert {row["gradients"] for row in marked} == {0} and {row["tilt"] for row in marked} == {0.0}
    start = FEW.sigma * Streams((f"{FEW.seed}/ip2:3",), 3).start((1, 28, 28))
    pictures = [np.array(Image.open(io.BytesIO(row["image"]["bytes"]))) for row in marked]
    for picture, image in zip(pictures, start[:, 0], strict=True):
        assert np.corrcoef(picture.ravel(), image.numpy().ravel())[0, 1] > 0.99
    for channel in (2, 5):
        assert rows_of(dead, channel) == rows_of(sound, channel)


def seldom(bias):
    """A network whose nodes behind the ReLU are open for a part of all images."""
    module = nn.Sequential(nn.Flatten(), nn.Linear(16, 2), nn.ReLU())
    with torch.no_grad():
        module[1].weight.fill_(0.25)  # of white noise of deviation 1, responses of deviation 1
        module[1].bias.fill_(bias)
    return wrap_network(module, name="seldom", input_shape=(1, 4, 4))


def test_a_node_that_is_seldom_open_is_sampled_though_all_its_chains_start_where_it_is_closed():
    settings = few(chains=4, warm_up=80, draws=4, thin=5, step_size=None, steps=4, contrast=4.0)
    starts = Streams(("0/2:0@relu",), 4).start((1, 4, 4)).flatten(1).sum(1) * 0.25
    assert float(starts.max()) < 1.2
    rows = sampler(settings, network=seldom(-1.2)).sample(Unit("a", "2", ("2:0@relu",), 4)).to_pylist()
    # Where it is open the score is linear with a gradient of 1, and the reference's noise has a power of 16.
    assert {row["dead"] for row in rows} == {None} and {round(row["tilt"], 3) for row in rows} == {8.0}
    assert min(row["score"] for row in rows) > 3


def test_a_node_that_no_chain_finds_open_is_marked_and_does_not_hold_up_its_neighbours():
    settings = few(chains=2, warm_up=8, draws=2, thin=1, contrast=4.0)
    network = seldom(-1.2)
    with torch.no_grad():
        network.module[1].bias.copy_(torch.tensor([-30.0, 1.0]))
    found = sampler(settings, network=network)
    found.find_dead = lambda nodes: {}  # type: ignore[method-assign]  # as if one of many draws had opened it
    rows = found.sample(Unit("a", "2", ("2:0@relu", "2:1@relu"), 2)).to_pylist()
    marked = [row for row in rows if row["node"] == "2:0@relu"]
    assert len(rows) == 8 and len(marked) == 4
    assert all(row["dead"].startswith("dead") and row["tilt"] == 0 and not row["converged"] for row in marked)
    assert all(row["dead"] is None for row in rows if row["node"] == "2:1@relu")


class Counted(WhitenedScore):
    """The score, which counts the rows whose gradient was asked for."""

    gradients = 0

    def rows(self, chosen):
        part = super().rows(chosen)
        return Counted(part.score, part.reference, force=part.force)

    def value_and_gradient(self, z):
        Counted.gradients += len(z)
        return super().value_and_gradient(z)


def test_the_gradients_of_the_rows_are_those_that_were_made(monkeypatch):
    monkeypatch.setattr("raygen.sampling.targets.WhitenedScore", Counted)
    settings = SamplingSettings(chains=4, warm_up=12, draws=2, thin=3, steps=8, contrast=2.0)
    Counted.gradients = 0
    rows = sampler(settings).sample(unit("conv1", 0, 1, 2, chains=4))
    firsts = [row for row in rows.to_pylist() if row["draw"] == 0]
    counted = sum(row["gradients"] for row in firsts)
    assert counted + 12 == Counted.gradients  # and one of each chain where it starts
    assert counted < 12 * settings.gradients  # a linear score needs few steps


def test_the_mean_of_a_converged_conv_node_is_that_of_the_closed_form_and_stands_beside_the_last_draw():
    # A node of conv1 is linear in the image: its samples are N(b w, I), those of all other nodes apart.
    settings = few(warm_up=100, thin=60, draws=2, tilt=2.0, step_size=None, steps=8)
    rows = sampler(settings).sample(unit("conv1", 3, chains=2)).to_pylist()
    truth = 2.0 * next(LENET.module.parameters())[3].detach()
    for row in rows:
        assert (row["mean"] is None) == (row["mean_score"] is None) == (row["draw"] == 0)
        assert (row["reference"], row["views"], row["plain_score"]) == ("white", 1, None)
    means = [row for row in rows if row["mean"]]
    for row in means:
        shown = torch.from_numpy(np.array(Image.open(io.BytesIO(row["mean"]["bytes"])))).float() / 255
        found = row["mean_low"] + shown * (row["mean_high"] - row["mean_low"])
        expected = LENET.pixels(truth[None])[0, 0]
        assert (found - expected).abs().max() < 0.1 * expected.std()
    assert len(means) == 2 and rows[0]["r_hat"] < 1.1


def test_a_score_over_views_stands_beside_the_plain_score_of_the_same_image():
    row = sampler(few(views=4, bounded=True)).sample(unit("ip2", 1)).to_pylist()[0]
    shown = torch.from_numpy(np.array(Image.open(io.BytesIO(row["image"]["bytes"])))).float()[None, None] / 255
    plain = float(LENET.module((shown - LENET.pixels(torch.zeros(1, 1, 1, 1))) / scale_of(LENET))[0, 1])
    assert (row["views"], row["reference"]) == (4, "bounded white")
    assert row["plain_score"] == pytest.approx(plain, abs=0.02) and abs(row["score"] - plain) > 0.1


def scale_of(network):
    """What a step of one in the network's input is in pixels."""
    return network.pixels(torch.ones(1, 1, 1, 1)) - network.pixels(torch.zeros(1, 1, 1, 1))


def test_where_chains_are_copied_rows_name_their_ancestors_and_one_ancestor_alone_never_converges():
    loose = few(chains=8, warm_up=40, step_size=None, steps=4, r_hat=1e6, ess=1e-6)
    for tilt, resample in ((0.01, False), (80.0, False), (0.01, True), (80.0, True)):
        changes = {"tilt": tilt, "resample": resample}
        rows = sampler(loose.model_copy(update=changes)).sample(unit("ip2", 1, 2, chains=8)).to_pylist()
        for channel in (1, 2):
            own = [row for row in rows if row["channel"] == channel]
            ancestors = {row["chain"]: row["ancestor"] for row in own}
            assert (ancestors == {chain: chain for chain in range(8)}) == (not resample or tilt < 1)
            assert {row["converged"] for row in own} == {len(set(ancestors.values())) > 1}
    assert len(set(ancestors.values())) == 1, "the last case has all from one"


@pytest.mark.parametrize(
    ("texts", "score"),
    [
        (("ip2:[3-5]", "ip2:7"), lambda x: LENET.module(x)[:, 3] - LENET.module(x)[:, 5]),
        (("conv2:[2*1+4]@mean",), lambda x: (2 * maps(x)[:, 1] + maps(x)[:, 4]).mean((1, 2))),
        (("conv2:6@mean",), lambda x: maps(x)[:, 6].mean((1, 2))),
    ],
)
def test_sums_and_means_are_sampled_by_their_own_score(texts, score):
    layer = texts[0].partition(":")[0]
    table = sampler().sample(Unit("u", layer, texts, 3))
    assert table["node"].to_pylist()[:6] == [texts[0]] * 6
    alone = sampler().sample(Unit("u", layer, texts[:1], 3))
    for name in ("score", "potential", "tilt"):
        first = table[name].to_numpy()[: len(alone)]
        np.testing.assert_allclose(first, alone[name].to_numpy(), rtol=1e-3)
    x = FEW.sigma * Streams((texts[0],), 3).start((1, 28, 28))
    own = score_nodes(cut_for(LENET, read_node(texts[0])), [read_node(texts[0])], 3)
    torch.testing.assert_close(own(x), score(x), rtol=1e-4, atol=1e-4)


def maps(x):
    return LENET.module.conv2(LENET.module.pool1(LENET.module.conv1(x)))

"""Images as PNGs on their own grey scale, and the samples' table."""

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image

from raygen.hmc import Diagnostics, Parameters, Trace
from raygen.sampling.draws import ChainMeans, Draw, encode_images
from raygen.sampling.rows import NodeFacts, make_rows
from raygen.store import SAMPLES


def decode(png):
    return torch.from_numpy(np.array(Image.open(io.BytesIO(png))))


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (2, "L"), (5, "L")])
def test_grey_and_colour_are_shown_as_such_and_anything_else_as_its_mean(channels, mode):
    pixels = 3 * normal(4, channels, 9, 7) + 1
    encoded, low, high = encode_images(pixels)
    shown = pixels if channels in {1, 3} else pixels.mean(1, keepdim=True)
    for png, image, least, most in zip(encoded, shown, low, high, strict=True):
        picture = Image.open(io.BytesIO(png))
        assert picture.format == "PNG" and picture.mode == mode and picture.size == (7, 9)
        codes = decode(png).float().view(9, 7, -1).permute(2, 0, 1)
        back = least + codes / 255 * (most - least)
        torch.testing.assert_close(back, image.clamp(least, most), rtol=0, atol=0.501 * float(most - least) / 255)


def test_the_grey_scale_is_that_of_each_image_without_its_extremes():
    pixels = torch.linspace(0, 1, 1000).view(1, 1, 20, 50).repeat(2, 1, 1, 1)
    pixels[1] = 10 * pixels[1] - 4
    pixels[0, 0, 0, 0] = -500.0  # one pixel does not set the scale
    encoded, low, high = encode_images(pixels)
    torch.testing.assert_close(low, torch.tensor([0.005, -3.95]), rtol=0, atol=0.01)
    torch.testing.assert_close(high, torch.tensor([0.995, 5.95]), rtol=0, atol=0.01)
    assert decode(encoded[0])[0, 0] == 0
    for png in encoded:
        assert decode(png).min() == 0 and decode(png).max() == 255


def test_an_image_does_not_depend_on_the_others():
    pixels = normal(3, 1, 6, 6)
    together, alone = encode_images(pixels), encode_images(pixels[1:2])
    assert together[0][1] == alone[0][0] and together[1][1] == alone[1][0] and together[2][1] == alone[2][0]


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0, -3.0, 200.0, 1e6, -1e-30])
def test_a_constant_image_has_one_code_and_its_own_value(value):
    encoded, low, high = encode_images(torch.full((1, 1, 5, 4), value))
    assert high[0] > low[0]
    codes = decode(encoded[0])
    assert (codes == 0).all()
    assert low[0].item() == pytest.approx(value, rel=1e-6, abs=1e-6)


def test_encoding_changes_nothing_given():
    pixels = normal(2, 1, 4, 4).double().requires_grad_()
    before = pixels.detach().clone()
    encode_images(pixels)
    assert torch.equal(pixels.detach(), before)


# ---- rows


def facts(channel, converged):
    found = Diagnostics(1.0 + channel / 100, 1.1, 80.0 + channel, 70.0, 0.9, 0.6, 2)
    return NodeFacts(
        "lenet", f"ip2:{channel}", "ip2", channel, f"class {channel}" if channel else None, converged, found,
        reference="bounded white", views=4,
    )  # fmt: skip


def made(chains=3, draws=2):
    rows = 2 * chains
    trace = Trace(
        score=normal(8, rows),
        energy=normal(8, rows),
        projections=normal(8, rows, 2),
        acceptance=torch.rand((8, rows), generator=torch.Generator().manual_seed(1)),
        diverged=torch.arange(8 * rows).view(8, rows) % 5 == 0,
    )
    kept = []
    for index in range(draws):
        images, low, high = encode_images(normal(rows, 1, 4, 4, seed=index))
        signal = torch.arange(rows) + 10.0 * index
        kept.append(
            Draw(
                images,
                low,
                high,
                normal(rows, seed=5),
                normal(rows, seed=6).double(),
                torch.arange(rows),
                signal,
                normal(rows, seed=8),
            )
        )
    parameters = Parameters(torch.linspace(0.1, 0.2, rows), torch.tensor([2.0, 0.5]).repeat_interleave(chains))
    means = ChainMeans(*encode_images(normal(rows, 1, 4, 4, seed=9)), normal(rows, seed=10))
    table = make_rows(
        [facts(0, True), facts(7, False)], kept, trace, parameters, gradients=range(640, 640 + rows), seed=2**62,
        means=means,
    )  # fmt: skip
    return table, trace, kept, parameters, means


def test_rows_are_of_the_schema_ordered_by_node_chain_and_draw():
    table, *_ = made()
    assert table.schema.equals(SAMPLES, check_metadata=True)
    order = list(zip(*(table[name].to_pylist() for name in ("channel", "chain", "draw")), strict=True))
    assert order == [(channel, chain, draw) for channel in (0, 7) for chain in range(3) for draw in range(2)]


def test_rows_hold_what_belongs_to_their_chain_and_draw():
    table, trace, kept, parameters, means = made()
    for number, row in enumerate(table.to_pylist()):
        line, draw = number // 2, kept[number % 2]
        node = facts(row["channel"], row["channel"] == 0)
        assert row["image"] == {"bytes": draw.images[line], "path": None}
        assert (row["image_low"], row["image_high"]) == (draw.low[line].item(), draw.high[line].item())
        assert (row["score"], row["potential"], row["top_channel"]) == (
            draw.score[line],
            draw.potential[line],
            draw.top_channel[line],
        )
        assert row["tilt"] == parameters.tilt[line] and row["step_size"] == parameters.step_size[line]
        assert row["acceptance_rate"] == pytest.approx(trace.acceptance[:, line].mean().item())
        assert row["divergences"] == trace.diverged[:, line].sum()
        assert (row["model"], row["node"], row["layer"]) == ("lenet", node.node, "ip2")
        assert (row["class_name"], row["converged"]) == (node.class_name, node.converged)
        assert row["r_hat"] == pytest.approx(node.diagnostics.r_hat) and row["ess_bulk"] == node.diagnostics.ess_bulk
        assert (row["gradients"], row["seed"]) == (640 + line, 2**62)
        assert (row["reference"], row["views"], row["plain_score"]) == ("bounded white", 4, draw.plain[line])
        own = [means.images[line], means.low[line], means.high[line], means.score[line]] if row["draw"] else [None] * 4
        assert [row["mean"] and row["mean"]["bytes"], row["mean_low"], row["mean_high"], row["mean_score"]] == own


def test_the_contrast_is_the_mean_over_the_nodes_draws():
    table, *_ = made()
    # Signals 0, 1, 2 and 10, 11, 12 of the first node at b = 2; 3, 4, 5 and 13, 14, 15 of the second at b = 1/2.
    assert set(table["contrast"].to_pylist()) == {4 * 6.0, 0.25 * 9.0}


def test_an_undefined_diagnostic_is_nan_in_the_table():
    found = Diagnostics(math.nan, math.nan, math.nan, math.nan, math.nan, 0.0, 0)
    unknown = NodeFacts("lenet", "ip2:1", "ip2", 1, None, converged=False, diagnostics=found, reference="white",
                        views=1)  # fmt: skip
    _, trace, kept, parameters, _ = made()
    table = make_rows([unknown, unknown], kept, trace, parameters, gradients=[1] * len(kept[0].images), seed=0)
    assert all(math.isnan(value) for value in table["r_hat"].to_pylist() + table["ess_bulk"].to_pylist())

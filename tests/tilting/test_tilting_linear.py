"""End to end: a linear score f = w.x tilts N(m, AA') into N(m + b AA'w, AA'), exactly; so do the chains."""

import math

import pytest
import torch

from raygen.errors import ScoreError
from raygen.hmc import HmcSettings, Streams, begin, draw, warm_up
from raygen.tilting import ContrastTilt, Fitted, FixedTilt, PowerLaw, TiltingSettings, WhitenedScore, WhiteNoise, signal

CHAINS = 2000


def fitted():
    generator = torch.Generator().manual_seed(1)
    mixed = torch.randn((300, 12), generator=generator, dtype=torch.float64) @ torch.randn(
        (12, 12), generator=generator, dtype=torch.float64
    )
    return Fitted.of((2 + mixed).view(300, 1, 3, 4), floor=0.05)


REFERENCES = {
    "white": WhiteNoise((1, 3, 4), 10.0),
    "power law": PowerLaw.of((1, 4, 3), 0.7),
    "power law, colours": PowerLaw.of((3, 2, 3), 2.0),
    "fitted": fitted(),
}
EACH = pytest.mark.parametrize("reference", REFERENCES.values(), ids=REFERENCES.keys())


def ways(reference, nodes):
    """The w of each node, such that the shift at b = 1 is about half the power of the reference."""
    w = torch.randn((nodes, *reference.shape), generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    return 0.5 * w * math.sqrt(reference.dimension) / math.sqrt(reference.power)


def sampled(reference, settings, rule, *, nodes=1, chains=CHAINS, force=None):
    """The chains' last images, one node after the other, and their tilts."""
    rows = ways(reference, nodes).repeat_interleave(chains, dim=0)
    score = WhitenedScore(
        lambda x: (rows.to(x.dtype) * x).flatten(1).sum(1), reference, force=None if force is None else force(rows)
    )
    kernel, plan = settings.make_kernel(), settings.make_warm_up()
    streams = Streams(tuple(f"0/linear:{node}" for node in range(nodes)), chains, dtype=torch.float64)
    state = kernel.init(score, streams.start(reference.shape))
    state, found = warm_up(plan, kernel, score, streams, begin(plan, kernel, state, rule(state.gradient)))
    state, trace = draw(kernel, score, state, found, streams, first=settings.warm_up,
                        iterations=40 if settings.kernel == "langevin" else 10, on_step=lambda *_: None)  # fmt: skip
    return reference.image(state.position), found.tilt, trace


def fixed(*tilts):
    return lambda gradient: FixedTilt(torch.tensor(tilts, dtype=torch.float64))


def covariance_of(reference):
    size = reference.dimension
    a = reference.linear(torch.eye(size, dtype=torch.float64).view(size, *reference.shape)).flatten(1).T
    return a @ a.T


def assert_shifted(reference, images, w, tilt):
    """The images are draws of the exact shifted Gaussian, to 5 standard errors in every mean and covariance."""
    covariance, count = covariance_of(reference), len(images)
    mean = reference.image(torch.zeros((1, *reference.shape), dtype=torch.float64)).flatten()
    x, variance = images.flatten(1), covariance.diagonal()
    shift = tilt * covariance @ w.flatten()
    mean_error = (variance / count).sqrt()
    assert (shift.abs() / mean_error).max() > 20  # a shift that the test can see
    assert ((x.mean(0) - mean - shift).abs() / mean_error).max() < 5
    error = ((covariance.square() + variance[:, None] * variance[None, :]) / count).sqrt()
    assert ((torch.cov(x.T) - covariance).abs() / error).max() < 5
    # The directions in which the reference is narrow, too: whitened, the draws are N(A'w b, I).
    white = reference.whiten(images - shift.view(reference.shape)).flatten(1)
    assert (white.mean(0).abs() * math.sqrt(count)).max() < 5
    identity = torch.eye(reference.dimension, dtype=torch.float64)
    assert ((torch.cov(white.T) - identity).abs() / ((1 + identity) / count).sqrt()).max() < 5


@EACH
@pytest.mark.parametrize("kernel", ["rotation", "leapfrog"])
def test_the_chains_have_the_mean_and_covariance_of_the_exact_shifted_gaussian(reference, kernel):
    settings = HmcSettings(kernel=kernel, steps=4, warm_up=30)
    images, _, trace = sampled(reference, settings, fixed(1.3))
    assert not trace.diverged.any()
    assert_shifted(reference, images, ways(reference, 1)[0], 1.3)


def test_so_do_langevin_chains():
    settings = HmcSettings(kernel="langevin", warm_up=80, acceptance=0.75)
    images, _, _ = sampled(REFERENCES["power law"], settings, fixed(1.3))
    assert_shifted(REFERENCES["power law"], images, ways(REFERENCES["power law"], 1)[0], 1.3)


def test_so_do_chains_whose_forces_are_in_bfloat16():
    reference = REFERENCES["power law, colours"]

    def coarse(rows):
        return lambda x: (rows.bfloat16() * x.bfloat16()).flatten(1).sum(1).to(x.dtype)

    settings = HmcSettings(steps=4, warm_up=30)
    images, _, _ = sampled(reference, settings, fixed(1.3), force=coarse)
    assert_shifted(reference, images, ways(reference, 1)[0], 1.3)


def test_nodes_in_one_batch_have_each_their_own_target():
    reference = REFERENCES["white"]
    images, _, _ = sampled(reference, HmcSettings(steps=4, warm_up=30), fixed(0.9, 2.0), nodes=2)
    for node, tilt in enumerate((0.9, 2.0)):
        own = images[node * CHAINS : (node + 1) * CHAINS]
        assert_shifted(reference, own, ways(reference, 2)[node], tilt)


# ---- contrast


@EACH
@pytest.mark.parametrize("contrast", [0.5, 4.0])
def test_the_samples_of_a_linear_score_have_the_contrast_asked_for(reference, contrast):
    settings = HmcSettings(steps=4, warm_up=30)
    images, tilt, _ = sampled(
        reference, settings, lambda gradient: ContrastTilt.begin(contrast, reference, gradient, 2), nodes=2
    )
    mean = reference.image(torch.zeros((1, *reference.shape), dtype=torch.float64))
    for node, w in enumerate(ways(reference, 2)):
        shift = covariance_of(reference) @ w.flatten()
        exact = math.sqrt(contrast * reference.power / shift.square().sum().item())
        own = slice(node * CHAINS, (node + 1) * CHAINS)
        torch.testing.assert_close(tilt[own], torch.full((CHAINS,), exact, dtype=torch.float64), rtol=1e-4, atol=0)
        measured = (images[own].mean(0) - mean).square().sum().item() / reference.power
        assert measured == pytest.approx(contrast, rel=0.12)


@EACH
def test_the_signal_is_the_contrast_at_a_tilt_of_one(reference):
    (w,) = ways(reference, 1)
    z = torch.zeros((1, *reference.shape), dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad((w * reference.image(z)).sum(), z)
    shift = covariance_of(reference) @ w.flatten()
    expected = shift.square().sum().item() / reference.power
    assert signal(gradient, reference).item() == pytest.approx(expected, rel=1e-6)


def gradients(*sizes, shape=(1, 2, 2)):
    """Rows whose signal under white noise of deviation 1 is the size."""
    return torch.tensor(sizes, dtype=torch.float64).sqrt()[:, None, None, None].expand(-1, *shape).clone()


WHITE = WhiteNoise((1, 2, 2), 1.0)


def test_the_tilt_begins_with_the_mean_signal_of_each_node():
    rule = ContrastTilt.begin(9.0, WHITE, gradients(1, 3, 16, 20), 2)
    torch.testing.assert_close(rule.mean_signal, torch.tensor([2.0, 18.0], dtype=torch.float64))
    torch.testing.assert_close(rule.tilt, torch.tensor([4.5, 0.5], dtype=torch.float64).sqrt())


def test_a_signal_that_stays_is_found_from_above_and_from_below():
    rule = ContrastTilt.begin(9.0, WHITE, gradients(400, 0.01), 2)
    for _ in range(75):
        rule = rule.observe(gradients(4, 4))
    torch.testing.assert_close(rule.tilt, torch.full((2,), 1.5, dtype=torch.float64), rtol=0.05, atol=0)
    assert rule.count == 75


def test_the_mean_signal_never_falls_by_more_than_half_in_a_step():
    rule = ContrastTilt.begin(1.0, WHITE, gradients(8, 8), 1)
    for _ in range(10):
        after = rule.observe(gradients(1e-9, 1e-9))
        assert rule.mean_signal.item() > after.mean_signal.item() >= 0.5 * rule.mean_signal.item() * (1 - 1e-12)
        assert after.tilt.isfinite().all()
        rule = after


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e200])
def test_chains_without_a_finite_signal_are_left_out(bad):
    rule = ContrastTilt.begin(9.0, WHITE, gradients(2, 2, 8, 8), 2)
    spoilt = gradients(2, 2, 8, 8)
    spoilt[2] = bad
    seen = rule.observe(spoilt)
    torch.testing.assert_close(seen.mean_signal, torch.tensor([2.0, 8.0], dtype=torch.float64))
    spoilt[:] = bad
    assert torch.equal(rule.observe(spoilt).mean_signal, rule.mean_signal)


def test_chains_where_the_score_is_flat_say_nothing():
    rule = ContrastTilt.begin(9.0, WHITE, gradients(0, 8), 1)
    assert rule.mean_signal.item() == pytest.approx(8)
    for seen in (gradients(8, 0), gradients(0, 0)):
        rule = rule.observe(seen)
        assert rule.mean_signal.item() == pytest.approx(8)


def test_a_node_without_a_gradient_is_not_tilted_until_one_of_its_chains_has_one():
    rule = ContrastTilt.begin(9.0, WHITE, gradients(1, 2, 0, 0, 3, 4), 3)
    assert rule.tilt[1] == 0 and bool((rule.tilt[[0, 2]] > 0).all())
    flat = rule.observe(gradients(1, 2, 0, 0, 3, 4))
    assert flat.tilt[1] == 0
    found = flat
    for _ in range(400):
        found = found.observe(gradients(1, 2, 0, 8, 3, 4))
    assert found.tilt[1].item() == pytest.approx(rule.begin(9.0, WHITE, gradients(0, 8), 1).tilt.item(), rel=1e-3)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_at_the_start_is_refused_in_one_line(bad):
    spoilt = gradients(1, 2, 3, 4)
    spoilt[3] = bad
    with pytest.raises(ScoreError, match=r"node 1 .*not finite") as caught:
        ContrastTilt.begin(9.0, WHITE, spoilt, 2)
    assert "\n" not in str(caught.value)


def test_a_fixed_tilt_learns_nothing():
    rule = FixedTilt(torch.tensor([1.0, 2.5]))
    assert rule.observe(gradients(1, 2)) is rule


def test_settings_need_a_contrast_or_a_tilt():
    assert TiltingSettings().contrast == 4.0
    assert TiltingSettings(contrast=None, tilt=2.0).tilt == 2.0
    with pytest.raises(ValueError, match="a contrast or a tilt"):
        TiltingSettings(contrast=None)

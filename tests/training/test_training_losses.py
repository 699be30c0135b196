import sys
from pathlib import Path

import hypothesis.strategies as st
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import given, settings
from torch import nn
from torch.nn import functional

from raygen.training.losses import (
    calibration,
    discriminative_loss,
    effective_sample_size,
    generative_loss,
    generative_terms,
    global_log_sum,
    importance_weights,
    log_normaliser,
)


def drawn(n, classes, seed, *, unlabelled=False, spread=3.0):
    draw = torch.Generator().manual_seed(seed)
    scores = spread * torch.randn(n, classes, generator=draw, dtype=torch.float64)
    labels = torch.randint(-1 if unlabelled else 0, classes, (n,), generator=draw)
    return scores.requires_grad_(), labels


def generative_by_autograd(scores, labels):
    """The definition, written image by image."""
    labelled = [(i, int(c)) for i, c in enumerate(labels) if c >= 0]
    terms = [torch.logsumexp(scores[:, c], 0) - scores[i, c] for i, c in labelled]
    return torch.stack(terms).sum() / len(terms) if terms else scores.sum() * 0


def discriminative_by_autograd(scores, labels):
    if not (labels >= 0).any():
        return scores.sum() * 0
    return functional.cross_entropy(scores, labels, ignore_index=-1)


LOSSES = [(generative_loss, generative_by_autograd), (discriminative_loss, discriminative_by_autograd)]


@pytest.mark.parametrize("case", LOSSES, ids=["generative", "discriminative"])
@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 12), classes=st.integers(1, 6), seed=st.integers(0, 2**31), unlabelled=st.booleans())
def test_value_and_gradient_are_those_of_the_definition(case, n, classes, seed, unlabelled):
    loss, by_autograd = case
    scores, labels = drawn(n, classes, seed, unlabelled=unlabelled)
    value, expected = loss(scores, labels), by_autograd(scores, labels)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    (gradient,) = torch.autograd.grad(2.5 * value, scores)
    (right,) = torch.autograd.grad(2.5 * expected, scores)
    torch.testing.assert_close(gradient, right, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("loss", [generative_loss, discriminative_loss])
def test_an_empty_batch_has_loss_and_gradient_zero(loss):
    scores = torch.zeros(0, 4, requires_grad=True)
    value = loss(scores, torch.zeros(0, dtype=torch.int64))
    value.backward()
    assert value == 0
    assert scores.grad.shape == (0, 4)


def test_the_generative_loss_does_not_see_a_constant_per_class():
    scores, labels = drawn(20, 5, 0)
    shifted = scores + 1000 * torch.arange(5, dtype=torch.float64)
    torch.testing.assert_close(generative_loss(shifted, labels), generative_loss(scores, labels), rtol=0, atol=1e-10)


def test_scores_far_outside_the_range_of_exp_stay_finite():
    scores = torch.tensor([[2000.0, -3000.0], [1990.0, -3001.0]], requires_grad=True)
    loss = generative_loss(scores, torch.tensor([0, 1]))
    loss.backward()
    expected = 0.5 * (torch.log1p(torch.exp(torch.tensor(-10.0))) + torch.log1p(torch.exp(torch.tensor(1.0))))
    torch.testing.assert_close(loss.detach(), expected)
    assert scores.grad.isfinite().all()


def test_a_class_absent_from_the_batch_has_no_gradient():
    scores, labels = drawn(9, 4, 1)
    generative_loss(scores, labels.clamp(max=2)).backward()
    assert (scores.grad[:, 3] == 0).all()


def test_a_score_that_is_not_a_number_is_not_hidden():
    scores = torch.zeros(3, 2)
    scores[1, 0] = torch.nan
    assert generative_loss(scores, torch.tensor([0, 0, 1])).isnan()


@pytest.mark.parametrize("loss", [generative_loss, discriminative_loss])
@pytest.mark.parametrize("wrong", [4, -2])
def test_a_label_out_of_range_is_refused(loss, wrong):
    with pytest.raises((RuntimeError, IndexError)):
        loss(torch.zeros(2, 4), torch.tensor([0, wrong]))


@pytest.mark.parametrize("loss", [generative_loss, discriminative_loss])
@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_precision_scores_are_computed_in_float32(loss, half):
    scores, labels = drawn(300, 3, 2)
    low = scores.detach().to(half).requires_grad_()
    value = loss(low, labels)
    value.backward()
    assert value.dtype == torch.float32
    assert low.grad.dtype == half
    torch.testing.assert_close(value, loss(low.detach().float(), labels), rtol=0, atol=0)


def test_effective_sample_size_is_n_for_equal_weights_and_one_for_a_lone_image():
    scores = torch.zeros(8, 2)
    scores[3, 1] = 200.0
    weights = importance_weights(scores)
    torch.testing.assert_close(weights.sum(0), torch.ones(2))
    terms = generative_terms(scores, torch.zeros(8, dtype=torch.int64))
    for ess in (effective_sample_size(weights), terms.effective_sample_size):
        torch.testing.assert_close(ess, torch.tensor([8.0, 1.0]))


def test_the_terms_of_the_loss_agree_with_their_definitions():
    scores, labels = drawn(30, 4, 3, unlabelled=True)
    terms = generative_terms(scores, labels)
    torch.testing.assert_close(terms.log_sum, torch.logsumexp(scores.detach(), 0))
    torch.testing.assert_close(terms.effective_sample_size, effective_sample_size(importance_weights(scores.detach())))
    torch.testing.assert_close(global_log_sum(scores), torch.logsumexp(scores.detach(), 0))
    assert not terms.log_sum.requires_grad


def test_calibration_removes_a_constant_per_class_and_adds_the_prior():
    scores, labels = drawn(50, 3, 4)
    constant = torch.tensor([5.0, -2.0, 0.3], dtype=torch.float64)
    plain, moved = scores.detach(), scores.detach() + constant
    a, b = calibration(log_normaliser(plain), labels), calibration(log_normaliser(moved), labels)
    torch.testing.assert_close(plain + a, moved + b)
    torch.testing.assert_close(log_normaliser(torch.zeros(7, 3)), torch.zeros(3))
    prior = calibration(torch.zeros(4), torch.tensor([0, 0, 0, 1, -1]))
    torch.testing.assert_close(prior.exp(), torch.tensor([0.75, 0.25, 0.0, 0.0]))


# --- real process groups -------------------------------------------------------------------------------------------

IMAGES, CLASSES = 23, 5
FAR = 2000.0  # exp of it is out of range, so that the shift by the maxima is seen
SPLITS = {1: [(23,)], 2: [(12, 11), (5, 18), (0, 23), (23, 0)], 3: [(8, 8, 7), (1, 20, 2), (0, 23, 0), (11, 0, 12)]}


def small_network():
    torch.manual_seed(5)
    layers = nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, CLASSES)
    return nn.Sequential(*layers).double()


def whole_batch():
    draw = torch.Generator().manual_seed(6)
    images = torch.randn(IMAGES, 1, 8, 8, generator=draw, dtype=torch.float64)
    return images, torch.randint(-1, CLASSES - 1, (IMAGES,), generator=draw)  # some without label, one class absent


def gradients(loss, module, images, labels):
    module.zero_grad()
    value = loss(module(images), labels)
    value.backward()
    return value.detach(), torch.cat([p.grad.flatten() for p in module.parameters()])


def work(rank, processes, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=processes)
    module, (images, labels) = small_network(), whole_batch()
    found = {}
    for split in SPLITS[processes]:
        mine = slice(sum(split[:rank]), sum(split[: rank + 1]))
        for name, loss in (("generative", generative_loss), ("discriminative", discriminative_loss)):
            value, gradient = gradients(loss, module, images[mine], labels[mine])
            dist.all_reduce(gradient)
            found[split, name] = value, gradient
        scores = module(images[mine]).detach() + FAR
        terms = generative_terms(scores, labels[mine])
        found[split, "terms"] = terms.effective_sample_size, terms.log_sum, global_log_sum(scores)
    torch.save(found, folder / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module", params=sorted(SPLITS), ids=lambda n: f"{n} processes")
def of_processes(request, tmp_path_factory):
    """What each process of a real gloo group found."""
    folder = tmp_path_factory.mktemp("group")
    with pytest.MonkeyPatch.context() as patch:
        if sys.platform == "linux":
            patch.setenv("GLOO_SOCKET_IFNAME", "lo")
        mp.spawn(work, (request.param, Path(folder)), nprocs=request.param)
    return [torch.load(folder / f"{rank}.pt") for rank in range(request.param)]


@pytest.mark.parametrize(
    ("name", "loss"), [("generative", generative_by_autograd), ("discriminative", discriminative_by_autograd)]
)
def test_gradients_summed_over_processes_are_those_of_one_process(of_processes, name, loss):
    value, gradient = gradients(loss, small_network(), *whole_batch())
    for split in SPLITS[len(of_processes)]:
        for found in of_processes:
            assert found[split, name][0] == pytest.approx(value.item(), rel=1e-13)
            assert (found[split, name][1] - gradient).norm() <= 1e-12 * gradient.norm()


def test_effective_sample_size_and_normaliser_are_those_of_the_whole_batch(of_processes):
    scores = small_network()(whole_batch()[0]).detach()
    log_sum = torch.logsumexp(scores, 0) + FAR
    right = effective_sample_size(importance_weights(scores)), log_sum, log_sum
    for split in SPLITS[len(of_processes)]:
        for found in of_processes:
            torch.testing.assert_close(found[split, "terms"], right, rtol=1e-12, atol=1e-12)


def wrong_local(loss, module, shards):
    """Every shard its own normaliser; loss weighted by its share of the batch."""
    return sum(len(x) / IMAGES * gradients(loss, module, x, y)[1] for x, y in shards)


def wrong_gather(loss, module, shards):
    """All scores gathered, but only the shard's own rows carry a gradient, averaged over the processes."""
    found = []
    with torch.no_grad():
        others = [module(x) for x, _ in shards]
    labels = torch.cat([y for _, y in shards])
    for k, (x, _) in enumerate(shards):
        module.zero_grad()
        loss(torch.cat([*others[:k], module(x), *others[k + 1 :]]), labels).backward()
        found.append(torch.cat([p.grad.flatten() for p in module.parameters()]))
    return sum(found) / len(shards)


def wrong_average(loss, module, shards):
    """The right gradient, averaged over processes where it is to be summed."""
    images, labels = (torch.cat(parts) for parts in zip(*shards, strict=True))
    return gradients(loss, module, images, labels)[1] / len(shards)


@pytest.mark.parametrize("wrong", [wrong_local, wrong_gather, wrong_average])
def test_the_known_wrong_ways_are_far_from_the_gradient(wrong):
    # So the tolerance of the tests above would catch each of them.
    images, labels = whole_batch()
    shards = list(zip(images.split(6), labels.split(6), strict=True))
    right = gradients(generative_by_autograd, small_network(), images, labels)[1]
    found = wrong(generative_by_autograd, small_network(), shards)
    assert (found - right).norm() > 0.01 * right.norm()

"""The four objectives, micro-batches, clipping: each against autograd on the whole batch in float64."""

import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from raygen.data import Batch
from raygen.errors import SettingsError
from raygen.training import TrainingSettings, make_scorer, phase_of, sharing, switch_epoch
from raygen.training.losses import generative_terms
from raygen.training.sharing import GradientBuffer
from raygen.training.step import Recipe, training_step

CLASSES = 5


class Mean(nn.Module):
    """Counts how many images pass, and draws random numbers for each of them as dropout does."""

    def __init__(self, dropout=0.0):
        super().__init__()
        torch.manual_seed(1)
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Dropout(dropout), nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, CLASSES)
        )
        self.passed = []

    def forward(self, x):
        self.passed.append((len(x), torch.is_grad_enabled()))
        return self.layers(x)


def a_batch(n=23, unlabelled=4):
    draw = torch.Generator().manual_seed(5)
    images = torch.randint(0, 256, (n, 3, 2, 2), dtype=torch.uint8, generator=draw)
    labels = torch.randint(0, CLASSES, (n,), generator=draw)
    labels[:unlabelled] = -1
    return Batch(images, labels)


def gradient_of(module, batch, **recipe):
    """The gradient that a step follows, by what a plain descent of rate 1 changes."""
    scorer = make_scorer([0.1] * 3, [0.4] * 3, CLASSES, "float32", module)
    optimiser = torch.optim.SGD(module.parameters(), lr=1.0)
    before = [p.detach().clone() for p in module.parameters()]
    module.train()
    recipe = Recipe(**{"weight": 1.0, "scorer": scorer} | recipe)
    found = training_step(module, batch, recipe, gradients=GradientBuffer(module.parameters()), optimiser=optimiser)
    return found, torch.cat([(old - p.detach()).flatten() for old, p in zip(before, module.parameters(), strict=True)])


def by_autograd(module, batch, weight):
    """The loss as DESIGN writes it, differentiated by autograd."""
    scores = module((batch.images.double() / 255 - 0.1) / 0.4)
    known = batch.labels >= 0
    own, n = scores[known], int(known.sum())
    counts = torch.bincount(batch.labels[known], minlength=CLASSES)
    right = own.gather(1, batch.labels[known, None]).sum()
    generative = (counts * torch.logsumexp(scores, 0)).sum() / n - right / n
    discriminative = nn.functional.cross_entropy(own, batch.labels[known])
    loss = weight * generative + (1 - weight) * discriminative
    gradients = torch.autograd.grad(loss, list(module.parameters()))
    return loss.item(), torch.cat([g.flatten() for g in gradients])


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("micro_batch", [None, 1, 7, 23, 100])
def test_every_objective_follows_the_gradient_of_its_loss_in_pieces_or_whole(weight, micro_batch):
    loss, right = by_autograd(Mean().double(), a_batch(), weight)
    found, gradient = gradient_of(Mean().double(), a_batch(), weight=weight, micro_batch=micro_batch)
    assert found.loss.item() == pytest.approx(loss, rel=1e-12)
    assert (gradient - right).norm() <= 1e-12 * right.norm()


def test_a_normaliser_of_each_piece_alone_would_be_another_gradient():
    right = by_autograd(Mean().double(), a_batch(unlabelled=0), 1.0)[1]
    pieces = [
        Batch(x, y) for x, y in zip(a_batch().images.split(8), a_batch(unlabelled=0).labels.split(8), strict=True)
    ]
    wrong = sum(by_autograd(Mean().double(), piece, 1.0)[1] * len(piece.labels) / 23 for piece in pieces)
    assert (wrong - right).norm() > 0.01 * right.norm()


def test_the_pieces_meet_the_same_dropout_in_both_passes_and_no_piece_is_larger_than_asked():
    module = Mean(dropout=0.5).double()
    torch.manual_seed(3)
    gradient_of(module, a_batch(), micro_batch=8)
    assert module.passed == [(8, False), (8, False), (7, False), (8, True), (8, True), (7, True)]

    # Dropout drawn anew would be another function in the second pass: its gradient is that of the masks of the first.
    masked, plain = Mean(dropout=0.5).double(), Mean(dropout=0.5).double()
    torch.manual_seed(3)
    masks = [
        nn.functional.dropout(torch.ones(len(piece), 12, dtype=torch.float64), 0.5)
        for piece in a_batch().images.split(8)
    ]
    torch.manual_seed(3)
    _, gradient = gradient_of(masked, a_batch(), micro_batch=8)
    inputs = ((a_batch().images.double() / 255 - 0.1) / 0.4).flatten(1) * torch.cat(masks)
    loss = generative_terms(plain.layers[2:](inputs), a_batch().labels).loss
    right = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(plain.parameters()))])
    assert (gradient - right).norm() <= 1e-12 * right.norm()


def test_running_statistics_see_each_image_once():
    # Both passes of the pieces go through batch normalisation, which moves its running mean by a tenth at each.
    module = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, CLASSES)).double()
    batch = a_batch(16)
    gradient_of(module, batch, micro_batch=8)
    assert module[0].num_batches_tracked == 2
    means = ((batch.images.double() / 255 - 0.1) / 0.4).split(8)
    first, second = (piece.mean((0, 2, 3)) for piece in means)
    torch.testing.assert_close(module[0].running_mean, 0.09 * first + 0.1 * second)


@given(clip=st.floats(1e-3, 10.0))
@settings(max_examples=20, deadline=None)
def test_a_long_gradient_is_cut_to_the_norm_asked_and_a_short_one_left_alone(clip):
    right = by_autograd(Mean().double(), a_batch(), 1.0)[1]
    _, gradient = gradient_of(Mean().double(), a_batch(), clip_norm=clip)
    torch.testing.assert_close(gradient, right * min(1.0, clip / right.norm().item()), rtol=1e-9, atol=1e-14)


# --- what the weights tell -------------------------------------------------------------------------------------------


def test_importance_weights_and_counts_are_those_of_the_definition():
    scores = torch.randn(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) * 3
    labels = torch.tensor([0] * 12 + [2] * 5 + [-1] * 3)
    terms = generative_terms(scores, labels)
    weights = torch.softmax(scores, 0)
    torch.testing.assert_close(terms.largest_weight, weights.amax(0))
    torch.testing.assert_close(terms.effective_sample_size, 1 / weights.square().sum(0))
    assert terms.counts.tolist() == [12, 0, 5]


# --- when to switch --------------------------------------------------------------------------------------------------


def test_the_switch_comes_at_the_epoch_planned_or_after_the_first_of_low_ess():
    recipe = TrainingSettings(epochs=10, generative_epochs=6, switch_ess=0.2)
    assert switch_epoch(recipe, []) == 6
    assert switch_epoch(recipe, [0.5, 0.3, 0.21]) == 6
    assert switch_epoch(recipe, [0.5, 0.3, 0.19]) == 3
    # Once gone over it does not go back, whatever the discriminative epochs' ESS is.
    assert switch_epoch(recipe, [0.5, 0.3, 0.19, 0.9, 0.1]) == 3
    assert switch_epoch(recipe.model_copy(update={"switch_ess": None}), [0.1] * 4) == 6
    # Low only after the planned switch: nothing to change.
    assert switch_epoch(recipe, [0.5] * 6 + [0.1]) == 6


@pytest.mark.parametrize(
    ("objective", "phases"),
    [
        ("discriminative", {"discriminative"}),
        ("generative", {"generative"}),
        ("blend", {"blend"}),
        ("generative-then-discriminative", {"generative", "discriminative"}),
    ],
)
def test_each_objective_has_its_phases(objective, phases):
    recipe = TrainingSettings(objective=objective, epochs=7, switch_ess=0.5)
    switch = switch_epoch(recipe, [0.1] if objective != "generative-then-discriminative" else [])
    assert {phase_of(epoch, recipe, switch) for epoch in range(7)} == phases


def test_the_paper_s_share_of_generative_epochs_is_the_default():
    assert TrainingSettings(epochs=25).planned_switch == 16
    assert TrainingSettings(epochs=70).planned_switch == 45
    with pytest.raises(SettingsError, match="generative_epochs = 6 is not possible; give at most the 5 of epochs"):
        TrainingSettings.parse({"epochs": 5, "generative_epochs": 6}, where="here")


# --- many processes --------------------------------------------------------------------------------------------------


def worker(rank, processes, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=processes)
    whole, found = a_batch(), []
    # The second process holds one image only, which needs no pieces where the first needs three; the third none.
    mine = (slice(0, 22), slice(22, 23), slice(23, 23))[rank]
    shard = Batch(whole.images[mine], whole.labels[mine])
    for weight in (0.0, 0.3, 1.0):
        for part in (2**20, 1):  # the gradient in one message, and each parameter's in one of its own
            sharing._FIRST_PART = sharing._PART = part
            step, gradient = gradient_of(Mean().double(), shard, weight=weight, micro_batch=8, clip_norm=0.05)
            found.append((weight, step.loss.item(), gradient))
    torch.save(found, Path(folder) / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def test_processes_with_shards_of_any_size_in_pieces_and_messages_make_the_step_of_one(tmp_path, monkeypatch):
    if sys.platform == "linux":
        monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    mp.spawn(worker, (3, tmp_path), nprocs=3)
    for rank in range(3):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for weight, loss, gradient in found:
            right_loss, right = by_autograd(Mean().double(), a_batch(), weight)
            assert loss == pytest.approx(right_loss, rel=1e-12)
            # Clipped as the whole gradient is, and not shard by shard.
            torch.testing.assert_close(gradient, right * min(1.0, 0.05 / right.norm().item()), rtol=1e-9, atol=1e-14)

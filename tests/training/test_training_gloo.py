"""gloo's threads let the others go first, and a group of one sends nothing."""

import os
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from raygen.training.losses import discriminative_loss, generative_loss
from raygen.training.sharing import GradientBuffer, calm_gloo

TASKS = Path("/proc/self/task")


def policies():
    """The policy of each thread of this process, by its name."""
    found = {}
    for task in TASKS.iterdir():
        found.setdefault((task / "comm").read_text().strip(), set()).add(os.sched_getscheduler(int(task.name)))
    return found


def member(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    dist.all_reduce(torch.ones(1))  # the first message starts the threads
    before = policies()
    calmed = calm_gloo()
    numbers = torch.ones(100_000)
    dist.all_reduce(numbers)
    torch.save((before, calmed, policies(), float(numbers.sum())), folder / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.skipif(not hasattr(os, "SCHED_BATCH") or not TASKS.exists(), reason="only Linux has such threads")
def test_threads_that_send_and_receive_give_way_and_still_do_and_no_other_thread_does(tmp_path, monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    mp.spawn(member, (tmp_path,), nprocs=2)
    for rank in range(2):
        before, calmed, after, total = torch.load(tmp_path / f"{rank}.pt", weights_only=False)
        names = {name for name in after if "gloo" in name}
        assert {"gloo_tcp_loop", "pt_gloo_runloop"} <= names
        assert calmed >= len(names)
        assert all(policy == {os.SCHED_OTHER} for policy in before.values())
        assert {name for name, policy in after.items() if os.SCHED_BATCH in policy} == names
        assert total == 200_000


def test_without_a_group_there_is_nothing_to_calm():
    assert calm_gloo() == 0


@pytest.fixture
def alone(tmp_path, monkeypatch):
    if sys.platform == "linux":
        monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_a_group_of_one_sends_nothing_and_finds_the_same(alone, monkeypatch):
    scores = torch.randn(6, 3, requires_grad=True)
    labels = torch.tensor([0, 1, 2, 0, 1, -1])
    sent = []
    monkeypatch.setattr(dist, "all_reduce", lambda *given, **named: sent.append(given))
    network = nn.Linear(3, 3)
    gradients = GradientBuffer(network.parameters())
    gradients.expect()
    loss = generative_loss(network(scores), labels) + discriminative_loss(network(scores), labels)
    loss.backward()
    gradients.sum_over_processes()
    assert sent == []
    log_sum = torch.logsumexp(network(scores), 0)
    own = network(scores)[:5].gather(1, labels[:5, None]).mean()
    right = (torch.tensor([2, 2, 1]) / 5 * log_sum).sum() - own
    right = right + nn.functional.cross_entropy(network(scores)[:5], labels[:5])
    assert loss.item() == pytest.approx(right.item(), rel=1e-5)

import math

import pytest
import torch

from raygen.bench import SamplerBenchSettings, bench_sampler
from raygen.bench.loops import STEPS, Loops, gradient
from raygen.bench.sampler import flops_of_gradient, line, memory, share_of_peak
from raygen.errors import SettingsError
from raygen.networks import NetworkSettings, computes_bfloat16

RANDOM = NetworkSettings(weights="random")


def loops(batch=2):
    return Loops.of(RANDOM, batch, torch.device("cpu"))


def test_every_case_has_two_speeds_and_their_ratio():
    settings = SamplerBenchSettings(batch=3, rounds=1, threads=torch.get_num_threads(), memory=False)
    results = list(bench_sampler(settings))
    assert len({found.case for found in results}) == len(results) == 5
    assert all(found.unit == "chain-gradients/s" and "lenet batch 3" in found.case for found in results)
    assert all(math.isfinite(found.ratio) and min(found.value, found.baseline) > 0 for found in results)


def test_the_sampler_and_the_bare_loop_count_the_gradients_that_they_make():
    made = loops(5)
    calls = []

    def counting(images):
        calls.append(len(images))
        return made.scores(images)

    assert made.gradients(counting)() == sum(calls) == 5 * STEPS
    assert made.sampler(None)() == made.bare(None)() == 5 * STEPS


def test_the_plain_network_has_the_same_gradient_as_the_scores():
    made = loops()
    x = made.images()
    torch.testing.assert_close(gradient(made.plain, x), gradient(made.scores, x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_operations_of_a_gradient_are_those_of_the_layers_forward_and_back(precision):
    # Of the last layer only a row is made, which is not counted.
    forward = 2 * (24 * 24 * 20 * 25 + 8 * 8 * 50 * 20 * 25 + 800 * 500)
    assert flops_of_gradient(loops().scores.with_precision(precision)) == 2 * forward


def test_the_share_of_the_peak_is_between_nothing_and_all():
    found = share_of_peak(loops(), "float32", rounds=1)
    assert found.unit == "GFLOP/s" and 0 < found.ratio < 1


def test_a_line_is_found_again():
    slope, fixed = line([256, 128, 64], [3.5 * chains + 40 for chains in (256, 128, 64)])
    assert slope == pytest.approx(3.5) and fixed == pytest.approx(40)


@pytest.mark.slow
def test_memory_grows_by_little_more_a_chain_than_the_plain_networks_and_by_less_in_bfloat16():
    results = {found.unit: found for found in memory(RANDOM, 1024, 1, "cpu")}
    # Its images alone are 784 float32 numbers a chain; the plain network keeps some 20 times that, and in float32 the
    # chains' positions, momenta and gradients come on top.
    most = 1.0 if computes_bfloat16(torch.device("cpu")) else 1.4
    assert 0.003 < results["MB/chain"].value < most * results["MB/chain"].baseline


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(SettingsError, match="device cuda: there is no CUDA device; give --device cpu"):
        next(bench_sampler(SamplerBenchSettings(device="cuda")))

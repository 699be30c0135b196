"""What a user may decide about sampling: flat names, checked together, and read without torch."""

import subprocess
import sys

import pytest

from raygen.sampling import SamplingSettings


def test_a_chain_costs_its_trajectories_times_their_steps():
    assert SamplingSettings(steps=3, warm_up=5, draws=2, thin=2).gradients == 27
    assert SamplingSettings(kernel="langevin", steps=8, warm_up=10, draws=3, thin=4).gradients == 22
    assert SamplingSettings(steps=3, warm_up=5, draws=2, thin=2, budget=40).gradients == 135


@pytest.mark.parametrize("module", ["sampling", "hmc", "tilting"])
def test_settings_are_read_without_torch_arrow_or_ray(module):
    program = f"import raygen.{module}.settings, sys; print({{'torch', 'pyarrow', 'ray', 'numpy'}} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"

"""Targets whose answers are known, as the kernels see them: rows (N, D) in whitened coordinates."""

import torch

from raygen.hmc import Parameters, Streams


class Target:
    """A score by its value and gradient in closed form, and perhaps another field as its forces; counts the calls."""

    def __init__(self, value, gradient, force=None, rows=None):
        self._value, self._gradient, self._force, self._rows = value, gradient, force, rows
        self.cheap_forces = force is not None
        self.values = self.gradients = self.both = 0

    def value(self, z):
        self.values += 1
        return self._value(z)

    def gradient(self, z):
        self.gradients += 1
        return (self._force or self._gradient)(z)

    def value_and_gradient(self, z):
        self.both += 1
        return self._value(z), (self._force or self._gradient)(z)

    def rows(self, chosen):
        """Of rows that are all alike: itself, so that it goes on counting."""
        return self if self._rows is None else self._rows(chosen)


def linear(slope, force=None):
    """f = a.z: the target of tilt b is N(b a, I)."""
    return Target(lambda z: z @ slope, lambda z: slope.expand_as(z).clone(), force)


def quadratic(matrix, force=None):
    """f = -z'Qz / 2: the target of tilt b is N(0, (I + b Q)^-1)."""
    return Target(lambda z: -0.5 * ((z @ matrix) * z).sum(1), lambda z: -(z @ matrix), force)


def ridges(dimension, force=None):
    """f = sum_k a_k log cosh(w_k.z): smooth, neither linear nor quadratic."""
    generator = torch.Generator().manual_seed(5)
    ways = torch.randn((dimension, 4), generator=generator, dtype=torch.float64)
    height = torch.tensor([1.5, -1.0, 0.7, -0.4], dtype=torch.float64)
    return Target(
        lambda z: (z @ ways).cosh().log() @ height,
        lambda z: ((z @ ways).tanh() * height) @ ways.T,
        force,
    )


def parameters(count, step_size, tilt, dtype=torch.float64):
    return Parameters(torch.full((count,), step_size, dtype=dtype), torch.full((count,), tilt, dtype=dtype))


def streams(chains, *keys, dtype=torch.float64):
    return Streams(keys or ("known answers",), chains, dtype=dtype)


def assert_normal_moments(draws, mean, covariance, errors=5.0):
    """Independent draws (N, D) have this mean and covariance, to ``errors`` standard errors of a normal sample."""
    count = len(draws)
    variance = covariance.diagonal()
    centred = draws - draws.mean(0)
    found = centred.T @ centred / (count - 1)
    mean_error = (variance / count).sqrt()
    covariance_error = ((covariance.square() + variance[:, None] * variance[None, :]) / count).sqrt()
    assert ((draws.mean(0) - mean).abs() / mean_error).max() < errors
    assert ((found - covariance).abs() / covariance_error).max() < errors

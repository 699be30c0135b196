"""Hamiltonian Monte Carlo for exponentially tilted Gaussians: many chains at once, in whitened coordinates."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

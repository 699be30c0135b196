"""raygen draws image samples from any node of any convolutional network, and pretrains such networks generatively.

It implements "Generative Modeling of Convolutional Neural Networks" (Dai, Lu, Wu; ICLR 2015). See README.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raygen.objects import Samples, look, nodes, open, sample, score

__version__: str
__all__ = ["Samples", "__version__", "look", "nodes", "open", "sample", "score"]


def __getattr__(name: str) -> Any:
    """Return what is asked for: modules that take a while to import are imported then."""
    if name == "__version__":
        from importlib.metadata import version  # noqa: PLC0415

        return version("raygen")
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from raygen import objects  # noqa: PLC0415

    return getattr(objects, name)


def __dir__() -> list[str]:
    return __all__

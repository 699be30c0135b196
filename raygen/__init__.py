"""raygen draws image samples from any node of any convolutional network, and pretrains such networks generatively.

It implements "Generative Modeling of Convolutional Neural Networks" (Dai, Lu, Wu; ICLR 2015). See README.md.
"""

__version__: str


def __getattr__(name: str) -> str:
    """Return ``__version__``, which is read when it is asked for: the module that reads it takes a while to import."""
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import version  # noqa: PLC0415

    return version("raygen")

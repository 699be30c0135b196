"""Pages and pictures made from a run and nothing else: a static site that opens from disk."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

"""A run on storage: what was asked, its plan, its samples. Local paths and URIs alike."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

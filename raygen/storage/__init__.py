"""Files on disk or in a bucket: read, written whole, listed, and tried again where storage fails for a moment."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

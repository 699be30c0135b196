"""Data sets of labelled images: small ones in memory, folders and Parquet files of any size streamed."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

"""Files on disk or in a bucket: read, written whole, listed, and tried again where storage fails for a moment."""

from raygen.storage.location import Location, below

__all__ = ["Location", "below"]

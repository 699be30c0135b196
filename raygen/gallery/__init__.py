"""Pages and pictures made from a run and nothing else: a static site that opens from disk."""

from raygen.gallery.build import GallerySummary, build_gallery

__all__ = ["GallerySummary", "build_gallery"]

from .build import GallerySummary as GallerySummary
from .build import build_gallery as build_gallery
from .inline import fragment as fragment

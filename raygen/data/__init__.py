"""Data sets of labelled images, small enough for memory."""

from raygen.data.digits import digits
from raygen.data.folder import MEMORY_LIMIT, folder_set
from raygen.data.images import ImageSet, hash_images, stratified_split
from raygen.data.loading import DATA_SETS, DataSettings, load_data
from raygen.data.vision import VISION_SETS, vision_set

__all__ = [
    "DATA_SETS",
    "MEMORY_LIMIT",
    "VISION_SETS",
    "DataSettings",
    "ImageSet",
    "digits",
    "folder_set",
    "hash_images",
    "load_data",
    "stratified_split",
    "vision_set",
]

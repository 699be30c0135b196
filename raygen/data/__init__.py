"""Data sets of labelled images: small ones in memory, folders and Parquet files of any size streamed."""

from raygen.data.augment import Augment
from raygen.data.digits import digits
from raygen.data.folder import folder_set, list_folder
from raygen.data.images import ImageSet, hash_images, stratified_split
from raygen.data.listing import Listing
from raygen.data.loading import DATA_SETS, DataSettings, load_data, open_data
from raygen.data.parquet import list_parquet
from raygen.data.source import Batch, ImageSource, Share
from raygen.data.stream import MEMORY_LIMIT, PictureStream, ThreadReader
from raygen.data.vision import VISION_SETS, vision_set

__all__ = [
    "DATA_SETS",
    "MEMORY_LIMIT",
    "VISION_SETS",
    "Augment",
    "Batch",
    "DataSettings",
    "ImageSet",
    "ImageSource",
    "Listing",
    "PictureStream",
    "Share",
    "ThreadReader",
    "digits",
    "folder_set",
    "hash_images",
    "list_folder",
    "list_parquet",
    "load_data",
    "open_data",
    "stratified_split",
    "vision_set",
]

"""Pictures that are read, decoded and changed while training goes on."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol, Self, TypeVar

import torch
from torch import Tensor

from raygen.data.augment import Preparation
from raygen.data.decoding import MODES, Corrupt, Picture
from raygen.data.images import ImageSet
from raygen.data.listing import Listing
from raygen.data.order import Plan, batch_sizes
from raygen.data.settings import MEMORY_LIMIT, Augment
from raygen.data.source import Batch, Share
from raygen.errors import DataError

_AT_ONCE = 256
"""Pictures of a batch while a listing is read into memory."""

_NAMED = 3
"""Pictures that an error names."""

_In = TypeVar("_In")
_Out = TypeVar("_Out")


class Reader(Protocol):
    """Reads and prepares pictures, wherever that is done."""

    def __call__(self, listing: Listing, plan: Plan, preparation: Preparation) -> Generator[Picture, None, None]:
        """Give the pictures of ``plan.order``, in this order, holding no more than a few batches."""


@dataclass(frozen=True)
class ThreadReader:
    """Reads and decodes in threads of this process, a batch ahead.

    Attributes:
        threads: that decode; as many read.
    """

    threads: int = 2

    def __call__(self, listing: Listing, plan: Plan, preparation: Preparation) -> Generator[Picture, None, None]:
        """Give the pictures of a plan; see ``Reader``."""
        ahead = max(max(plan.sizes, default=0), 4 * self.threads)
        # Pieces of many pictures are large: of these the next one is read, and no more.
        pieces_ahead = ahead if len(plan.ends) == len(plan.order) else 1
        with _Pool(self.threads) as readers, _Pool(self.threads) as decoders:
            pieces = zip(plan.pieces(), readers.ordered(listing.read, plan.pieces(), pieces_ahead), strict=True)
            raw = ((int(index), data) for piece, read in pieces for index, data in zip(piece, read, strict=True))
            yield from decoders.ordered(lambda item: preparation.picture(*item), raw, ahead)


class PictureStream:
    """A listing as a source of batches; see ``ImageSource``.

    Memory holds the reader's look-ahead, the batch that is made and the one that is used.

    Args:
        listing: what to read.
        shape: (C, H, W) of the images, C being 1 or 3.
        augment: how they are changed in an epoch; not where each is looked at once.
        corrupt_limit: this many pictures may be corrupt in a pass of this process: read, and not to be decoded.
        reader: of the pictures.

    Raises:
        DataError: if pictures cannot have so many channels, or there are none.
    """

    def __init__(
        self,
        listing: Listing,
        shape: tuple[int, int, int],
        *,
        augment: Augment = "none",
        corrupt_limit: int = 0,
        reader: Reader | None = None,
    ) -> None:
        if shape[0] not in MODES:
            raise DataError(f"pictures cannot have {shape[0]} channels", where=f"data {listing.name}",
                            right="take 1 or 3")  # fmt: skip
        self.listing, self.shape, self.augment, self.corrupt_limit = listing, shape, augment, corrupt_limit
        self.reader: Reader = reader if reader is not None else ThreadReader()
        self.name, self.class_names, self.labels = listing.name, listing.class_names, listing.labels
        self._pinned = False
        self._skipped: list[str] = []

    def __len__(self) -> int:
        return len(self.listing.labels)

    @property
    def skipped(self) -> tuple[str, ...]:
        """The pictures that were corrupt in the last pass."""
        return tuple(self._skipped)

    def read_by(self, reader: Reader) -> PictureStream:
        """Return the same stream, read by another reader."""
        return PictureStream(
            self.listing, self.shape, augment=self.augment, corrupt_limit=self.corrupt_limit, reader=reader
        )

    def to(self, device: torch.device) -> PictureStream:
        """Return the stream with its labels on a device, and its batches where they get there fastest."""
        moved = self.read_by(self.reader)
        moved.labels = self.labels.to(device)
        moved._pinned = device.type == "cuda"
        return moved

    def steps(self, batch_size: int, processes: int) -> int:
        """Return how many global batches an epoch has."""
        return len(batch_sizes(len(self), batch_size))

    def epoch(self, seed: int, number: int, batch_size: int, share: Share) -> Iterator[Batch]:
        """Give this process's shard of every global batch of an epoch; see ``ImageSource``.

        Raises:
            DataError: more pictures than ``corrupt_limit`` are corrupt.
            StoreError: storage does not give a picture.
        """
        plan = self.listing.epoch(seed, number, batch_size, share)
        return self._pass(plan, Preparation(self.shape, self.augment, seed, number))

    def once(self, batch_size: int, share: Share) -> Iterator[Batch]:
        """Give this process's share of the images, each once; see ``ImageSource``.

        Raises:
            DataError: more pictures than ``corrupt_limit`` are corrupt.
            StoreError: storage does not give a picture.
        """
        return self._pass(self.listing.once(batch_size, share), Preparation(self.shape))

    def _pass(self, plan: Plan, preparation: Preparation) -> Iterator[Batch]:
        self._skipped = []
        start = 0
        with closing(self.reader(self.listing, plan, preparation)) as pictures:
            for size in plan.sizes:
                indices = plan.order[start : start + size].tolist()
                start += size
                yield self._batch(indices, pictures)

    def _batch(self, indices: list[int], pictures: Iterator[Picture]) -> Batch:
        images = torch.empty((len(indices), *self.shape), dtype=torch.uint8, pin_memory=self._pinned)
        rows = images.numpy()
        kept: list[int] = []
        for index in indices:
            picture = next(pictures)
            if isinstance(picture, Corrupt):
                self._skip(index, picture)
            else:
                rows[len(kept)] = picture
                kept.append(index)
        labels = self.listing.labels[torch.tensor(kept, dtype=torch.int64)]
        return Batch(images[: len(kept)], labels.pin_memory() if self._pinned else labels)

    def _skip(self, index: int, picture: Corrupt) -> None:
        title = self.listing.title(index)
        self._skipped.append(title)
        if len(self._skipped) > self.corrupt_limit:
            raise _too_many(self._skipped, picture, self.corrupt_limit)
        logging.getLogger(__name__).warning("%s: cannot be read (%s); skipped", title, picture.reason)


def in_memory(*streams: PictureStream) -> tuple[ImageSet, ...]:
    """Read streams into memory; corrupt pictures are not in the sets.

    Raises:
        DataError: too many bytes, or too many corrupt pictures.
        StoreError: storage does not give a picture.
    """
    size = sum(map(bytes_of, streams))
    if size > MEMORY_LIMIT:
        n, shape = sum(map(len, streams)), "x".join(map(str, streams[0].shape))
        what = f"{n} pictures of {shape} are {size:,} bytes, above {MEMORY_LIMIT:,}"
        raise DataError(what, where=f"data {streams[0].name}", right="give a limit, or a network of smaller images")
    return tuple(_loaded(stream) for stream in streams)


def bytes_of(stream: PictureStream) -> int:
    """Return how many bytes a stream's pixels are in all."""
    return len(stream) * stream.shape[0] * stream.shape[1] * stream.shape[2]


def _loaded(stream: PictureStream) -> ImageSet:
    images = torch.empty((len(stream), *stream.shape), dtype=torch.uint8)
    labels: list[Tensor] = []
    end = 0
    for batch in stream.once(_AT_ONCE, Share()):
        images[end : end + len(batch.labels)] = batch.images
        labels.append(batch.labels)
        end += len(batch.labels)
    return ImageSet(stream.name, images[:end], torch.cat(labels), stream.class_names)


def _too_many(skipped: list[str], last: Corrupt, limit: int) -> DataError:
    if limit == 0:
        return DataError(f"cannot be read ({last.reason})", where=skipped[0], right="replace or remove the picture")
    named = ", ".join(skipped[-_NAMED:])
    what = f"{len(skipped)} pictures cannot be read, above the limit of {limit}; the last are {named} ({last.reason})"
    return DataError(what, where="corrupt_limit", right="replace or remove them, or raise the limit")


class _Pool:
    """Threads that do one thing to many items, giving the results in order."""

    def __init__(self, threads: int) -> None:
        self._threads = ThreadPoolExecutor(threads)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(cancel_futures=True)

    def ordered(self, function: Callable[[_In], _Out], items: Iterable[_In], ahead: int) -> Iterator[_Out]:
        """Give ``function`` of each item, in order, at work on no more than ``ahead`` items after the one given."""
        waiting: deque[Future[_Out]] = deque()
        for item in items:
            waiting.append(self._threads.submit(function, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

"""Folders and Parquet files of pictures, each of a colour of its own, so that it is known again."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image


def colour(number: int) -> tuple[int, int, int]:
    """The colour of a picture, by which ``number_of`` knows it."""
    return number // 256, number % 256, 7


def number_of(image: np.ndarray) -> int:
    """The number of the picture that an image (3, H, W) shows."""
    high, low, seven = (int(value) for value in image[:, image.shape[1] // 2, image.shape[2] // 2])
    assert seven == 7
    return high * 256 + low


def png(number: int, size: tuple[int, int] = (5, 4)) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, colour(number)).save(stream, "PNG")
    return stream.getvalue()


class Pictures:
    """Writes data sets of pictures below a folder."""

    number_of = staticmethod(number_of)
    png = staticmethod(png)

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, folder: str, counts: dict[str, int], first: int = 0) -> list[int]:
        """Write pictures of classes in sub-folders, numbered on from ``first``; return their labels."""
        labels: list[int] = []
        for label, (name, count) in enumerate(sorted(counts.items())):
            into = self.root / folder / name
            into.mkdir(parents=True, exist_ok=True)
            for _ in range(count):
                (into / f"{first + len(labels):05d}.png").write_bytes(png(first + len(labels)))
                labels.append(label)
        return labels

    def parquet(
        self,
        name: str,
        labels: list[object],
        *,
        first: int = 0,
        rows: int = 4,
        names: tuple[str, ...] | None = ("cat", "dog", "emu"),
        image: str = "image",
        label: str = "label",
        files: dict[int, bytes | None] | None = None,
    ) -> Path:
        """Write a Parquet file as the Hugging Face hub has them, ``rows`` in a row group; return its path.

        ``files`` replaces the bytes in some rows.
        """
        data = [{"bytes": (files or {}).get(row, png(first + row)), "path": f"{row}.png"} for row in range(len(labels))]
        table = pa.table({image: pa.array(data, IMAGE), label: pa.array(labels)})
        if names is not None:
            features = {image: {"_type": "Image"}, label: {"names": list(names), "_type": "ClassLabel"}}
            table = table.replace_schema_metadata({b"huggingface": json.dumps({"info": {"features": features}})})
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path, row_group_size=rows)
        return path


IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@pytest.fixture
def pictures(tmp_path: Path) -> Pictures:
    return Pictures(tmp_path)


@pytest.fixture
def pictures_at() -> Callable[[Path], Pictures]:
    return Pictures

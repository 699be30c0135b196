"""Seals on safetensors files: in the header, a digest of the tensors' bytes and one of the header itself.

The format has no checksums. Files of others bear no seal, and pass.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, BinaryIO

from raygen.documents import parse_json

_DATA = "raygen.data"
_SEAL = "raygen.seal"
_METADATA = "__metadata__"
_LARGEST_HEADER = 100_000_000
"""Bytes; safetensors itself takes no more."""

_BLOCK = 1 << 20


def seal_tensors(data: bytes) -> bytes:
    """Return a safetensors file with a seal in its header, whose metadata is sorted."""
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    metadata = dict(header.pop(_METADATA, {})) | {_DATA: hashlib.sha256(memoryview(data)[start:]).hexdigest()}
    # safetensors leaves the metadata's order to chance.
    header = {_METADATA: dict(sorted(metadata.items())), **header}
    header[_METADATA][_SEAL] = _digest(header)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the tensors are aligned to 8 bytes
    return len(text).to_bytes(8, "little") + text + data[start:]


def check_sealed(stream: BinaryIO, *, whole: bool = True) -> None:
    """Check a safetensors file that may bear a seal; one that is damaged so that it is none passes.

    Args:
        stream: the file, from its beginning.
        whole: whether to read the tensors, too; else only the header is checked.

    Raises:
        ValueError: if it holds something else than was sealed.
    """
    length = int.from_bytes(stream.read(8), "little")
    if length > _LARGEST_HEADER:
        return
    try:
        header = parse_json(stream.read(length))
    except ValueError:
        return
    metadata = header.get(_METADATA) if isinstance(header, dict) else None
    if not isinstance(metadata, dict) or _SEAL not in metadata:
        return
    seal = metadata.pop(_SEAL)
    if seal != _digest(header) or (whole and metadata.get(_DATA) != _digest_rest(stream)):
        raise ValueError("it holds other values than were written")


def _digest(header: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(header, sort_keys=True).encode()).hexdigest()


def _digest_rest(stream: BinaryIO) -> str:
    digest = hashlib.sha256()
    while block := stream.read(_BLOCK):
        digest.update(block)
    return digest.hexdigest()

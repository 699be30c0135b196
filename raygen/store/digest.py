"""A digest of a table's values, whatever pieces they lie in: the seal of samples and of the plan."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def digest_values(table: pa.Table) -> str:
    """Return a digest (hex) of the names, types and values of a table's columns, and of their order.

    Floats count by their bits. What decides nothing does not count: chunks, metadata, what lies under a null.

    Raises:
        pa.ArrowException: if the values cannot be walked through, as those of a damaged file.
    """
    streams: dict[str, Any] = {}
    for batch in table.to_batches():
        for number, column in enumerate(batch.columns):
            _feed(streams, str(number), column)
    whole = hashlib.sha256()
    heads = [(field.name, str(field.type)) for field in table.schema]
    parts = [(path, stream.hexdigest()) for path, stream in streams.items()]
    whole.update(repr((table.num_rows, heads, sorted(parts))).encode())
    return whole.hexdigest()


def _feed(streams: dict[str, Any], path: str, array: pa.Array) -> None:
    """Add an array to the streams of its column: which values are there, how long they are, and their bytes."""
    if not len(array):
        return
    valid = array.is_valid().to_numpy(zero_copy_only=False)
    _add(streams, f"{path}?", np.ascontiguousarray(valid, dtype=np.uint8))
    if pa.types.is_struct(array.type):
        for number, child in enumerate(array.flatten()):
            _feed(streams, f"{path}.{number}", child)
        return
    values = array if array.null_count == 0 else array.drop_null()
    if not len(values):
        return
    if pa.types.is_list(values.type):
        _add(streams, f"{path}#", pc.list_value_length(values).to_numpy())
        _feed(streams, f"{path}.0", values.flatten())
    elif pa.types.is_string(values.type) or pa.types.is_binary(values.type):
        lengths, data = pc.binary_length(values).to_numpy(), values.buffers()[2]
        _add(streams, f"{path}#", lengths)
        if data is not None:
            begin = int(np.frombuffer(values.buffers()[1], np.int32, 1, 4 * values.offset)[0])
            _add(streams, path, memoryview(data)[begin : begin + int(lengths.sum(dtype=np.int64))])
    elif pa.types.is_primitive(values.type) or pa.types.is_boolean(values.type):
        _add(streams, path, np.ascontiguousarray(values.to_numpy(zero_copy_only=False)))
    else:
        _add(streams, path, repr(values.to_pylist()).encode())


def _add(streams: dict[str, Any], path: str, data: Any) -> None:
    if path not in streams:
        streams[path] = hashlib.sha256()
    streams[path].update(data)

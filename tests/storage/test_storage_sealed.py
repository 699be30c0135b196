"""A seal on a safetensors file: a bit that changes is found, and files of others pass."""

import io
import json
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.numpy import load, save

from raygen.storage import check_sealed, seal_tensors

ARRAYS = {"b.weight": np.arange(12, dtype=np.float32).reshape(3, 4), "a": np.array(7, dtype=np.int64)}
PLAIN = save(ARRAYS, {"format": "pt", "raygen": json.dumps({"mean": [0.5], "network": "lenet"})})
SEALED = seal_tensors(PLAIN)


def header_of(data):
    return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])


def read(data):
    check_sealed(io.BytesIO(data))
    metadata = {key: value for key, value in header_of(data)["__metadata__"].items() if key in ("format", "raygen")}
    return metadata, {name: (str(array.dtype), array.tolist()) for name, array in load(data).items()}


def test_a_sealed_file_is_read_by_any_reader_and_its_tensors_stay_aligned():
    assert read(SEALED) == read(PLAIN)
    assert int.from_bytes(SEALED[:8], "little") % 8 == 0
    assert seal_tensors(PLAIN) == SEALED
    assert list(header_of(SEALED)) == list(header_of(PLAIN))


@settings(max_examples=1000, deadline=None)
@given(st.integers(0, len(SEALED) * 8 - 1))
def test_a_bit_that_changes_is_found_or_changes_nothing(bit):
    changed = bytearray(SEALED)
    changed[bit // 8] ^= 1 << bit % 8
    try:
        found = read(bytes(changed))
    except (ValueError, SafetensorError, KeyError):
        return
    assert found == read(SEALED)


def test_the_header_alone_can_be_checked_without_the_tensors():
    size = 8 + int.from_bytes(SEALED[:8], "little")
    check_sealed(io.BytesIO(SEALED[:size]), whole=False)
    changed = SEALED[:size].replace(b"lenet", b"lenes")
    with pytest.raises(ValueError, match="holds other values than were written"):
        check_sealed(io.BytesIO(changed), whole=False)


@pytest.mark.parametrize("data", [PLAIN, b"", b"\xff" * 40, (2).to_bytes(8, "little") + b"[]", save(ARRAYS)])
def test_files_of_others_and_what_is_no_such_file_pass(data):
    check_sealed(io.BytesIO(data))


def test_a_header_of_millions_of_values_is_not_made_to_look_for_a_seal():
    header = b'{"a": [' + b"[]," * 2**20 + b"[]]}"
    tracemalloc.start()
    check_sealed(io.BytesIO(len(header).to_bytes(8, "little") + header))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * len(header)

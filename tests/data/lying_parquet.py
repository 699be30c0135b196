"""Parquet files whose footers say something else than is so: Thrift's compact protocol, both ways.

A struct is a dictionary of (kind, value) by the numbers of its fields, a list is its elements' kind and its elements.
"""

import copy

INTEGERS, BINARY, LISTS, STRUCT = (4, 5, 6), 8, (9, 10), 12


def _number(data, at):
    number = shift = 0
    while True:
        number, shift, at = number | (data[at] & 127) << shift, shift + 7, at + 1
        if data[at - 1] < 128:
            return number, at


def _signed(data, at):
    number, at = _number(data, at)
    return (number >> 1) ^ -(number & 1), at


def read(data, at=0, kind=STRUCT):
    """Return a value and where it ends."""
    if kind in (1, 2):
        return kind == 1, at
    if kind in INTEGERS:
        return _signed(data, at)
    if kind == BINARY:
        length, at = _number(data, at)
        return data[at : at + length], at + length
    if kind in LISTS:
        (count, inner), at, values = divmod(data[at], 16), at + 1, []
        if count == 15:
            count, at = _number(data, at)
        for _ in range(count):
            value, at = (data[at] == 1, at + 1) if inner in (1, 2) else read(data, at, inner)
            values.append(value)
        return (inner, values), at
    assert kind == STRUCT, kind
    fields, field = {}, 0
    while data[at]:
        (step, inner), at = divmod(data[at], 16), at + 1
        if step:
            field += step
        else:
            field, at = _signed(data, at)
        value, at = read(data, at, inner)
        fields[field] = (inner, value)
    return fields, at + 1


def _written_number(number):
    number, written = number & (2**64 - 1), bytearray()
    while number > 127:
        written.append(number & 127 | 128)
        number >>= 7
    return bytes([*written, number])


def write(value, kind=STRUCT):
    """Return the bytes of a value."""
    if kind in (1, 2):
        return b""
    if kind in INTEGERS:
        return _written_number((value << 1) ^ (value >> 63))
    if kind == BINARY:
        return _written_number(len(value)) + value
    if kind in LISTS:
        inner, values = value
        parts = [bytes([1 if each else 2]) if inner in (1, 2) else write(each, inner) for each in values]
        return bytes([0xF0 | inner]) + _written_number(len(values)) + b"".join(parts)
    written = b""
    for field, (inner, each) in value.items():
        head = inner if inner > 2 else (1 if each else 2)
        written += bytes([head]) + write(field, INTEGERS[0]) + write(each, inner)
    return written + b"\0"


def footer_of(data):
    """Return what a file's footer says, and where it begins."""
    start = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    return read(data, start)[0], start


def with_footer(data, footer):
    """Return the file with another footer, its fields as they are or as bytes."""
    written = footer if isinstance(footer, bytes) else write(footer)
    return data[: footer_of(data)[1]] + written + len(written).to_bytes(4, "little") + b"PAR1"


def lie(data, path, value):
    """Return the file with another value at a path in its footer: numbers of fields and, in lists, of elements."""
    footer = copy.deepcopy(footer_of(data)[0])
    *outer, last = path
    at = footer
    for step in outer:
        at = at[step][1] if isinstance(at, dict) else at[1][step]
    if isinstance(at, dict):
        at[last] = (at[last][0], value)
    else:
        at[1][last] = value
    return with_footer(data, footer)


def numbers_in(footer, path=()):
    """Give the path of every number in a footer."""
    if isinstance(footer, dict):
        for field, (kind, value) in footer.items():
            if kind in INTEGERS:
                yield (*path, field)
            else:
                yield from numbers_in(value, (*path, field))
    elif isinstance(footer, tuple):
        kind, values = footer
        for index, value in enumerate(values):
            if kind in INTEGERS:
                yield (*path, index)
            else:
                yield from numbers_in(value, (*path, index))

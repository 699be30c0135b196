"""A unit's samples with their own digest beside them, so that damage shows wherever in the file it is.

Parquet's checksums cover its pages, and nothing covers its footer, where one bit decides where a page lies or whether a
value is there.
"""

from __future__ import annotations

import hashlib

import pyarrow as pa

_KEY = b"raygen.digest"


def seal(samples: pa.Table) -> pa.Table:
    """Return ``samples`` with the digest of their values in the schema's metadata, which Parquet keeps."""
    return samples.replace_schema_metadata({**(samples.schema.metadata or {}), _KEY: _digest(samples)})


def without_seal(samples: pa.Table) -> pa.Table:
    """Return ``samples`` for use: changed ones would break the seal."""
    metadata = samples.schema.metadata or {}
    return samples.replace_schema_metadata({key: value for key, value in metadata.items() if key != _KEY} or None)


def is_unbroken(samples: pa.Table) -> bool:
    """Whether ``samples`` are what was sealed; those that were written before there was a seal pass."""
    kept = (samples.schema.metadata or {}).get(_KEY)
    return kept is None or kept == _digest(samples)


def _digest(samples: pa.Table) -> bytes:
    """Return the SHA-256 (hex) of names and values, however they lie in memory."""
    digest = hashlib.sha256()
    flat = samples.flatten()
    for name, column in zip(flat.column_names, flat.columns, strict=True):
        for value in (name, *column.to_pylist()):
            part = value if isinstance(value, bytes) else repr(value).encode()
            digest.update(b"%d:" % len(part))
            digest.update(part)
    return digest.hexdigest().encode()

"""A unit's file of samples: sealed when it is written, read in today's columns whichever raygen wrote it.

The seal is a digest of the values, beside them in the file. Parquet's own checksums cover its pages, and nothing covers
its footer, where one bit decides where a page lies or whether a value is there.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Collection

import pyarrow as pa
import pyarrow.parquet as pq

from raygen.store.digest import digest_values
from raygen.store.schema import SAMPLES, VERSION_KEY

_SEAL = b"raygen.seal"
"""Of a file's metadata."""

_MARK = b"raygen.unit"
"""Of a file's metadata: the mark of its run and unit."""

_OTHERS = "holds samples of another unit or another run"

_OLD_SEAL = b"raygen.digest"
"""Of the metadata of files that raygen 0.1 wrote at first."""

_RENAMED = {
    b"2": {"energy": "potential", "winner": "top_channel", "quiet": "dead", "ess": "ess_bulk", "stopped": "stop_reason"}
}
"""By version of the schema: what its columns are called now."""


def write_samples(samples: pa.Table, mark: str = "") -> bytes:
    """Return the bytes of a unit's file; ``mark`` is that of its run and unit, and none where it is empty."""
    sink = io.BytesIO()
    sealed = seal(samples.cast(SAMPLES))
    if mark:
        sealed = sealed.replace_schema_metadata({**sealed.schema.metadata, _MARK: mark.encode()})
    # PNG bytes do not shrink any further; everything else is small beside them.
    pq.write_table(sealed, sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue()


def read_samples(data: bytes, mark: str = "", *, must: bool = False) -> pa.Table:
    """Return the samples in a unit's file, in today's columns; a column that the file lacks may be missing.

    Whoever reads samples comes through here: the pages' checksums and the seal are always checked.

    Args:
        data: the file's bytes.
        mark: of the run and the unit whose samples they are; any where it is empty.
        must: whether the file must bear the mark, and a seal; else one that bears no mark passes.

    Raises:
        ValueError: if they cannot be read, or are not what was written, or bear another mark; the text begins with a
            verb, as in "cannot be read", and the file's name goes before it.
    """
    try:
        samples = pq.read_table(io.BytesIO(data), page_checksum_verification=True)
        unbroken = is_unbroken(samples)
        if not _is_sealed(samples):
            samples.validate(full=True)  # texts that are none would fail later
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ValueError(f"cannot be read ({' '.join(str(error).split())[:200]})") from None
    if not unbroken:
        raise ValueError("holds other values than were written")
    whole = _complete(_in_todays_columns(without_seal(samples)))
    found = (samples.schema.metadata or {}).get(_MARK)
    if must and (found is None or not _is_sealed(samples)):
        same = whole.schema.equals(SAMPLES)
        raise ValueError("bears no seal" if same else "has other columns than samples have, and no seal")
    if mark and found not in (None, mark.encode()):
        raise ValueError(_OTHERS)
    return whole


def check_nodes(samples: pa.Table, nodes: Collection[str]) -> None:
    """Refuse samples of other nodes than a unit's; those that bear no mark say in no other way whose they are.

    Raises:
        ValueError: as ``read_samples`` does.
    """
    # What has no such column is refused by whoever looks for it.
    if "node" in samples.column_names and not set(samples["node"].unique().to_pylist()) <= set(nodes):
        raise ValueError(_OTHERS)


def seal(samples: pa.Table) -> pa.Table:
    """Return ``samples`` with the digest of their values in the schema's metadata, which Parquet keeps."""
    return samples.replace_schema_metadata({**(samples.schema.metadata or {}), _SEAL: digest_values(samples).encode()})


def without_seal(samples: pa.Table) -> pa.Table:
    """Return ``samples`` for use: changed ones would break the seal."""
    metadata = samples.schema.metadata or {}
    return samples.replace_schema_metadata(
        {key: value for key, value in metadata.items() if key not in (_SEAL, _OLD_SEAL, _MARK)} or None
    )


def is_unbroken(samples: pa.Table) -> bool:
    """Whether ``samples`` are what was sealed; those that were written before there was a seal pass."""
    metadata = samples.schema.metadata or {}
    if _SEAL in metadata:
        return bool(metadata[_SEAL] == digest_values(samples).encode())
    return _OLD_SEAL not in metadata or bool(metadata[_OLD_SEAL] == old_digest(samples))


def old_digest(samples: pa.Table) -> bytes:
    """Return the digest that files bear which were sealed value by value: several times as slow as reading them."""
    digest = hashlib.sha256()
    flat = samples.flatten()
    for name, column in zip(flat.column_names, flat.columns, strict=True):
        for value in (name, *column.to_pylist()):
            part = value if isinstance(value, bytes) else repr(value).encode()
            digest.update(b"%d:" % len(part))
            digest.update(part)
    return digest.hexdigest().encode()


def _is_sealed(samples: pa.Table) -> bool:
    return not {_SEAL, _OLD_SEAL}.isdisjoint(samples.schema.metadata or {})


def _in_todays_columns(samples: pa.Table) -> pa.Table:
    """Return samples of an older version under the names of this one; anything else as it is."""
    metadata = samples.schema.metadata or {}
    names = _RENAMED.get(metadata.get(VERSION_KEY, b""))
    if names is None:
        return samples
    renamed = samples.rename_columns([names.get(name, name) for name in samples.column_names])
    return renamed.replace_schema_metadata({**metadata, **SAMPLES.metadata})


def _complete(samples: pa.Table) -> pa.Table:
    """Return samples with the columns that are newer than they are, as null; anything else as it is."""
    missing = [field for field in SAMPLES if field.name not in samples.column_names]
    if not missing or not all(field.nullable for field in missing):
        return samples
    for field in missing:
        samples = samples.append_column(field, pa.nulls(samples.num_rows, field.type))
    return samples.select(SAMPLES.names)

"""What torch.save wrote passes; what would take too much of memory or time is refused before it is rebuilt."""

import io
import zipfile

import pytest
import torch
from torch import nn

from raygen.storage import check_pickled


def zipped(pickled, *, fill=0, packed=zipfile.ZIP_STORED):
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", packed) as file:
        file.writestr("net/data.pkl", pickled)
        file.writestr("net/data/0", bytes(fill))
    sink.seek(0)
    return sink


def tuples(levels):
    """A pickle of a dictionary whose key is a tuple of two tuples, each of them the same, and so on."""
    return b"\x80\x02})q\x00" + b"h\x00h\x00\x86q\x00" * levels + b"Ns."


@pytest.mark.parametrize("is_zip", [True, False])
def test_what_torch_saves_passes_and_is_left_at_its_beginning(is_zip):
    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    optimizer = torch.optim.AdamW([{"params": [value], "lr": 0.1} for value in net.parameters()])
    net(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    file = io.BytesIO()
    torch.save({"net": net.state_dict(), "optimizer": optimizer.state_dict(), "sizes": [(1, 2)] * 100}, file,
               _use_new_zipfile_serialization=is_zip)  # fmt: skip
    file.seek(0)
    check_pickled(file)
    assert file.tell() == 0
    assert list(torch.load(file, weights_only=True)["net"]) == list(net.state_dict())


def test_a_zip_that_unpacks_to_much_more_than_it_is_is_refused():
    check_pickled(zipped(b"}.", fill=2**24))
    with pytest.raises(ValueError, match=r"it would unpack to 16,777,[\d]+ bytes"):
        check_pickled(zipped(b"}.", fill=2**24, packed=zipfile.ZIP_DEFLATED))


@pytest.mark.parametrize("file", [zipped, io.BytesIO])
def test_a_pickle_of_millions_of_values_is_refused(file):
    check_pickled(file(b"\x80\x02](" + b"]" * 1000 + b"e."))
    with pytest.raises(ValueError, match="takes more than 2,097,152 operations to rebuild"):
        check_pickled(file(b"\x80\x02](" + b"]" * 2**21 + b"e."))


@pytest.mark.parametrize("file", [zipped, io.BytesIO])
def test_tuples_of_tuples_whose_hash_takes_years_are_refused(file):
    check_pickled(file(tuples(10)))
    with pytest.raises(ValueError, match="operations to rebuild"):
        check_pickled(file(tuples(60)))
    # Spread over lists and marks they stay what they are.
    spread = b"\x80\x02})q\x00" + b"](h\x00]h\x00ae0(h\x00Nh\x00tq\x00" * 60 + b"Ns."
    with pytest.raises(ValueError, match="operations to rebuild"):
        check_pickled(file(spread))


def test_the_pickles_of_an_old_file_are_counted_together():
    part = b"\x80\x02](" + b"]" * 2**19 + b"e."
    check_pickled(io.BytesIO(3 * part))
    with pytest.raises(ValueError, match="operations to rebuild"):
        check_pickled(io.BytesIO(5 * part))


@pytest.mark.parametrize("data", [b"PK\x03\x04 and no zip", b"\x80\x02](", b"no pickle", b"\x80\x02h\x05ej."])
def test_what_is_damaged_is_refused(data):
    with pytest.raises((ValueError, zipfile.BadZipFile)):
        check_pickled(io.BytesIO(data))


def test_what_is_not_there_is_left_to_torch():
    check_pickled(io.BytesIO())
    check_pickled(io.BytesIO(b"\x80\x02}."))

"""References as files: the same distribution comes back, with what it was fitted to, or one clear line."""

import json
import os

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from raygen.errors import ScoreError, StoreError
from raygen.tilting import Fitted, FittedSpectrum, PowerLaw, Provenance, WhiteNoise, load_reference, save_reference

IMAGES = torch.rand((9, 3, 4, 5), generator=torch.Generator().manual_seed(0))
REFERENCES = {
    "white": WhiteNoise((1, 4, 5), 0.1),
    "power law": PowerLaw.of((3, 4, 5), 1 / 3, 0.9),
    "fitted": Fitted.of(IMAGES),
    "spectrum": FittedSpectrum.of(IMAGES),
}
EACH = pytest.mark.parametrize("reference", REFERENCES.values(), ids=REFERENCES.keys())
PROVENANCE = Provenance("photographs", "ab" * 32, 9, (3, 8, 10))


@EACH
@pytest.mark.parametrize("provenance", [None, PROVENANCE], ids=["without", "with"])
def test_what_was_saved_comes_back_bit_for_bit(tmp_path, reference, provenance):
    path = tmp_path / "reference.safetensors"
    save_reference(path, reference, provenance)
    loaded, known = load_reference(str(path), reference.shape)
    assert type(loaded) is type(reference) and loaded.shape == reference.shape and known == provenance
    z = torch.randn((2, *reference.shape))
    assert torch.equal(loaded.image(z), reference.image(z))
    assert (loaded.power, loaded.log_volume) == (reference.power, reference.log_volume)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_the_header_tells_the_provenance_to_any_reader_of_safetensors(tmp_path):
    save_reference(tmp_path / "file", REFERENCES["spectrum"], PROVENANCE)
    with safe_open(tmp_path / "file", "pt") as file:
        assert set(file.keys()) == {"mean", "root"}
        assert '"data_set": "photographs"' in file.metadata()["provenance"]
        assert file.metadata()["kind"] == "fitted-spectrum"


def test_a_file_is_replaced_whole(tmp_path):
    save_reference(tmp_path / "file", REFERENCES["fitted"])
    save_reference(tmp_path / "file", REFERENCES["white"])
    assert load_reference(tmp_path / "file")[0] == REFERENCES["white"]


def test_a_reference_of_another_shape_is_refused_with_both(tmp_path):
    save_reference(tmp_path / "file", REFERENCES["spectrum"])
    with pytest.raises(ScoreError, match=r"shape \(3, 4, 5\) for images of shape \(3, 8, 8\)") as caught:
        load_reference(tmp_path / "file", (3, 8, 8))
    assert str(tmp_path / "file") in str(caught.value)


def torn(path):
    path.write_bytes(path.read_bytes()[:-20])


def other_tensors(path):
    save_file({"weight": torch.ones(3)}, path)


def changed(**values):
    def change(path):
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in ("mean", "root")}
            metadata = file.metadata()
        for name, value in values.items():
            if isinstance(value, str):
                metadata[name] = value
            else:
                tensors[name] = value(tensors[name])
        save_file({name: value.contiguous() for name, value in tensors.items() if value is not None}, path, metadata)

    return change


@pytest.mark.parametrize("harm", [
    torn,
    other_tensors,
    lambda path: path.write_text("not safetensors"),
    lambda path: path.write_bytes(b""),
    changed(kind="other"),
    changed(format="raygen-reference-9"),
    changed(values="{"),
    changed(values="{}"),
    changed(values='{"shape": [0, 1, 1]}'),
    changed(values='{"shape": [3, 7, 7]}'),
    changed(values="[3, 7, 7]"),
    changed(values='{"shape": 3}'),
    changed(values='{"shape": ["a", "b", "c"]}'),
    changed(values='{"shape": [1, 1, ' + "9" * 4000 + "]}"),
    changed(values="[" * 100_000),
    changed(provenance="[]"),
    changed(provenance="[1]"),
    changed(provenance="{" * 100_000),
    changed(root=lambda tensor: tensor[:2]),
    changed(root=lambda tensor: tensor * torch.nan),
    changed(mean=lambda tensor: tensor.new_zeros(7, 1, 1)),
    changed(mean=lambda tensor: tensor.to(torch.complex64)),
])  # fmt: skip
def test_a_file_that_holds_no_reference_is_refused_by_name_in_one_line(tmp_path, harm):
    path = tmp_path / "reference"
    save_reference(path, REFERENCES["spectrum"], PROVENANCE)
    harm(path)
    with pytest.raises(StoreError, match="no reference that can be read") as caught:
        load_reference(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", [[3, 10**5, 10**5], [2**26 + 1, 1, 1], [1, 1, 2**80]])
def test_a_header_that_asks_for_images_without_end_is_refused_before_one_is_made(tmp_path, shape):
    # Noise has no tensors: its size is what the header says.
    values = json.dumps({"shape": shape, "sigma": 1.0})
    save_file({}, tmp_path / "file", {"format": "raygen-reference-1", "kind": "white", "values": values})
    with pytest.raises(StoreError, match=r"images are of more than 67,108,864 numbers"):
        load_reference(tmp_path / "file")


def test_a_file_that_is_not_there_is_named_in_one_line(tmp_path):
    with pytest.raises(StoreError, match=r"none: there is no such file; give a file that raygen reference wrote"):
        load_reference(tmp_path / "none")


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(StoreError, match="cannot be written"):
        save_reference(tmp_path / "none" / "file", REFERENCES["white"])


@pytest.mark.parametrize("name", ["fitted", "spectrum"])
def test_a_reference_in_which_a_bit_has_changed_is_refused(tmp_path, name):
    path = tmp_path / "file"
    save_reference(path, REFERENCES[name], PROVENANCE)
    whole = path.read_bytes()
    for at in (len(whole) - 5, whole.index(b"photographs"), whole.index(b"ab" * 9)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(StoreError, match="holds other values than were written"):
            load_reference(path)


def test_a_pipe_is_no_reference(tmp_path):
    os.mkfifo(tmp_path / "file")
    with pytest.raises(StoreError, match="it is no file"):
        load_reference(tmp_path / "file")

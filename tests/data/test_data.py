import errno
import pickle
import struct
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from PIL import Image
from torchvision.datasets import CIFAR10

from raygen.data import DataSettings, ImageSet, Share, digits, load_data, open_data, stratified_split
from raygen.data.small_sets import image_set
from raygen.errors import DataError, SettingsError

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def small_set(n=6):
    images = torch.arange(n, dtype=torch.uint8)[:, None, None, None].expand(n, 1, 2, 3)
    return ImageSet("small", images, torch.arange(n) % 2, ("even", "odd"))


def test_a_subset_keeps_images_and_labels_together():
    part = small_set().subset([5, 0, 2])
    assert part.images[:, 0, 0, 0].tolist() == [5, 0, 2]
    assert part.labels.tolist() == [1, 0, 0]
    assert (len(part), part.shape, part.name, part.class_names) == (3, (1, 2, 3), "small", ("even", "odd"))


def test_a_limit_takes_the_first_images():
    assert small_set().first(2).images[:, 0, 0, 0].tolist() == [0, 1]
    assert len(small_set().first(None)) == len(small_set().first(99)) == 6


@pytest.mark.parametrize("augment", ["none", "flip"])
@pytest.mark.parametrize("processes", [1, 3])
def test_images_come_in_a_new_order_each_epoch_or_as_they_are_stored(augment, processes):
    shuffled, stored = (
        open_data(DataSettings(limit=23, shuffle=shuffle, augment=augment), (1, 28, 28))[0] for shuffle in (True, False)
    )

    def labels(source, epoch):
        shards = [list(source.epoch(0, epoch, 5, Share(rank, processes))) for rank in range(processes)]
        return [[part.labels.tolist() for part in batch] for batch in zip(*shards, strict=True)]

    right = [
        [stored.labels[start : start + 5][rank::processes].tolist() for rank in range(processes)]
        for start in range(0, 23, 5)
    ]
    assert labels(stored, 0) == labels(stored, 1) == right
    assert labels(shuffled, 0) != labels(shuffled, 1)
    seen = [label for batch in labels(shuffled, 0) for part in batch for label in part]
    assert sorted(seen) == sorted(stored.labels.tolist())


def test_pictures_stored_class_by_class_are_not_read_as_they_are_stored(tmp_path):
    with pytest.raises(SettingsError, match=r"shuffle = False, but folder is stored class by class; leave it out"):
        open_data(DataSettings(data="folder", data_root=str(tmp_path), shuffle=False), (1, 28, 28))


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (torch.zeros(2, 1, 2, 2), torch.zeros(2, dtype=torch.int64)),
        (torch.zeros(2, 2, 2, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64)),
        (torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64)),
        (torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 2])),
        (torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, -2])),
    ],
)
def test_images_and_labels_that_do_not_agree_are_refused(images, labels):
    with pytest.raises(ValueError, match=r"images are|labels are"):
        ImageSet("wrong", images, labels, ("a", "b"))


@given(counts=st.lists(st.integers(1, 30), min_size=1, max_size=5), part=st.floats(0, 1), seed=st.integers(0, 2**31))
def test_a_stratified_split_takes_every_image_once_and_the_same_part_of_each_class(counts, part, seed):
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    train, test = stratified_split(labels, test_part=part, seed=seed)
    assert sorted([*train.tolist(), *test.tolist()]) == list(range(sum(counts)))
    for label, count in enumerate(counts):
        assert (labels[test] == label).sum() == min(round(part * count), count - 1)


def test_digits_are_the_same_1797_images_every_time():
    (train, test), again = digits(), digits()
    assert (len(train), len(test)) == (1438, 359)
    assert train.shape == test.shape == (1, 28, 28)
    assert torch.equal(train.images, again[0].images)
    assert torch.equal(test.labels, again[1].labels)
    assert train.labels.bincount().min() >= 139
    assert test.labels.bincount().tolist() == [36, 36, 35, 37, 36, 36, 36, 36, 35, 36]
    assert set(train.labels[:64].tolist()) == set(range(10))


def test_enlarged_digits_hold_the_ink_of_the_8x8_ones_inside_a_margin():
    from sklearn.datasets import load_digits

    train, test = digits()
    images = torch.cat((train.images, test.images)).float()
    # A block of 8x8 is 2.8 pixels wide; clipping what bicubic interpolation overshoots adds a little.
    ink = load_digits().images.mean() * 255 / 16 * (8 * 28 / 10) ** 2
    assert images.sum((1, 2, 3)).mean().item() == pytest.approx(ink, rel=0.05)
    edge = torch.cat((images[..., 0, :], images[..., -1, :], images[..., :, 0], images[..., :, -1]))
    assert edge.max() < 30
    assert images.max() == 255


# --- files -----------------------------------------------------------------------------------------------------------


def write_idx(path, array):
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


def write_mnist(root, name="MNIST"):
    """Files as MNIST has them, with few images; returns the training images."""
    raw = root / name / "raw"
    raw.mkdir(parents=True)
    draw = np.random.default_rng(0)
    for split, n in (("train", 12), ("t10k", 5)):
        pixels = draw.integers(0, 256, (n, 28, 28))
        write_idx(raw / f"{split}-images-idx3-ubyte", pixels)
        write_idx(raw / f"{split}-labels-idx1-ubyte", np.arange(n) % 10)
        if split == "train":
            first = pixels
    return first


@pytest.mark.parametrize(("data", "name"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")])
def test_idx_files_come_back_as_they_were_written(tmp_path, data, name):
    pixels = write_mnist(tmp_path, name)
    train, test = load_data(DataSettings(data=data, data_root=str(tmp_path)), (1, 28, 28))
    assert np.array_equal(train.images.squeeze(1).numpy(), pixels)
    assert train.labels.tolist() == [*range(10), 0, 1]
    assert (len(test), len(test.class_names)) == (5, 10)


def test_a_limit_holds_for_both_splits(tmp_path):
    write_mnist(tmp_path)
    pair = load_data(DataSettings(data="mnist", data_root=str(tmp_path), limit=3), (1, 28, 28))
    assert [len(images) for images in pair] == [3, 3]


def test_colour_images_get_their_channels_first():
    class Loaded:
        data = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)
        targets = (1, 0)
        classes = ("cat", "dog")

    images = image_set("cifar10", Loaded())
    assert images.shape == (3, 4, 5)
    assert images.images[1, 2, 3, 4] == Loaded.data[1, 3, 4, 2]
    assert images.labels.tolist() == [1, 0]


def write_cifar(root, per_file=4):
    """Files as CIFAR-10 has them in its Python version, with few images; returns the training images and labels."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 256, (6, per_file, 3, 32, 32), dtype=np.uint8)
    labels = draw.integers(0, 10, (6, per_file))
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    for name, images, its_labels in zip(names, pixels, labels, strict=True):
        rows = {"data": images.reshape(per_file, 3072), "labels": its_labels.tolist(), "batch_label": name}
        (folder / name).write_bytes(pickle.dumps(rows, protocol=2))
    classes = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    meta = {"label_names": classes, "num_vis": 3072, "num_cases_per_batch": per_file}
    (folder / "batches.meta").write_bytes(pickle.dumps(meta, protocol=2))
    return pixels[:5].reshape(-1, 3, 32, 32), labels[:5].ravel()


@pytest.fixture
def small_cifar(tmp_path, monkeypatch):
    """The folder of ``write_cifar``'s files, and what is in them."""
    # torchvision wants the very files of the data set, by their checksums.
    for parts in ("train_list", "test_list"):
        monkeypatch.setattr(CIFAR10, parts, [(name, None) for name, _ in getattr(CIFAR10, parts)])
    monkeypatch.setattr(CIFAR10, "meta", CIFAR10.meta | {"md5": None})
    return tmp_path, *write_cifar(tmp_path)


def test_cifar_files_come_back_as_they_were_written(small_cifar):
    root, pixels, labels = small_cifar
    train, test = load_data(DataSettings(data="cifar10", data_root=str(root)), (3, 32, 32))
    assert np.array_equal(train.images.numpy(), pixels)
    assert train.labels.tolist() == labels.tolist()
    assert (len(test), train.class_names[3], train.shape) == (4, "cat", (3, 32, 32))


def failing_once(function, number):
    """A function that fails at its first call, as a disk does."""
    calls = []

    def call(*given, **named):
        calls.append(1)
        if len(calls) == 1:
            raise OSError(number, "the disk went away")
        return function(*given, **named)

    return call


def test_digits_are_tried_again_where_the_disk_fails_for_a_moment(monkeypatch):
    import sklearn.datasets

    expected = digits()
    monkeypatch.setattr(sklearn.datasets, "load_digits", failing_once(sklearn.datasets.load_digits, errno.EIO))
    for one, other in zip(expected, digits(), strict=True):
        assert torch.equal(one.images, other.images)


def test_digits_that_cannot_be_read_are_one_line(monkeypatch):
    import sklearn.datasets

    monkeypatch.setattr(sklearn.datasets, "load_digits", failing_once(sklearn.datasets.load_digits, errno.EACCES))
    with pytest.raises(DataError, match=r"^data digits: cannot be read \(.*the disk went away\); "):
        load_data(DataSettings(data="digits"), (1, 28, 28))


def test_cifar_files_are_tried_again_where_the_disk_fails_for_a_moment(small_cifar, monkeypatch):
    root, pixels, _ = small_cifar
    monkeypatch.setattr(CIFAR10, "_load_meta", failing_once(CIFAR10._load_meta, errno.EIO))
    train, _ = load_data(DataSettings(data="cifar10", data_root=str(root)), (3, 32, 32))
    assert np.array_equal(train.images.numpy(), pixels)


@pytest.mark.parametrize("data", ["mnist", "fashion-mnist", "cifar10"])
def test_absent_files_are_named_with_what_is_expected(tmp_path, data):
    with pytest.raises(
        DataError, match=r"is not there or damaged.*is to hold .*MNIST/raw|cifar-10-batches-py"
    ) as caught:
        load_data(DataSettings(data=data, data_root=str(tmp_path)), (1, 28, 28))
    assert str(tmp_path) in caught.value.where


@pytest.mark.parametrize("kept", [0, 3, 15, 100])
def test_a_torn_file_is_one_clear_error(tmp_path, kept):
    write_mnist(tmp_path)
    torn = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    torn.write_bytes(torn.read_bytes()[:kept])
    with pytest.raises(DataError, match="damaged"):
        load_data(DataSettings(data="mnist", data_root=str(tmp_path)), (1, 28, 28))


def test_an_unknown_data_set_is_answered_with_the_closest():
    with pytest.raises(DataError, match="unknown data set 'mnits'; did you mean mnist"):
        load_data(DataSettings(data="mnits"), (1, 28, 28))


def test_images_that_do_not_fit_are_refused_naming_both_shapes():
    with pytest.raises(DataError, match="the images are 1x28x28, the network takes 3x224x224"):
        load_data(DataSettings(), (3, 224, 224))


def test_a_data_set_of_files_needs_its_folder():
    with pytest.raises(DataError, match="data_root: mnist needs a folder"):
        load_data(DataSettings(data="mnist"), (1, 28, 28))


def test_a_limit_below_one_is_refused():
    with pytest.raises(SettingsError, match="limit = 0"):
        DataSettings.parse({"limit": 0}, where="here")


# --- a folder of pictures --------------------------------------------------------------------------------------------


def write_pictures(root, classes, size=(8, 6)):
    for name, (n, colour) in classes.items():
        (root / name).mkdir(parents=True)
        for number in range(n):
            Image.new("RGB", size, colour).save(root / name / f"{number}.png")


RED_AND_BLUE = {"blue": (5, (0, 0, 255)), "red": (10, (255, 0, 0))}


def folder_set(root, shape, **values):
    return load_data(DataSettings(data="folder", data_root=str(root), corrupt_limit=0, **values), shape)


def test_a_folder_of_classes_is_split_class_by_class(tmp_path):
    write_pictures(tmp_path, RED_AND_BLUE)
    train, test = load_data(DataSettings(data="folder", data_root=str(tmp_path)), (3, 4, 4))
    assert train.class_names == ("blue", "red")
    assert train.labels.bincount().tolist() == [4, 8]
    assert test.labels.bincount().tolist() == [1, 2]
    for images in (train, test):
        colours = images.images.amax((2, 3)).tolist()
        assert colours == [[255, 0, 0] if label else [0, 0, 255] for label in images.labels.tolist()]


def test_train_and_test_folders_are_kept_apart(tmp_path):
    write_pictures(tmp_path / "train", RED_AND_BLUE)
    write_pictures(tmp_path / "val", {"blue": (1, (0, 0, 9)), "red": (1, (9, 0, 0))})
    train, test = folder_set(tmp_path, (3, 4, 4))
    assert (len(train), len(test), test.images.max()) == (15, 2, 9)
    assert [len(images) for images in folder_set(tmp_path, (3, 4, 4), limit=3)] == [3, 2]


def test_a_picture_is_scaled_to_cover_and_cut_in_its_middle(tmp_path):
    (tmp_path / "a").mkdir()
    stripes = np.zeros((10, 40, 3), dtype=np.uint8)
    stripes[:, 15:25] = 255  # the middle square
    for number in range(5):
        Image.fromarray(stripes).save(tmp_path / "a" / f"{number}.png")
    train, _ = folder_set(tmp_path, (1, 10, 10))
    assert (train.images == 255).all()
    assert train.shape == (1, 10, 10)


def test_too_many_bytes_are_refused_before_a_picture_is_read(tmp_path, monkeypatch):
    write_pictures(tmp_path, RED_AND_BLUE)
    monkeypatch.setattr("raygen.data.stream.MEMORY_LIMIT", 719)
    with pytest.raises(DataError, match="15 pictures of 3x4x4 are 720 bytes, above 719; give a limit"):
        folder_set(tmp_path, (3, 4, 4))
    monkeypatch.setattr("raygen.data.stream.MEMORY_LIMIT", 720)
    assert len(folder_set(tmp_path, (3, 4, 4))[0]) == 12


def test_what_is_wrong_with_a_folder_is_named(tmp_path):
    with pytest.raises(DataError, match="no pictures"):
        folder_set(tmp_path / "absent", (3, 4, 4))
    with pytest.raises(DataError, match="no pictures"):
        folder_set(tmp_path, (3, 4, 4))
    write_pictures(tmp_path, {"lone": (1, (1, 2, 3))})
    with pytest.raises(DataError, match="no picture is left for testing"):
        folder_set(tmp_path, (3, 4, 4))
    write_pictures(tmp_path, RED_AND_BLUE)
    with pytest.raises(DataError, match="2 channels"):
        folder_set(tmp_path, (2, 4, 4))


def test_an_unreadable_picture_is_named(tmp_path):
    write_pictures(tmp_path, RED_AND_BLUE)
    whole = (tmp_path / "red" / "3.png").read_bytes()
    (tmp_path / "red" / "3.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"3\.png: cannot be read"):
        folder_set(tmp_path, (3, 4, 4))


def test_classes_of_one_split_only_are_refused(tmp_path):
    write_pictures(tmp_path / "train", RED_AND_BLUE)
    write_pictures(tmp_path / "test", {"blue": (1, (0, 0, 9))})
    with pytest.raises(DataError, match="class 'red' is in one split only"):
        folder_set(tmp_path, (3, 4, 4))


@pytest.mark.shared_data
@pytest.mark.skipif(not (SHARED / "mnist").is_dir(), reason="no MNIST beside the checkout")
def test_mnist_has_the_known_counts_and_mean():
    train, test = load_data(DataSettings(data="mnist", data_root=str(SHARED / "mnist")), (1, 28, 28))
    assert train.labels.bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert len(test) == 10_000
    assert train.images.float().mean().item() / 255 == pytest.approx(0.1307, abs=1e-4)

"""Pictures through Ray Data: what a plain stream gives, bit for bit, from CPUs beside those that train."""

import io
from dataclasses import replace
from pathlib import Path

import failing_storage
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray.train
import torch
from failing_storage import Moody, failing_location
from PIL import Image
from ray import cloudpickle
from ray.train.torch import TorchTrainer

from raygen.cluster.train.streaming import RayReader, _least, spare_cpus, through_ray
from raygen.data import DataSettings, PictureStream, Share, digits, open_data
from raygen.errors import DataError, StoreError

pytestmark = [
    # What Ray Data's own settings say of themselves as soon as they are made; and it leaves its log files open.
    pytest.mark.filterwarnings(r"ignore::DeprecationWarning:ray\.data\.context"),
    pytest.mark.filterwarnings("ignore:Exception ignored in.*ray-data:pytest.PytestUnraisableExceptionWarning"),
]

CPUS = 4  # of the wide cluster
SHAPE = (3, 8, 8)


def png(number):
    stream = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (10, 12, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def write_folder(root):
    for number in range(300):
        into = root / ("train" if number < 280 else "test") / "ab"[number % 2]
        into.mkdir(parents=True, exist_ok=True)
        (into / f"{number}.png").write_bytes(png(number))
    for number in (3, 40):
        (root / "train" / "ab"[number % 2] / f"{number}.png").write_bytes(b"no picture")


def write_parquet(root):
    for split, n in (("train", 280), ("test", 20)):
        data = [{"bytes": b"no picture" if number in (3, 40) else png(number)} for number in range(n)]
        table = pa.table({"image": data, "label": [number % 2 for number in range(n)]})
        pq.write_table(table, root / f"{split}-0.parquet", row_group_size=17)


WRITE = {"folder": write_folder, "parquet": write_parquet}


@pytest.fixture(scope="module", params=list(WRITE))
def streams(request, tmp_path_factory):
    root = tmp_path_factory.mktemp(request.param)
    WRITE[request.param](root)
    settings = DataSettings(
        data=request.param, data_root=str(root), stream=True, augment="resized-crop", corrupt_limit=2
    )
    return open_data(settings, SHAPE)


def same(batches, others):
    return len(batches) == len(others) and all(
        torch.equal(one.images, other.images) and torch.equal(one.labels, other.labels)
        for one, other in zip(batches, others, strict=True)
    )


def test_batches_are_those_of_the_plain_stream_bit_for_bit(wide_cluster, streams):
    plain, _ = streams
    through = through_ray(plain, workers=1, held=1)
    for number in (0, 1):
        assert same(list(through.epoch(5, number, 50, Share())), list(plain.epoch(5, number, 50, Share())))
    assert [name.rsplit("/")[-1] for name in through.skipped] == [name.rsplit("/")[-1] for name in plain.skipped]
    assert len(through.skipped) == 2
    assert (through.steps(50, 1), len(through), through.class_names) == (
        6,
        280,
        ("a", "b") if "a" in plain.class_names else ("0", "1"),
    )


def test_two_shares_at_once_give_every_picture_once(wide_cluster, streams):
    plain, _ = streams
    through = [through_ray(plain, workers=2, held=1) for _ in range(2)]
    passes = [source.epoch(5, 0, 50, Share(rank, 2)) for rank, source in enumerate(through)]
    pairs = list(zip(*passes, strict=True))
    wanted = [list(plain.epoch(5, 0, 50, Share(rank, 2))) for rank in range(2)]
    assert all(same([pair[rank] for pair in pairs], wanted[rank]) for rank in range(2))
    assert sum(len(batch.labels) for pair in pairs for batch in pair) == 278
    assert sum(len(source.skipped) for source in through) == 2


def test_testing_images_are_given_unchanged_and_in_order(wide_cluster, streams):
    _, plain = streams
    through = through_ray(plain, workers=2, held=1)
    for rank in range(3):
        assert same(list(through.once(6, Share(rank, 3))), list(plain.once(6, Share(rank, 3))))


def test_more_corrupt_pictures_than_the_limit_are_the_same_error(wide_cluster, streams):
    plain, _ = streams
    strict = PictureStream(plain.listing, SHAPE, corrupt_limit=1, reader=RayReader(1, 1))
    with pytest.raises(DataError, match="2 pictures cannot be read, above the limit of 1"):
        list(strict.epoch(5, 0, 50, Share()))


def test_a_torn_file_is_the_same_error(wide_cluster, tmp_path):
    write_parquet(tmp_path)
    plain, _ = open_data(DataSettings(data="parquet", data_root=str(tmp_path), stream=True), SHAPE)
    torn = tmp_path / "train-0.parquet"
    torn.write_bytes(bytes(torn.stat().st_size))
    with pytest.raises(DataError, match=r"train-0\.parquet: cannot be read"):
        list(through_ray(plain, workers=1, held=1).epoch(5, 0, 50, Share()))


@pytest.fixture
def tasks_know_failing_storage():
    """Tasks of Ray cannot import the modules of these tests."""
    cloudpickle.register_pickle_by_value(failing_storage)
    yield
    cloudpickle.unregister_pickle_by_value(failing_storage)


def on_failing_storage(listing, every):
    where = getattr(listing, "files", listing)
    moved = replace(where, location=failing_location(Moody(every=every), where.location.root))
    return moved if where is listing else replace(listing, files=moved)


def test_a_passing_failure_of_storage_in_a_task_costs_no_picture_and_no_bit(
    wide_cluster, streams, tasks_know_failing_storage
):
    plain, _ = streams
    listing = on_failing_storage(plain.listing, every=5)
    through = PictureStream(listing, SHAPE, augment="resized-crop", corrupt_limit=2, reader=RayReader(1, 1))
    assert same(list(through.epoch(5, 0, 50, Share())), list(plain.epoch(5, 0, 50, Share())))
    assert len(through.skipped) == 2, "the pictures that are corrupt, and no others"


def test_storage_that_fails_a_task_for_good_ends_the_pass_in_one_line(
    wide_cluster, streams, tasks_know_failing_storage
):
    plain, _ = streams
    through = PictureStream(
        on_failing_storage(plain.listing, every=1), SHAPE, corrupt_limit=999, reader=RayReader(1, 1)
    )
    with pytest.raises(StoreError, match=r"^moody://pictures: train\S+ cannot be read .*the storage went away.*; see"):
        list(through.epoch(5, 0, 50, Share()))
    assert through.skipped == ()


def test_a_pass_may_be_left_and_another_begun(wide_cluster, streams):
    plain, _ = streams
    through = through_ray(plain, workers=1, held=1)
    for _ in range(2):
        batches = through.epoch(5, 0, 50, Share())
        next(batches)
        batches.close()
    assert same(list(through.epoch(5, 0, 50, Share())), list(plain.epoch(5, 0, 50, Share())))


@pytest.mark.slow
def test_it_runs_inside_training_workers_beside_the_cpus_that_they_hold(wide_cluster, streams, tmp_path):
    plain, _ = streams
    found = tmp_path / "found"
    found.mkdir()

    def work(config):
        context = ray.train.get_context()
        share = Share(context.get_world_rank(), context.get_world_size())
        source = through_ray(config["plain"], workers=share.processes, held=1)
        batches = [*source.epoch(5, 0, 50, share), *source.once(50, share)]
        torch.save([(batch.images, batch.labels) for batch in batches], Path(config["found"]) / f"{share.rank}.pt")

    trainer = TorchTrainer(
        work,
        train_loop_config={"plain": plain, "found": str(found)},
        scaling_config=ray.train.ScalingConfig(num_workers=2, resources_per_worker={"CPU": 1}),
        run_config=ray.train.RunConfig(storage_path=str(tmp_path / "storage")),
    )
    trainer.fit()
    for rank in range(2):
        share = Share(rank, 2)
        wanted = [*plain.epoch(5, 0, 50, share), *plain.once(50, share)]
        read = torch.load(found / f"{rank}.pt")
        assert all(torch.equal(images, batch.images) for (images, _), batch in zip(read, wanted, strict=True))
        assert all(torch.equal(labels, batch.labels) for (_, labels), batch in zip(read, wanted, strict=True))


def test_spare_cpus_are_those_that_no_worker_holds(wide_cluster):
    assert spare_cpus(2, 1) == CPUS - 2
    assert spare_cpus(CPUS, 1) == spare_cpus(2, CPUS / 2) == 0


def test_tasks_are_neither_too_many_nor_too_large():
    assert _least(280, 192) == 64
    assert _least(200_000, 3 * 32 * 32) == 200
    assert _least(1_281_167, 3 * 224 * 224) == 2**26 // (3 * 224 * 224) == 445
    assert _least(10, 2**27) == 1


def test_images_in_memory_need_no_reader(wide_cluster):
    train, _ = digits()
    assert through_ray(train, workers=CPUS, held=1) is train

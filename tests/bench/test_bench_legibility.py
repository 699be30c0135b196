import io
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from raygen.bench import LegibilityBenchSettings, as_results, bench_legibility, cells
from raygen.bench.legibility import LayerBench, crops, last_draws, pictures, sheet
from raygen.bench.legibility_table import HEADER, KindMeasured, Measures, over_nodes
from raygen.errors import SettingsError
from raygen.networks import NetworkSettings, load_network, wrap_network
from raygen.sampling import SamplingSettings, UnitSampler
from raygen.store import Unit

QUICK = {"weights": "random", "second_network": "lenet", "second_weights": "random", "chains": 2, "draws": 2, "thin": 1,
         "warm_up": 3, "steps": 2, "threads": 1, "questions": 4}  # fmt: skip
KINDS = ["draws", "means", "optimiser", "optimiser at 256", "optimiser in the time", "natural", "modes"]
NODES = ("ip2:3", "ip2:5", "conv1:2")
NAN = math.nan


def settings(**others):
    return LegibilityBenchSettings.parse({"nodes": "ip2:3,5 conv1:2", **QUICK, **others}, where="test")


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    out = tmp_path_factory.mktemp("legibility")
    return out, list(bench_legibility(settings(out=str(out), views=2)))


def test_draws_optimised_and_natural_images_of_each_node_have_all_measures(done):
    _, found = done
    assert [each.kind for each in found] == KINDS
    for each in found:
        assert tuple(each.nodes) == NODES
        assert each.images == 6
        for name, measures in each.nodes.items():
            assert 0 <= measures.interpretability <= 1
            assert measures.diversity >= 0
            assert 0 <= measures.specificity < 20
            # A rank among classes is one of a class.
            assert math.isnan(measures.second_rank) == (name == "conv1:2") == math.isnan(measures.second_top_1)


def test_the_optimiser_has_as_many_gradients_as_the_views_of_a_chain_and_as_much_time_the_second_time(done):
    _, (draws, _, equal, usual, timed, natural, modes) = done
    assert (usual.gradients, modes.gradients) == (256, 128)
    assert draws.gradients <= (3 + 2) * 2 * 2
    assert equal.gradients == pytest.approx(draws.gradients, abs=0.5)
    assert timed.gradients >= 1
    assert timed.seconds >= 0.9 * draws.seconds
    assert (natural.gradients, natural.seconds) == (0, 0)


def test_the_table_and_a_sheet_of_each_kind_lie_in_the_folder(done):
    out, found = done
    assert {path.name for path in out.iterdir()} == {"legibility.json", *(f"{k.replace(' ', '-')}.png" for k in KINDS)}
    stored = json.loads((out / "legibility.json").read_text())
    assert [each["kind"] for each in stored] == KINDS
    assert stored[0]["nodes"]["conv1:2"]["second_rank"] is None
    assert stored[0]["interpretability"] == found[0].measures.interpretability
    with Image.open(out / "draws.png") as picture:
        assert picture.size == (2 * 30 + 2, 3 * 30 + 2)


def test_the_table_has_a_cell_for_each_heading(done):
    _, found = done
    lines = [cells(each) for each in found]
    assert all(len(line) == len(HEADER) for line in lines)
    assert [line[0] for line in lines] == KINDS


def test_gradients_of_the_optimiser_may_be_given_and_natural_images_be_a_folder_of_pictures(tmp_path):
    numbers = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for at in range(6):
            pixels = numbers.integers(0, 255, (40, 50, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pictures" / name / f"{at}.png")
    found = list(bench_legibility(settings(nodes="conv1:2", data="folder", data_root=str(tmp_path / "pictures"),
                                           gradients_each=3, out=str(tmp_path / "out"))))  # fmt: skip
    assert [each.gradients for each in found if each.kind == "optimiser"] == [3]
    assert cells(found[0])[4:9] == ("-", "-", "-", "-", "-")


def test_too_few_natural_images_are_refused_before_anything_is_sampled(tmp_path):
    with pytest.raises(SettingsError, match="4 natural images for 4 questions, which take 12; give more images"):
        next(bench_legibility(settings(limit=2, out=str(tmp_path / "out"))))
    assert not (tmp_path / "out").exists()


def test_a_setting_of_the_second_network_is_that_of_a_network():
    second = settings(out="x", second_mean=(0.5,), second_std=(0.25,), second_input_size=28).second()
    assert (second.network, second.weights, second.mean, second.std) == ("lenet", "random", (0.5,), (0.25,))
    assert second.input_size == 28
    assert "arguments" not in second.model_fields_set


def test_pictures_are_the_last_draws_of_the_chains_as_pixels():
    network = load_network(NetworkSettings(weights="random"))
    asked = SamplingSettings(chains=2, draws=3, thin=1, warm_up=2, steps=1, bounded=True, sigma=1)
    rows = UnitSampler(network, asked, None, torch.device("cpu")).sample(Unit("u", "conv1", ("conv1:1", "conv1:4"), 2))
    last_rows = last_draws(rows)
    assert [(row["node"], row["chain"], row["draw"]) for row in last_rows] == [
        ("conv1:1", 0, 2), ("conv1:1", 1, 2), ("conv1:4", 0, 2), ("conv1:4", 1, 2)]  # fmt: skip
    found = pictures(last_rows, "conv1:4", "image")
    assert found.shape == (2, 1, 5, 5)
    last = [row for row in rows.to_pylist() if (row["node"], row["chain"], row["draw"]) == ("conv1:4", 1, 2)]
    with Image.open(io.BytesIO(last[0]["image"]["bytes"])) as picture:
        np.testing.assert_allclose(found[1, 0].numpy(), np.array(picture) / 255, atol=1e-6)


def test_natural_images_that_excite_a_node_most_explain_it():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 26 * 26, 2))
    network = wrap_network(module, name="bright", input_shape=(1, 28, 28))
    natural = torch.linspace(0, 1, 30)[:, None, None, None].expand(-1, 1, 28, 28).contiguous()
    bench = LayerBench(network, Unit("u", "0", ("0:0",), 2), settings(out="x"), natural)
    assert bench.natural.shape == (30, 1, 3, 3)
    sign = 1 if module[0].weight[0].sum() > 0 else -1
    queries = bench.queries[0]
    ordered = list(range(30))[::-sign]
    assert sorted([*queries.shown.tolist(), *queries.strong.tolist()]) == sorted(ordered[:8])
    assert sorted(queries.weak.tolist()) == sorted(ordered[-4:])


def test_a_part_of_an_image_is_one_of_its_parts_and_a_whole_is_itself():
    images = torch.arange(2 * 36.0).view(2, 1, 6, 6)
    assert torch.equal(crops(images, (1, 6, 6), 0), images)
    for part, image in zip(crops(images, (1, 2, 3), 7), images, strict=True):
        row, column = divmod(int(part[0, 0, 0]) % 36, 6)
        assert torch.equal(part, image[:, row : row + 2, column : column + 3])


def test_over_nodes_ranks_have_their_median_and_what_a_node_lacks_does_not_count():
    nodes = [Measures(1.0, 1.0, 0.0, 1.0, 0.0, 2.0, 0.5, 1.0), Measures(0.0, 0.5, 90.0, 0.5, 4.0, 4.0, 0.1, 0.5),
             Measures(NAN, NAN, NAN, NAN, NAN, 8.0, NAN, 0.9)]  # fmt: skip
    found = over_nodes(nodes)
    assert (found.second_top_1, found.second_top_5, found.second_rank) == (0.5, 0.75, 45.0)
    assert (found.own_top_1, found.own_rank) == (0.75, 2.0)
    assert found.specificity == 4.0
    assert (found.diversity, found.interpretability) == (pytest.approx(0.3), pytest.approx(0.8))
    assert math.isnan(over_nodes(nodes[2:]).second_rank)


def test_results_are_beside_the_optimisers_and_leave_out_what_is_not_known():
    ours = KindMeasured("draws", 2, 10, 1.0, Measures(0.5, 1.0, NAN, 1.0, 0.0, 2.0, 0.5, 1.0), {})
    theirs = KindMeasured("optimiser", 2, 10, 1.0, Measures(0.25, 1.0, NAN, 1.0, 0.0, 2.0, 0.5, 0.5), {})
    found = {each.case: (each.value, each.baseline, each.ratio) for each in as_results(ours, theirs)}
    assert found["draws, second top 1"] == (0.5, 0.25, 2.0)
    assert found["draws, interpretability"] == (1.0, 0.5, 2.0)
    assert not any("second rank" in case for case in found)


def test_a_sheet_has_a_line_for_each_node_and_enlarges_small_images():
    png = sheet([torch.zeros(2, 1, 10, 10), torch.full((1, 1, 5, 5), 0.5)])
    with Image.open(io.BytesIO(png)) as picture:
        values = np.array(picture)[:, :, 0]
    assert values.shape == (2 * 12 + 2, 2 * 12 + 2)
    assert set(np.unique(values)) == {0, 127, 255}
    assert (values == 127).sum() == 100

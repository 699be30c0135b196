"""Pictures show the samples' own pixels, chain by chain and draw by draw."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from raygen.errors import StoreError
from raygen.gallery.evidence import read_nodes
from raygen.gallery.pictures import SHEET_CHAINS, SHEET_DRAWS, contact_sheet, sheet, spread, tile, trace


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


@pytest.fixture
def grid_of(png_of):
    """Images of one value each: 10 * chain + draw."""

    def build(chains: int, draws: int, size: int = 28, colours: int = 1):
        shape = (size, size) if colours == 1 else (size, size, colours)
        return [[png_of(np.full(shape, (10 * c + d) % 256, np.uint8)) for d in range(draws)] for c in range(chains)]

    return build


def test_a_sheet_has_chains_as_rows_and_draws_as_columns(grid_of):
    made = sheet(grid_of(3, 5))
    shown = pixels(made.picture.png)
    wide, high = (side + made.gap for side in made.cell)
    assert (made.picture.width, made.picture.height) == (5 * wide - made.gap, 3 * high - made.gap) == shown.shape[1::-1]
    values = [[shown[row * high + 5, column * wide + 5, 0] for column in range(5)] for row in range(3)]
    assert values == [[10 * c + d for d in range(5)] for c in range(3)]
    assert not shown[made.cell[1], :, 1].any()  # the gap is transparent


def test_small_images_are_enlarged_by_whole_factors_without_blur(png_of):
    original = np.random.default_rng(0).integers(0, 256, (7, 7), np.uint8)
    made = sheet([[png_of(original)]])
    times = made.cell[0] // 7
    assert made.picture.crisp
    assert times > 1
    assert (pixels(made.picture.png)[:, :, 0] == original.repeat(times, 0).repeat(times, 1)).all()


def test_large_images_keep_their_pixels_in_the_sheet_and_colours(png_of):
    original = np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8)
    made = sheet([[png_of(original)]])
    assert (pixels(made.picture.png)[:, :, :3] == original).all()
    assert made.picture.width == 112
    assert not made.picture.crisp


def test_single_draws_lie_side_by_side(grid_of):
    made = sheet(grid_of(6, 1))
    assert made.transposed
    assert made.picture.width > 5 * made.picture.height


def test_a_tile_holds_the_last_draws_of_four_chains(grid_of):
    made = tile(grid_of(4, 3))
    shown = pixels(made.png)[:, :, 0]
    assert shown.shape[0] == shown.shape[1]
    corners = shown[[0, 0, -1, -1], [0, -1, 0, -1]]
    assert corners.tolist() == [2, 12, 22, 32]


@pytest.mark.parametrize("chains", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("size", [1, 5, 28, 63, 64, 65, 100, 227])
def test_tiles_are_about_as_large_whatever_the_images(grid_of, chains, size):
    made = tile(grid_of(chains, 1, size, 3))
    assert 30 <= made.width <= 140


def test_chains_with_fewer_draws_leave_their_cells_empty(grid_of):
    images = grid_of(2, 4)
    images[1] = images[1][:2]
    made = sheet(images)
    shown = pixels(made.picture.png)
    assert shown[-1, -1, 1] == 0
    assert shown[0, -1, 1] == 255


def test_very_many_chains_and_draws_are_thinned_to_the_limits(grid_of):
    made = sheet(grid_of(50, 25, size=2))
    assert (len(made.rows), len(made.columns)) == (SHEET_CHAINS, SHEET_DRAWS)
    assert (made.rows[0], made.rows[-1], made.columns[-1]) == (0, 49, 24)


@given(st.integers(0, 500), st.integers(2, 60))
def test_spread_is_even_and_keeps_both_ends(count, limit):
    chosen = spread(count, limit)
    assert len(chosen) == min(count, limit)
    assert list(chosen) == sorted(set(chosen))
    if count:
        assert (chosen[0], chosen[-1]) == (0, count - 1)
        steps = np.diff(chosen)
        assert len(steps) == 0 or steps.max() - steps.min() <= 1


@pytest.mark.parametrize(("count", "width"), [(1, 62), (10, 172), (400, 124)])
def test_a_contact_sheet_holds_every_tile_on_white(png_of, count, width):
    dark = png_of(np.zeros((width, width), np.uint8))
    shown = pixels(contact_sheet("lenet, conv1", [(f"conv1:{n}", dark) for n in range(count)]))
    assert shown.shape[2] == 3
    assert shown[0, 0].tolist() == [255, 255, 255]
    assert abs((shown == 0).all(2).sum() / (count * width**2) - 1) < 0.05


def test_a_huge_layers_contact_sheet_stays_printable(png_of):
    dark = png_of(np.zeros((180, 180), np.uint8))
    shown = pixels(contact_sheet("vgg, features.28", [("a name much too long for its tile", dark)] * 1200))
    assert shown.size < 3 * 45e6


def test_a_trace_runs_from_the_lowest_to_the_highest_score(layer_of, table_of):
    layer = layer_of(channels=3)
    node, *_ = next(iter(read_nodes(table_of(layer, layer.units()[0]))))
    drawn = trace(node.chains)
    assert drawn.scores == pytest.approx((0, 3.5))
    assert drawn.draws == (0, 5)
    assert drawn.lines[0][1].startswith("0.0,96.0")  # chain 0 begins lowest
    assert drawn.lines[3][1].endswith("1000.0,4.0")  # chain 3 ends highest


def bomb() -> bytes:
    """A few kilobytes that stand for 69 million pixels."""
    sink = io.BytesIO()
    Image.new("1", (8300, 8300)).save(sink, "PNG")
    return sink.getvalue()


@pytest.mark.parametrize(
    ("png", "says"),
    [(bomb(), "8300x8300 are more than"), (b"no picture", "UnidentifiedImageError"), (bomb()[:60], "cannot be shown")],
)
def test_a_sample_that_is_no_picture_or_too_large_a_one_is_one_line(png, says):
    assert len(png) < 20_000
    for show in (tile, sheet):
        with pytest.raises(StoreError, match=says):
            show([[png]])

"""A gallery is made from the run alone, again at any time, and says what is missing."""

import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from raygen.errors import StoreError
from raygen.gallery import build_gallery
from raygen.store import SAMPLES, Run

HOSTILE = ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "a'b&c </title>", "{{ 7*7 }}"]


class Page(HTMLParser):
    """Every link and picture of a page, its text, and the names of its elements."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links, self.tags, self.text = [], [], ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in {"href", "src"}]

    def handle_data(self, data):
        self.text += data


def pages_of(run: Run) -> dict[str, Page]:
    folder = Path(run.location.root) / "gallery"
    return {str(path.relative_to(folder)): Page(path) for path in sorted(folder.rglob("*.html"))}


def index_of(run: Run) -> dict:
    text = (Path(run.location.root) / "gallery/gallery.json").read_text()
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_every_layer_and_node_has_its_page_at_its_address(make, layer_of):
    run = make(layer_of("conv2", 9), layer_of("ip2", 2, classes=["zero", "one"]))
    summary = build_gallery(run)
    assert summary.index == f"{run.location.text}/gallery/index.html"
    assert Path(summary.index).is_file()
    assert (summary.layers, summary.nodes, summary.samples) == (2, 11, 11 * 24)
    assert (summary.missing, summary.torn) == ((), ())
    pages = pages_of(run)
    assert set(pages) == {"index.html", "conv2/index.html", "ip2/index.html", "ip2/0.html", "ip2/1.html"} | {
        f"conv2/{channel}.html" for channel in range(9)
    }
    assert "conv2:7" in pages["conv2/7.html"].text
    means = {node["means"] for layer in index_of(run)["layers"] for node in layer["nodes"]}
    assert len(means) == 11 and all((Path(summary.index).parent / name).is_file() for name in means)
    assert "7.mean.png" in pages["conv2/7.html"].links and "Means of the chains" in pages["conv2/7.html"].text
    assert re.search(r"barrier \(Lambda\)\s*3\.25", pages["conv2/7.html"].text)
    assert "zero" in pages["ip2/index.html"].text


def test_every_link_leads_to_a_file_of_the_gallery_and_none_outside(make, layer_of):
    run = make(layer_of("conv/2", 5), layer_of("Conv", 2), layer_of("conv", 2, position=(1, 2)), layer_of("ü", 1))
    build_gallery(run)
    folder = Path(run.location.root) / "gallery"
    for name, page in pages_of(run).items():
        for link in page.links:
            if link == "data:,":
                continue
            target = (folder / name).parent / link
            assert target.is_file(), f"{name} -> {link}"
            assert folder.resolve() in target.resolve().parents


def test_the_pages_need_no_network(make, layer_of):
    run = make(layer_of(channels=2))
    build_gallery(run)
    for path in (Path(run.location.root) / "gallery").rglob("*"):
        if path.suffix in {".html", ".css"}:
            assert not re.search(r"https?:|//[a-z]|@import|url\(", path.read_text()), path


def test_the_index_is_data_with_addresses_that_exist(make, layer_of):
    run = make(layer_of("conv2", 3))
    build_gallery(run)
    index = index_of(run)
    (layer,) = index["layers"]
    assert (layer["layer"], layer["planned"], layer["nodes"][2]["node"]) == ("conv2", 3, "conv2:2")
    assert layer["nodes"][1]["r_hat"] == pytest.approx(1.01)
    assert index["run"]["request"]["network"] == "lenet"
    folder = Path(run.location.root) / "gallery"
    for node in layer["nodes"]:
        assert all((folder / node[kind]).is_file() for kind in ("page", "tile", "sheet"))
    assert Image.open(io.BytesIO((folder / layer["contact_sheet"]).read_bytes())).width > 300


def test_names_of_users_are_text_and_never_markup(make, layer_of):
    run = make(layer_of("<b>", 4, classes=HOSTILE), network="<i>net</i>", nodes="</script><script>alert(1)</script>")
    build_gallery(run)
    for name, page in pages_of(run).items():
        assert not {"b", "i"} & set(page.tags), name
        assert page.tags.count("script") <= 1
        assert page.tags.count("title") == 1 + page.tags.count("polyline")
        assert "x" not in page.links
    text = next(page.text for name, page in pages_of(run).items() if name.endswith("/index.html"))
    for label in HOSTILE:
        assert label in text


def test_no_page_obeys_a_name_or_shows_a_secret(make, layer_of):
    name = "lion\u202e\x1b[2J"
    address = "s3://KEY:SECRET@bucket/w.pt"
    run = make(layer_of("conv1", 4, classes=[name] * 4), network=name + "\udcff", data=address)
    build_gallery(run)
    folder = Path(run.location.root) / "gallery"
    for path in [*folder.rglob("*.html"), folder / "gallery.json"]:
        text = path.read_text(encoding="utf-8")
        assert "SECRET" not in text
        assert text.replace("\n", "").isprintable()
    assert r"lion\u202e\x1b[2J" in (folder / "index.html").read_text(encoding="utf-8").replace("<wbr>", "")


def test_missing_units_are_named_on_the_pages_and_in_the_summary(make, layer_of):
    first, second = layer_of("conv1", 8), layer_of("conv2", 4)
    run = make(first, second, skip=["conv1-5-1", "conv2-5-0"])
    summary = build_gallery(run)
    assert summary.missing == ("conv1-5-1", "conv2-5-0")
    assert (summary.layers, summary.nodes) == (1, 4)
    pages = pages_of(run)
    assert "This run is incomplete: 4 of 12 nodes shown." in pages["index.html"].text
    assert "conv2-5-0" in pages["index.html"].text
    assert "4 of 8 nodes shown" in pages["conv1/index.html"].text
    assert index_of(run)["missing"] == ["conv1-5-1", "conv2-5-0"]


def test_a_run_without_samples_is_shown_as_such(make, layer_of):
    run = make(layer_of("conv1", 2), skip=["conv1-5-0"])
    summary = build_gallery(run)
    assert (summary.nodes, summary.samples) == (0, 0)
    assert "0 of 2 nodes shown" in pages_of(run)["index.html"].text


def tear(path: Path, how: str) -> None:
    match how:
        case "half":
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        case "columns":
            pq.write_table(pq.read_table(path).drop_columns(["ess_bulk"]), path)
        case "picture":
            table = pq.read_table(path)
            at = table.schema.get_field_index("image")
            broken = [{"bytes": image["bytes"][:60], "path": None} for image in table["image"].to_pylist()]
            field = table.schema.field(at)
            pq.write_table(table.set_column(at, field, pa.array(broken, field.type)), path)


@pytest.mark.parametrize("how", ["half", "columns", "picture"])
def test_a_torn_unit_is_left_out_and_its_file_named(make, layer_of, how):
    run = make(layer_of("conv1", 8))
    torn = "samples/conv1/conv1-5-0.parquet"
    tear(Path(run.location.root) / torn, how)
    summary = build_gallery(run)
    assert summary.torn == (torn,)
    assert summary.missing == ()
    assert summary.nodes == 4
    pages = pages_of(run)
    assert torn in pages["index.html"].text
    assert torn in pages["conv1/index.html"].text
    assert {name for name in pages if name.startswith("conv1/")} == {
        "conv1/index.html", *(f"conv1/{channel}.html" for channel in range(4, 8)),
    }  # fmt: skip


def test_made_again_it_is_the_same_and_the_run_is_untouched(make, layer_of):
    run = make(layer_of("conv1", 6))
    root = Path(run.location.root)

    def content() -> dict[str, bytes]:
        return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}

    samples = content()
    build_gallery(run)
    once = content()
    assert {name: data for name, data in once.items() if not name.startswith("gallery/")} == samples
    build_gallery(Run.open(str(root)))
    assert content() == once


def test_addresses_stay_when_more_units_are_done(make, layer_of):
    layer = layer_of("conv1", 12)
    run = make(layer, skip=["conv1-5-0"])
    build_gallery(run)
    before = set(pages_of(run))
    make(layer)
    build_gallery(run)
    assert before < set(pages_of(run))


def test_two_positions_of_a_channel_have_two_pages(make, layer_of):
    run = make(layer_of("conv1", 2), layer_of("conv1", 2, position=(3, 4)))
    summary = build_gallery(run)
    assert summary.nodes == 4
    assert {"conv1/1.html", "conv1/1_at_3_4.html"} <= set(pages_of(run))


def test_numbers_that_are_none_are_dashes_and_null(make, layer_of, table_of):
    layer = layer_of("conv1", 1)
    run = make(layer)
    unit = run.plan[0]
    table = table_of(layer, unit)
    at = table.schema.get_field_index("r_hat")
    unknown = pa.array([float("nan")] * table.num_rows, pa.float32())
    run.commit(unit, table.set_column(at, table.schema.field(at), unknown))
    build_gallery(run)
    assert index_of(run)["layers"][0]["nodes"][0]["r_hat"] is None
    assert "nan" not in pages_of(run)["conv1/0.html"].text.lower()


def test_a_folder_that_cannot_be_written_is_an_error_not_a_torn_unit(make, layer_of):
    run = make(layer_of("conv1", 1))
    (Path(run.location.root) / "gallery").write_text("in the way")
    with pytest.raises(StoreError, match="cannot be written"):
        build_gallery(run)


def test_a_gallery_is_written_through_a_uri(make, layer_of):
    run = make(layer_of("conv1", 2, colours=3, size=80))
    uri = Path(run.location.root).as_uri()
    summary = build_gallery(Run.open(uri))
    assert summary.index == f"{uri}/gallery/index.html"
    sheet = (Path(run.location.root) / "gallery/conv1/0.png").read_bytes()
    assert Image.open(io.BytesIO(sheet)).mode == "RGBA"


@pytest.mark.parametrize(
    ("converged", "stop_reason", "said"),
    [
        (True, "converged", "Sampling stopped then, after 1,280 trajectories."),
        (False, "budget", "Not converged when its budget of 1,280 trajectories ended."),
        (False, None, "Not converged. The R-hat"),
    ],
)
def test_a_nodes_page_says_why_its_chains_ended(make, layer_of, table_of, converged, stop_reason, said):
    run = make(layer_of("conv2", 1))
    (unit,) = run.plan
    rows = table_of(layer_of("conv2", 1), unit).to_pylist()
    ends = {"converged": converged, "stop_reason": stop_reason, "trajectories": stop_reason and 1280}
    run.commit(unit, pa.Table.from_pylist([row | ends for row in rows], schema=SAMPLES))
    build_gallery(run)
    text = next(page.text for name, page in pages_of(run).items() if "conv2" in name and "index" not in name)
    assert said in " ".join(text.split())
    assert ("stopped then" in text, "budget" in text) == (stop_reason == "converged", stop_reason == "budget")

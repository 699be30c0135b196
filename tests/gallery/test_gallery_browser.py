"""The pages in a real browser, from disk."""

import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pytest

from raygen.gallery import build_gallery

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]

SHOWN = "[...document.querySelectorAll('.tile')].filter(t => !t.hidden).map(t => Number(t.dataset.channel))"
BROKEN = """async () => {
    const images = [...document.images];
    images.forEach(image => image.loading = 'eager');
    await Promise.allSettled(images.map(image => image.decode()));
    return images.filter(image => !image.naturalWidth).map(image => image.src);
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator:
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def site(make_at, layer_of, tmp_path_factory) -> Path:
    layers = [
        layer_of("conv1", 20, size=5),
        layer_of("features.3.squeeze/ü", 3, size=90, colours=3, draws=9, chains=2),
        layer_of(
            "ip2", 3, classes=["zero", "one, two & <three>", "a_name_much_too_long_for_any_tile_or_telephone" * 2]
        ),
        layer_of("ip3", 2, draws=1, chains=12),
    ]
    run = make_at(tmp_path_factory.mktemp("site") / "run", layers, skip=["conv1-5-4"])
    build_gallery(run)
    return Path(run.location.root) / "gallery"


@pytest.fixture
def open_page(browser):
    pages, complaints = [], []

    def open_at(path: Path, *, width: int = 1280, scheme: str = "light", scripts: bool = True):
        page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme,
                                java_script_enabled=scripts)  # fmt: skip
        pages.append(page)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda asked: asked.url.startswith(("file:", "data:")) or complaints.append(asked.url))
        page.on("requestfailed", lambda asked: complaints.append(asked.url))
        page.goto(path.as_uri())
        return page

    yield open_at
    for page in pages:
        page.close()
    assert complaints == []


def some_pages(site: Path) -> list[Path]:
    layers = sorted(path for path in site.iterdir() if path.is_dir())
    return [site / "index.html", *(layer / name for layer in layers for name in ("index.html", "0.html"))]


def test_pages_load_whole_and_fit_their_width(site, open_page):
    for path in some_pages(site):
        page = open_page(path)
        assert page.evaluate(BROKEN) == [], path
        page.evaluate("document.querySelectorAll('details').forEach(element => element.open = true)")
        for width in (320, 375, 768, 1280):
            page.set_viewport_size({"width": width, "height": 800})
            assert page.evaluate("document.documentElement.scrollWidth") <= width, (path, width)


def test_every_picture_has_words_and_every_page_one_first_heading(site, open_page):
    for path in some_pages(site):
        page = open_page(path)
        assert page.evaluate("[...document.images].every(image => image.alt.length > 5)")
        assert page.locator("h1").count() == 1
        levels = page.evaluate("[...document.querySelectorAll('h1,h2,h3')].map(h => Number(h.tagName[1]))")
        assert all(after - before <= 1 for before, after in pairwise(levels)), (path, levels)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(site, open_page, scheme):
    """WCAG 2.2, 1.4.3: a contrast of at least 4.5."""
    page = open_page(site / "index.html", scheme=scheme)
    ratios = page.evaluate("""() => {
        const rgb = (text) => text.match(/[0-9.]+/g).slice(0, 3).map(Number);
        const light = (c) => c.map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
            .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
        const ground = (e) => { for (; e; e = e.parentElement) {
            const c = getComputedStyle(e).backgroundColor;
            if (c !== 'rgba(0, 0, 0, 0)') return rgb(c);
        } };
        const texts = 'p, a, th, td, dt, dd, .warning, .note, summary, strong, footer';
        return [...document.querySelectorAll(texts)].map(e => {
            const [a, b] = [light(rgb(getComputedStyle(e).color)), light(ground(e))].sort((x, y) => y - x);
            return (a + 0.05) / (b + 0.05);
        });
    }""")
    assert min(ratios) >= 4.5


def test_tiles_can_be_ordered(site, open_page):
    page = open_page(site / "conv1/index.html")
    channels = list(range(16))
    assert page.evaluate(SHOWN) == channels
    page.select_option("#order", "ess:-1")
    assert page.evaluate(SHOWN) == channels[::-1]
    page.select_option("#order", "score:-1")
    assert page.evaluate(SHOWN) == sorted(channels, key=lambda channel: (-(channel % 7), channel))
    page.select_option("#order", "channel:1")
    assert page.evaluate(SHOWN) == channels


def test_tiles_can_be_hidden_and_searched(site, open_page):
    page = open_page(site / "conv1/index.html")
    page.check("#converged")
    assert page.evaluate(SHOWN) == list(range(0, 16, 2))
    assert page.inner_text("#shown") == "8 of 16 shown"
    page.fill("#find", "CONV1:1")
    assert page.evaluate(SHOWN) == [10, 12, 14]
    page.uncheck("#converged")
    assert page.evaluate(SHOWN) == [1, *range(10, 16)]
    page.fill("#find", "nothing of the kind")
    assert page.evaluate(SHOWN) == []


def test_nodes_without_a_number_come_last(make, layer_of, table_of, open_page):
    layer = layer_of("conv1", 4)
    run = make(layer)
    unit = run.plan[0]
    table = table_of(layer, unit)
    at = table.schema.get_field_index("r_hat")
    values = [float("nan") if channel == 1 else 1.0 + channel for channel in table["channel"].to_pylist()]
    run.commit(unit, table.set_column(at, table.schema.field(at), pa.array(values, pa.float32())))
    build_gallery(run)
    page = open_page(Path(run.location.root) / "gallery/conv1/index.html")
    for order, expected in (("rhat:1", [0, 2, 3, 1]), ("rhat:-1", [3, 2, 0, 1])):
        page.select_option("#order", order)
        assert page.evaluate(SHOWN) == expected


def test_without_scripts_all_is_shown_and_no_dead_control(site, open_page):
    page = open_page(site / "conv1/index.html", scripts=False)
    assert page.locator(".tile").count() == 16
    assert not page.locator("#filter").is_visible()


def test_a_reader_walks_from_the_index_to_a_node_and_on(site, open_page):
    page = open_page(site / "index.html")
    page.click("h2 a:has-text('ip2')")
    page.click("text=zero")
    # Until the page has loaded, its keys do nothing yet.
    page.wait_for_url((site / "ip2/0.html").as_uri(), wait_until="load")
    page.keyboard.press("ArrowRight")
    page.wait_for_url("**/ip2/1.html")
    assert page.inner_text("h1") == "one, two & <three>"
    page.click("text=next")
    page.wait_for_url("**/ip2/2.html")
    assert page.locator("a[rel=next]").count() == 0
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    page.wait_for_url("**/ip2/1.html")


def test_small_pixels_stay_square(site, open_page):
    page = open_page(site / "conv1/0.html")
    assert page.evaluate("getComputedStyle(document.images[0]).imageRendering") == "pixelated"

"""The page of an inspection in a real browser, from the file system, as a reader uses it, and its folder."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright
from safetensors.torch import load_file

from posattn import cli
from posattn.runs.report import figures, inspection

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]


SHOTS = Path(os.environ.get("POSATTN_SHOTS", "build/screenshots"))


needs_browser = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium is installed: apt-get install chromium"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An inspection of timm's test_vit (6 layers of 2 heads, 10 x 10 patches) over pictures in a folder."""
    home = tmp_path_factory.mktemp("inspection")
    random = np.random.default_rng(0)
    for number in range(12):
        smooth = Image.fromarray(random.integers(0, 256, (6, 8, 3), np.uint8)).resize((200, 180))
        (home / "pictures" / f"class{number % 2}").mkdir(parents=True, exist_ok=True)
        smooth.save(home / "pictures" / f"class{number % 2}" / f"{number}.png")
    torch.manual_seed(0)
    model = timm.create_model("test_vit")
    for block in model.blocks:
        block.attn.qkv.weight.data *= 12  # attention far from uniform
    torch.save(model.state_dict(), home / "weights.pth")
    out = home / "out"
    where = ["--images", str(home / "pictures"), "--checkpoint", str(home / "weights.pth")]
    cli.main(["inspect", "test_vit", *where, "--out", str(out)])
    return out


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, folder: Path) -> Iterator[Page]:
    """The page, opened; what it asks the network for and what its console says must be nothing."""
    page = browser.new_page(viewport={"width": 1100, "height": 900})
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: said.append(request.url))
    page.goto((folder / "report.html").resolve().as_uri())
    page.wait_for_selector("body[data-ready]")
    yield page
    page.close()
    addresses = [line for line in said if not line.startswith("data:")]
    assert addresses == [(folder / "report.html").resolve().as_uri()]


def drawn(page: Page, view: str) -> str:
    """What a canvas shows."""
    return page.eval_on_selector(f"[data-map={view}] canvas", "canvas => canvas.toDataURL()")


def brightest(page: Page, view: str) -> int:
    """The patch that a canvas shows brightest (viridis rises in green)."""
    script = """canvas => { const d = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
        let best = 0; for (let i = 0; i < d.length / 4; i++) if (d[4*i] + d[4*i+1] > d[4*best] + d[4*best+1]) best = i;
        return best }"""
    return page.eval_on_selector(f"[data-map={view}] canvas", script)


@needs_browser
def test_choosing_a_head_and_a_patch_shows_where_it_looks(page: Page, folder: Path) -> None:
    maps = load_file(folder / "maps.safetensors")
    assert page.inner_text("#chosen") == "Layer 0, head 0"
    before = {view: drawn(page, view) for view in ("average", "example0", "example2")}
    page.click("#overview button[data-at='4,1']")
    page.wait_for_function("document.getElementById('chosen').textContent === 'Layer 4, head 1'")
    assert page.get_attribute("#overview button[data-at='4,1']", "aria-pressed") == "true"
    assert page.get_attribute("#overview button[data-at='0,0']", "aria-pressed") == "false"
    assert all(drawn(page, view) != shown for view, shown in before.items())
    view = page.locator("[data-map=average]")
    box = view.bounding_box()
    assert box is not None
    view.hover(position={"x": box["width"] * 0.35, "y": box["height"] * 0.75})  # row 8, column 4
    assert "patch at row 8, column 4 looks most at" in page.inner_text("#says")
    row = maps["average.4"][1, 1:, 1:][73]
    best = int(row.numpy().argmax())
    assert f"at row {best // 10 + 1}, column {best % 10 + 1} ({100 * row.max():.1f} %)" in page.inner_text(
        "#says"
    )
    assert row[brightest(page, "average")] > 0.97 * row.max()
    example = maps["examples.4"][2, 1, 1:, 1:][73]
    assert example[brightest(page, "example2")] > 0.85 * example.max()  # sixteen levels
    assert example.max() > 3 * example.mean(), "a uniform map tests nothing"
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / "inspection.png", full_page=True)
    page.emulate_media(color_scheme="dark")
    page.screenshot(path=SHOTS / "inspection-dark.png", full_page=True)


def test_layers_with_artefact_tokens_are_flagged(folder: Path) -> None:
    """Norms by hand; the page's own model has none, so that one is put into its table."""
    table, maps = pd.read_parquet(folder / "table.parquet"), load_file(folder / "maps.safetensors")
    assert table[table.measure == "high_norm_share"].value.tolist() == [0] * 6
    html = (folder / "report.html").read_text()
    assert "None: after every layer" in html
    assert "▲" not in html.split("<h2>Artefact tokens")[1].split("</section>")[0]
    chosen = (table.measure == "high_norm_share") & (table.layer == 3)
    table.loc[chosen, "value"] = 0.02
    assert [
        row["layer"] for row in inspection.norms_by_layer(table) if row["high_norm_share"][0] > 0.001
    ] == [3]
    norms = {layer: maps[f"norms.{layer}"] for layer in range(6)}
    ratios = {layer: float((n.amax(1) / n.quantile(0.5, 1)).mean()) for layer, n in norms.items()}
    assert f"after layer {max(ratios, key=lambda layer: ratios[layer])}, bright" in html


@needs_browser
def test_the_keyboard_does_what_the_mouse_does(page: Page) -> None:
    page.focus("#overview button[data-at='2,0']")
    page.keyboard.press("Enter")
    page.wait_for_function("document.getElementById('chosen').textContent === 'Layer 2, head 0'")
    page.focus("#picker [tabindex='0']")
    assert page.evaluate("document.activeElement.ariaLabel") == "row 6, column 6"
    before, similar = drawn(page, "average"), drawn(page, "similarity")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("document.activeElement.ariaLabel") == "row 5, column 5"
    assert "patch at row 5, column 5" in page.inner_text("#says")
    assert drawn(page, "average") != before
    assert drawn(page, "similarity") != similar
    for _ in range(9):
        page.keyboard.press("ArrowUp")
    assert page.evaluate("document.activeElement.ariaLabel") == "row 1, column 5"
    assert page.locator("#picker [tabindex='0']").count() == 1


@needs_browser
def test_a_tap_chooses_a_patch(browser: Browser, folder: Path) -> None:
    page = browser.new_page(has_touch=True, viewport={"width": 400, "height": 800})
    page.goto((folder / "report.html").resolve().as_uri())
    page.wait_for_selector("body[data-ready]")
    page.locator("[data-map=example1]").tap(position={"x": 3, "y": 3})
    assert "patch at row 1, column 1" in page.inner_text("#says")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "wider than a phone"
    page.close()


@needs_browser
def test_the_overview_is_coloured_by_any_measure(page: Page, folder: Path) -> None:
    table = pd.read_parquet(folder / "table.parquet")
    names = page.eval_on_selector_all("#measure option", "options => options.map(o => o.value)")
    assert set(names) == set(table[table["head"] >= 0].measure)
    for name in names:
        page.select_option("#measure", name)
        values = table[table.measure == name].set_index(["layer", "head"]).value
        label = page.get_attribute("#overview button[data-at='3,1']", "aria-label")
        assert label is not None
        assert label.startswith("Layer 3, head 1: ")
        assert float(label.split()[-1]) == pytest.approx(values[3, 1], abs=6e-4)
        highest = ",".join(map(str, values.idxmax()))
        assert page.locator(f"#overview button[data-at='{highest}']").evaluate(
            "b => b.style.backgroundColor"
        ) in (
            "rgb(253, 231, 36)",
            "rgb(253, 231, 37)",
        )


@needs_browser
def test_the_page_says_why_no_sets_are_recovered(browser: Browser, folder: Path, tmp_path: Path) -> None:
    """Of 21 x 21 patches it said that queries and keys are others."""
    where = ["--images", str(folder.parent / "pictures"), "--limit", "2", "--out", str(tmp_path / "out")]
    cli.main(["inspect", "test_vit", *where, "--img-size", "336", "--layers", "0"])
    page = browser.new_page()
    page.goto((tmp_path / "out" / "report.html").resolve().as_uri())
    page.wait_for_selector("body[data-ready]")
    assert page.inner_text("#agreement") == "None: they are not looked for among so many or so few patches."
    page.close()


@needs_browser
def test_maps_over_grids_that_are_not_square_keep_their_shape(browser: Browser) -> None:
    style = (Path(inspection.__file__).parent / "templates" / "look.css").read_text()
    image = figures.frame(np.eye(4, 8))
    page = browser.new_page()
    page.set_content(f'<style>{style}</style><div class="heads"><img class="map" src="{image}"></div>')
    box = page.locator("img").bounding_box()
    assert box is not None
    assert box["width"] == pytest.approx(2 * box["height"], abs=3)  # and a border
    page.close()


@needs_browser
def test_the_table_sorts(page: Page) -> None:
    def column() -> list[float]:
        cells = page.eval_on_selector_all(
            "#numbers tbody td:nth-child(4)", "cells => cells.map(c => c.dataset.value)"
        )
        return [float(cell) for cell in cells]

    heading = page.locator("#numbers th:nth-child(4)")
    assert column() != sorted(column())
    heading.locator("button").press("Enter")
    assert column() == sorted(column(), reverse=True)
    assert heading.get_attribute("aria-sort") == "descending"
    heading.locator("button").click()
    assert column() == sorted(column())
    assert page.locator("#numbers th[aria-sort]").count() == 1


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1100])
def test_places_are_hovered_and_clicked(browser: Browser, folder: Path, width: int, scheme: Any) -> None:
    maps = load_file(folder / "maps.safetensors")["average.3"][1, 1:, 1:]
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.goto(f"{(folder / 'report.html').resolve().as_uri()}#3-1")
    page.wait_for_selector("body[data-ready]")
    for row, column in ((0, 0), (4, 7), (9, 9)):
        for act, name in (("hover", "average"), ("click", "example0")):
            view = page.locator(f"[data-map={name}]")
            box = view.bounding_box()
            assert box is not None
            getattr(view, act)(
                position={
                    "x": box["width"] * (column + 0.5) / 10,
                    "y": box["height"] * (row + 0.5) / 10,
                }
            )
            assert f"patch at row {row + 1}, column {column + 1} looks" in page.inner_text("#says")
            looked = maps[10 * row + column]
            assert looked[brightest(page, "average")] > 0.97 * looked.max()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.close()


@needs_browser
def test_the_class_token_is_a_query(page: Page, folder: Path) -> None:
    maps = load_file(folder / "maps.safetensors")
    page.click("#overview button[data-at='5,1']")
    page.wait_for_function("document.getElementById('chosen').textContent === 'Layer 5, head 1'")
    page.click("#prefix button >> text=Class token")
    row, example = maps["average.5"][1, 0, 1:], maps["examples.5"][1, 1, 0, 1:]
    best = int(row.numpy().argmax())
    said = f"the class token looks most at row {best // 10 + 1}, column {best % 10 + 1} ({100 * row.max():.1f} %)"
    assert said in page.inner_text("#says")
    assert row[brightest(page, "average")] > 0.97 * row.max()
    assert example[brightest(page, "example1")] > 0.85 * example.max()
    assert not page.is_visible("[data-map=average] .marker")
    assert page.is_visible("[data-map=similarity] .marker")
    page.click("#prefix button")
    assert "the patch at row 6, column 6" in page.inner_text("#says")


@needs_browser
def test_heads_are_ordered_and_filtered_by_a_measure(page: Page, folder: Path) -> None:
    table = pd.read_parquet(folder / "table.parquet")
    values = table[table.measure == "entropy"].set_index(["layer", "head"]).value.sort_values()
    shown = "buttons => buttons.filter(b => b.offsetParent).map(b => b.dataset.at)"
    page.select_option("#measure", "entropy")
    page.select_option("#order", "low")
    places = [f"{layer},{head}" for layer, head in values.index]
    assert page.eval_on_selector_all("button.head", shown) == places
    page.select_option("#order", "high")
    assert page.eval_on_selector_all("button.head", shown) == places[::-1]
    page.fill("#from", f"{values.iloc[4:6].mean():.6f}")
    assert page.eval_on_selector_all("button.head", shown) == places[:4:-1]
    page.fill("#to", f"{values.iloc[9:11].mean():.6f}")
    assert page.eval_on_selector_all("button.head", shown) == places[9:4:-1]
    assert page.inner_text("#count") == "5 of 12 heads."
    page.click(f"button.head[data-at='{places[7]}']")
    page.wait_for_function(
        f"document.getElementById('chosen').textContent === 'Layer {places[7].replace(',', ', head ')}'"
    )
    page.select_option("#order", "model")
    assert page.locator("#overview button").count() == 12
    assert page.locator("#overview button.out").count() == 7


@needs_browser
def test_the_address_names_the_head_and_the_table_and_dots_lead_to_it(page: Page) -> None:
    def wait(name: str) -> None:
        page.wait_for_function(f"document.getElementById('chosen').textContent === '{name}'")

    page.click("#numbers tbody tr[data-at='4-1'] a")
    wait("Layer 4, head 1")
    assert page.evaluate("location.hash") == "#4-1"
    assert page.get_attribute("#numbers tr.chosen", "data-at") == "4-1"
    page.locator("#numbers tbody tr[data-at='2-0'] td").nth(3).click()
    wait("Layer 2, head 0")
    assert page.locator("#scatter svg").count() == 3
    assert page.locator("#scatter svg >> nth=0 >> circle").count() == 12
    page.locator("#scatter svg").nth(1).locator("circle[data-at='5-0']").dispatch_event("click")
    wait("Layer 5, head 0")
    assert page.locator("#scatter circle.chosen").count() == 3
    page.go_back()
    wait("Layer 2, head 0")
    page.evaluate("location.hash = '#9-9'")
    assert page.inner_text("#chosen") == "Layer 2, head 0"


@needs_browser
def test_the_overlay_fades(page: Page) -> None:
    def opacities() -> list[int]:
        script = """canvas => { const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d");
            copy.drawImage(canvas, 0, 0); const d = copy.getImageData(0, 0, canvas.width, canvas.height).data;
            return [...d].filter((_, i) => i % 4 === 3) }"""
        return page.eval_on_selector("[data-map=example0] canvas", script)

    average = drawn(page, "average")
    assert len(set(opacities())) > 3, "what is looked at most is most opaque"
    for value, opacity in (("0", 0), ("1", 255)):
        page.locator("#opacity").fill(value)
        assert set(opacities()) == {opacity}
    assert drawn(page, "average") == average


@needs_browser
def test_numbers_and_pictures_are_downloaded(page: Page, folder: Path, tmp_path: Path) -> None:
    with page.expect_download() as numbers:
        page.click("#csv")
    assert numbers.value.suggested_filename == "table.csv"
    numbers.value.save_as(tmp_path / "table.csv")
    read, table = pd.read_csv(tmp_path / "table.csv"), pd.read_csv(folder / "table.csv")
    pd.testing.assert_frame_equal(read, table, rtol=1e-5)
    with page.expect_download() as views:
        page.click("#png")
    assert views.value.suggested_filename == "layer0-head0.png"
    views.value.save_as(tmp_path / "views.png")
    image = Image.open(tmp_path / "views.png")
    assert image.size == (4 * 328 - 8, 320)
    parts = [np.asarray(image)[:, 328 * i : 328 * i + 320, :3] for i in range(4)]
    assert all(part.std() > 5 for part in parts), "the average map and three pictures"


@needs_browser
def test_light_and_dark_are_legible(page: Page) -> None:
    def colours() -> list[str]:
        return page.evaluate("(s => [s.color, s.backgroundColor])(getComputedStyle(document.body))")

    light = colours()
    page.emulate_media(color_scheme="dark")
    dark = colours()
    brightness = [[sum(map(int, c[4:-1].split(","))) for c in pair] for pair in (light, dark)]
    assert brightness[0][0] + 400 < brightness[0][1]
    assert brightness[1][0] > brightness[1][1] + 400


def test_the_folder_holds_the_table_and_rebuilds_its_page(folder: Path) -> None:
    table = pd.read_parquet(folder / "table.parquet")
    read = pd.read_csv(folder / "table.csv")
    pd.testing.assert_frame_equal(read, table, check_exact=False)
    assert table.attrs["images"] == 12
    whole = (folder / "report.html").read_bytes()
    (folder / "report.html").unlink()
    cli.main(["report", str(folder)])
    assert (folder / "report.html").read_bytes() == whole

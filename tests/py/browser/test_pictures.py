"""Pictures of the main pages with all sample slides, for the README (`make screenshots`).

Each is looked at for what it has to show before it is taken. Invariant: no test changes the stack that they are of.
"""

import pytest
from playwright.sync_api import expect

from stack import PROJECT, SAMPLES, Stack

FOLDER = PROJECT / "target/screenshots"

# GitHub shows them in a page; a larger file slows that page down.
MOST_BYTES = 300_000


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """A stack with all sample slides."""
    with Stack(tmp_path_factory.mktemp("samples")) as stack:
        for slide in sorted(path for path in SAMPLES.iterdir() if path.is_dir()):
            stack.upload_folder(slide)
        stack.wait_until_answered()
        yield stack


def take(page, name):
    """Takes the picture, with no pointer and no focus in it."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    page.evaluate("document.activeElement?.blur()")
    path = FOLDER / f"{name}.png"
    page.screenshot(path=path, animations="disabled")
    assert path.stat().st_size <= MOST_BYTES, f"{path} has {path.stat().st_size} bytes; expected at most {MOST_BYTES}"


def test_slides(visit, samples):
    page = visit(samples.address)
    expect(page.get_by_test_id("slide-row")).to_have_count(6)
    # Known of every slide.
    expect(page.locator("[aria-label='not known yet']")).to_have_count(0)
    take(page, "slides")


def test_slide(visit, samples):
    # Pictures of cells compress badly: a smaller window.
    page = visit(f"{samples.address}/slide?name=slide-003-mixed-forms", viewport={"width": 1100, "height": 740})
    expect(page.locator("[data-test=tile] img")).to_have_count(20)
    take(page, "slide")


def test_image(visit, samples):
    (cell, *_) = samples.get("/api/slide/cells", slide="slide-003-mixed-forms")["cells"]
    page = visit(f"{samples.address}/image?key={cell['key']}")
    expect(page.locator(".image-stage[aria-busy=false]")).to_be_visible()
    expect(page.get_by_test_id("image-place")).to_have_text("1 of 20")
    take(page, "image")


def test_review(visit, samples):
    page = visit("about:blank", color_scheme="dark")
    page.add_init_script("try { localStorage.setItem('giemsa.reviewer', 'E. Ruiz') } catch {}")
    page.goto(f"{samples.address}/review?slide=slide-003-mixed-forms")
    expect(page.get_by_test_id("review-confirm")).to_have_attribute("aria-disabled", "false")
    take(page, "review")


def test_models_and_health(visit, samples):
    page = visit(f"{samples.address}/models")
    expect(page.get_by_test_id("comparison").locator("td").first).to_be_visible()
    take(page, "models")
    page.goto(f"{samples.address}/health")
    expect(page.get_by_test_id("gauge-answered")).to_have_count(2)
    expect(page.get_by_test_id("days").locator("td").first).to_be_visible()
    take(page, "health")

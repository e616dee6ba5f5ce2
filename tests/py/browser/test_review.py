"""The review queue by keyboard alone, and what it leaves: verdicts beside predictions that nobody changed."""

from playwright.sync_api import expect

from stack import SAMPLES


def open_queue(visit, lab, slide, reviewer="E. Ruiz"):
    """Uploads five images that need a look as a slide of the test's own, and opens its queue as a named reviewer."""
    keys = lab.upload_folder(SAMPLES / "not-a-cell", slide=slide)
    assert len(keys) == 5
    lab.wait_until_answered()
    page = visit(f"{lab.address}/review?slide={slide}")
    expect(page.get_by_test_id("reviewer-name")).to_be_focused()
    page.keyboard.type(reviewer)
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("reviewer")).to_have_text(reviewer)
    wait_for_image(page)
    return page


def wait_for_image(page):
    """Waits until a verdict may be given."""
    expect(page.get_by_test_id("review-confirm")).to_have_attribute("aria-disabled", "false")


def current(page):
    return page.get_by_test_id("review-name").inner_text()


def press(page, key):
    """Presses a key that judges or skips an image, and waits for the next; answers the name of the one it was for."""
    wait_for_image(page)
    name = current(page)
    page.keyboard.press(key)
    expect(page.get_by_test_id("review-name")).not_to_have_text(name)
    return name


def verdict_of(lab, key):
    return lab.get("/api/image", key=key)["verdict"]


def test_every_verdict_can_be_given_and_taken_back_by_keyboard(visit, lab):
    slide = "keyboard-review"
    page = open_queue(visit, lab, slide)
    queue = lab.get("/api/review/queue", slide=slide)["results"]
    before = {record["image"]["key"]: record for record in queue}
    labels = lab.get("/api/settings")["labels"]
    assert len(before) == 5

    expect(page.get_by_test_id("progress")).to_have_text("0 reviewed, 5 to go")
    confirmed = press(page, "Enter")
    other = next(label for label in labels if label != before[f"{slide}/{current(page)}"]["label"])
    corrected = press(page, str(labels.index(other) + 1))
    wait_for_image(page)
    page.keyboard.press("n")
    expect(page.get_by_test_id("review-note-text")).to_be_focused()
    page.keyboard.type("no cell at all <b>")
    page.keyboard.press("Escape")
    noted = press(page, "c")
    skipped = press(page, "s")
    taken_back = current(page)
    wait_for_image(page)
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("progress")).to_have_text("4 reviewed, 1 to go")
    expect(page.locator("[data-test=done-entry][data-state=sent]")).to_have_count(4)
    page.keyboard.press("u")
    expect(page.get_by_test_id("review-name")).to_have_text(taken_back)
    expect(page.get_by_test_id("progress")).to_have_text("3 reviewed, 2 to go")

    verdicts = {name: verdict_of(lab, f"{slide}/{name}") for name in (confirmed, corrected, noted, skipped, taken_back)}
    assert verdicts[confirmed]["action"] == "confirm"
    assert verdicts[confirmed]["label"] == before[f"{slide}/{confirmed}"]["label"]
    assert verdicts[confirmed]["reviewer"] == "E. Ruiz"
    assert (verdicts[corrected]["action"], verdicts[corrected]["label"]) == ("correct", other)
    assert verdicts[noted]["note"] == "no cell at all <b>"
    assert verdicts[skipped] is None and verdicts[taken_back] is None
    undone = lab.get("/api/image", key=f"{slide}/{taken_back}")["reviews"]
    assert sorted(review["action"] for review in undone) == ["confirm", "undo"], "what was said stays readable"
    for key, record in before.items():
        now = next(r for r in lab.get("/api/image", key=key)["results"] if r["stage"] == "prod")
        assert {name: now[name] for name in record} == record, "a verdict never changes a prediction"

    # The slide's figure knows of it at once.
    figure = lab.get("/api/slide", slide=slide)["figure"]
    assert (figure["reviewed"], figure["corrected"]) == (3, 1)


def test_the_next_image_is_loaded_before_it_is_asked_for(visit, lab):
    page = open_queue(visit, lab, "quick-review")
    # What was loaded ahead needs no request when it is shown.
    wanted = []
    page.wait_for_load_state("networkidle")
    page.on("request", lambda request: wanted.append(request.url) if "/quick-review/" in request.url and request.method == "GET" else None)
    shown = page.evaluate("""() => new Promise((resolve) => {
      const name = document.querySelector("[data-test=review-name]");
      const started = performance.now();
      new MutationObserver(() => requestAnimationFrame(() => resolve(performance.now() - started))).observe(name, { childList: true, characterData: true, subtree: true });
      document.querySelector("[data-test=review-skip]").click();
    })""")
    wait_for_image(page)
    print(f"review: the next image after {shown:.0f} ms")
    assert shown < 1_000
    assert not [url for url in wanted if current(page) in url]


def test_reviewed_images_become_a_golden_set(visit, lab):
    page = open_queue(visit, lab, "golden-review")
    name = press(page, "Enter")
    expect(page.locator("[data-test=done-entry][data-state=sent]")).to_have_count(1)
    label = verdict_of(lab, f"golden-review/{name}")["label"]
    page.get_by_test_id("golden-export").click()
    prefix = page.get_by_test_id("golden-prefix")
    expect(prefix).to_contain_text("golden-sets/")
    expect(page.get_by_test_id("golden-result")).to_contain_text(label)
    expect(page.get_by_test_id("golden-command")).to_contain_text(prefix.inner_text())

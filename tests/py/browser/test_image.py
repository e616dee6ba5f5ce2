"""The image view, the models and the state: what is read there is what the API says."""

import re

from playwright.sync_api import expect

from stack import SAMPLES


def test_an_image_is_zoomed_and_all_stages_stand_beside_it(visit, lab):
    key = "slide-002-falciparum/cell-08.png"
    page = visit(f"{lab.address}/image?key={key}")
    expect(page.get_by_test_id("viewer-canvas").locator("canvas").first).to_be_visible()
    results = {record["stage"]: record for record in lab.get("/api/image", key=key)["results"]}
    stages = page.get_by_test_id("panel-stages")
    assert set(results) == {"prod", "dev"}
    for stage, record in results.items():
        expect(stages.locator("th", has_text=stage).first).to_be_visible()
        expect(stages).to_contain_text(f"{100 * record['confidence']:.1f} %")
    answer = page.get_by_test_id("panel-answer")
    expect(answer).to_contain_text(results["prod"]["label"])
    expect(page.get_by_test_id("panel-model")).to_contain_text(results["prod"]["model"]["sha256"][:12])

    zoom = page.get_by_test_id("zoom-level")
    # A small image is enlarged; less is of the moment in which the page had no place for it yet.
    expect(zoom).to_have_text(re.compile(r"^\d{3,} %"))
    fitted = zoom.inner_text()
    page.get_by_test_id("zoom-in").click()
    expect(zoom).not_to_have_text(fitted)
    page.get_by_test_id("zoom-fit").click()
    expect(zoom).to_have_text(fitted)
    # OpenSeadragon draws on a canvas; the picture is on it if its middle is not a background.
    page.wait_for_function("""() => {
      const canvas = document.querySelector("[data-test=viewer-canvas] canvas");
      return canvas && canvas.width > 0 && window.OpenSeadragon;
    }""")


def test_the_next_image_is_reached_by_a_key_without_a_new_page(visit, lab):
    cells = [cell["key"] for cell in lab.get("/api/slide/cells", slide="slide-002-falciparum")["cells"]]
    page = visit(f"{lab.address}/image?key={cells[0]}")
    expect(page.get_by_test_id("image-place")).to_have_text("1 of 30")
    page.evaluate("window.notReloaded = true")
    for key in cells[1:4]:
        page.keyboard.press("j")
        expect(page.get_by_test_id("image-name")).to_have_text(key.split("/")[1])
        expect(page.get_by_test_id("panel-answer")).to_be_visible()
        expect(page.get_by_test_id("image-next")).to_be_enabled()
    assert page.evaluate("window.notReloaded")


def test_an_image_is_withdrawn_with_a_reason_and_comes_back(visit, lab):
    cell = (SAMPLES / "slide-001-healthy/cell-01.png").read_bytes()
    lab.upload({"twice/a.png": cell, "twice/b.png": cell})
    lab.wait_until_answered()
    slide = visit(f"{lab.address}/slide?name=twice")
    expect(slide.get_by_test_id("figure-duplicates")).to_have_text("1")
    slide.get_by_test_id("chip-same-bytes").click()
    expect(slide.get_by_test_id("tile")).to_have_count(2)

    page = visit(f"{lab.address}/image?key=twice/b.png")
    expect(page.get_by_test_id("same-bytes")).to_contain_text("a.png")
    panel = page.get_by_test_id("panel-withdrawal")
    panel.get_by_test_id("withdraw").click()
    expect(panel.get_by_test_id("withdrawal-message")).to_contain_text("Say why")
    panel.get_by_test_id("withdrawal-reason").fill("<b>copied</b> twice")
    panel.get_by_test_id("withdraw").click()
    page.get_by_test_id("reviewer-name").fill("Ada")
    page.get_by_test_id("reviewer-save").click()
    expect(panel.get_by_test_id("withdrawn")).to_contain_text("Withdrawn by Ada")
    expect(panel.get_by_test_id("withdrawn")).to_contain_text("<b>copied</b> twice")
    expect(page.get_by_test_id("answer")).to_have_attribute("data-decision", "withdrawn")

    slide = visit(f"{lab.address}/slide?name=twice")
    expect(slide.get_by_test_id("figure-withdrawn")).to_have_text("1")
    expect(slide.get_by_test_id("figure-cells")).to_have_text("1")
    expect(slide.get_by_test_id("shown-count")).to_have_text("1 of 2 answered images shown · 1 withdrawn, left out")
    slide.get_by_test_id("chip-withdrawn").click()
    expect(slide.get_by_test_id("tile")).to_have_count(1)
    expect(slide.get_by_test_id("tile")).to_contain_text("b.png")

    panel.get_by_test_id("withdrawal-reason").fill("it was another cell")
    panel.get_by_test_id("restore").click()
    expect(panel.get_by_test_id("withdraw")).to_be_visible()
    expect(panel.get_by_test_id("withdrawal-entry")).to_have_count(2)
    assert lab.get("/api/slide", slide="twice")["figure"]["cells"] == 2


def test_models_show_what_serves_and_its_gate_report(visit, lab):
    page = visit(f"{lab.address}/models")
    models = lab.get("/api/models")
    main = page.locator("main")
    for stage in models["stages"]:
        expect(main).to_contain_text(stage["model"]["sha256"][:12])
    expect(page.get_by_test_id("reports")).to_contain_text("Passed")
    expect(page.get_by_test_id("comparison")).to_contain_text("Same label")
    expect(page.get_by_test_id("ledger")).to_contain_text(models["ledger"][0]["model"]["name"])
    page.get_by_test_id("report-open").first.click()
    report = lab.get("/api/models/report", sha256=models["reports"][0]["sha256"])
    expect(page.get_by_test_id("report-title")).to_contain_text(report["model"]["name"])


def test_health_says_what_the_queues_hold(visit, lab):
    page = visit(f"{lab.address}/health")
    for stage in lab.get("/api/health")["stages"]:
        panel = page.get_by_test_id(f"health-{stage['stage']}")
        expect(panel.get_by_test_id("gauge-unanswered")).to_contain_text("0")
        expect(panel.get_by_test_id("gauge-dead")).to_contain_text("0")
        expect(panel.get_by_test_id("health-sentence")).to_have_attribute("data-urgency", "good")
        expect(panel.get_by_test_id("gauge-answered")).to_contain_text(re.compile(r"[1-9]"))
    days = lab.get("/api/summary")["days"]
    assert days
    for day in days:
        expect(page.get_by_test_id("days")).to_contain_text(day["date"])

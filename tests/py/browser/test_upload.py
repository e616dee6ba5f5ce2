"""Uploads as a technician makes them: a folder dropped or chosen, live answers, and what can go wrong on the way."""

import re
import time
import urllib.parse

from playwright.sync_api import expect

from conftest import answered, copy_sample, drop
from pictures import tiff
from stack import SAMPLES, wait_for


def test_a_dropped_folder_is_a_slide_and_its_answers_arrive_without_reload(visit, lab, tmp_path):
    for number in (2, 8, 12):
        copy_sample(tmp_path / "dropped-slide" / f"cell-{number}.png", number, "slide-002-falciparum")
    for number in (1, 2, 3):
        copy_sample(tmp_path / "dropped-slide" / "deeper" / f"cell-{number}.png", number)
    (tmp_path / "dropped-slide" / ".DS_Store").write_bytes(b"hidden")
    page = visit(lab.address)
    page.evaluate("window.notReloaded = true")
    drop(page, tmp_path / "dropped-slide")
    expect(page.get_by_test_id("upload-summary")).to_contain_text("Uploaded 6 of 6 files")
    expect(page.get_by_test_id("upload-panel")).to_contain_text("1 hidden file was left out")
    expect(answered(page, "dropped-slide/deeper")).to_have_text("3 of 3 answered")
    expect(answered(page, re.compile("dropped-slide(?!/)"))).to_have_text("3 of 3 answered")
    row = page.get_by_test_id("slide-row").filter(has=page.get_by_role("link", name="dropped-slide", exact=True))
    expect(row).to_contain_text("Positive")
    figure = lab.get("/api/slide", slide="dropped-slide")["figure"]
    assert (figure["cells"], figure["rejected"]) == (3, 0)
    low, high = figure["parasitemia_interval_percent"]
    cells = [text.strip() for text in row.locator("td").all_inner_texts()]
    assert cells[1] == f"{figure['parasitemia_percent']:.1f} % ({low:.1f}–{high:.1f} %)"
    shown = [figure[name] for name in ("cells", "positives", "needs_review", "outliers", "rejected")] + [0]
    assert cells[2:8] == [str(number) for number in shown]
    assert page.evaluate("window.notReloaded")


def test_a_chosen_folder_is_a_slide(visit, lab, tmp_path):
    copy_sample(tmp_path / "chosen-slide" / "a.png", 4)
    copy_sample(tmp_path / "chosen-slide" / "b.png", 5)
    page = visit(lab.address)
    page.get_by_test_id("folder-input").set_input_files(tmp_path / "chosen-slide")
    expect(answered(page, "chosen-slide")).to_have_text("2 of 2 answered")
    page.get_by_test_id("upload-slide").get_by_role("link", name="chosen-slide").click()
    expect(page).to_have_url(f"{lab.address}/slide?name=chosen-slide")
    expect(page.get_by_test_id("shown-count")).to_have_text("2 of 2 answered images shown")


def test_what_a_script_uploads_appears_in_an_open_list(visit, lab, tmp_path):
    page = visit(lab.address)
    expect(page.get_by_test_id("slide-row").first).to_be_visible()
    page.evaluate("window.notReloaded = true")
    lab.upload({f"script-slide/cell-{number}.png": copy_sample(tmp_path / "cell.png", number).read_bytes() for number in (13, 14)})
    row = page.get_by_test_id("slide-row").filter(has_text="script-slide")
    expect(row.locator("td").nth(2)).to_have_text("2")
    expect(row.locator("td").nth(7)).to_have_text("0")
    assert page.evaluate("window.notReloaded")


def test_loose_files_are_asked_for_their_slide(visit, lab, tmp_path):
    files = [copy_sample(tmp_path / f"loose-{number}.png", number) for number in (6, 7)]
    page = visit(lab.address)
    page.get_by_test_id("file-input").set_input_files(files)
    page.get_by_test_id("slide-name").fill("../elsewhere")
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("question")).to_contain_text("are not names")
    page.get_by_test_id("slide-name").fill("loose-slide")
    page.keyboard.press("Enter")
    expect(answered(page, "loose-slide")).to_have_text("2 of 2 answered")


def test_a_refused_file_is_listed_with_its_reason_and_the_others_go_on(visit, lab, tmp_path):
    folder = tmp_path / "mixed-slide"
    copy_sample(folder / "cell.png", 9)
    (folder / "report.pdf").write_bytes((SAMPLES / "slide-005-trouble/report.pdf").read_bytes())
    page = visit(lab.address)
    drop(page, folder)
    expect(answered(page, "mixed-slide")).to_have_text("1 of 1 answered")
    refused = page.get_by_test_id("upload-file").and_(page.locator("[data-state=refused]"))
    expect(refused).to_contain_text("mixed-slide/report.pdf")
    link = lab.post("/api/uploads", {"files": [{"name": "mixed-slide/report.pdf", "size_bytes": 329, "content_type": "application/pdf"}]})
    expect(refused).to_contain_text(link["uploads"][0]["problem"]["detail"])
    assert [image["key"] for image in lab.get("/api/slide/cells", slide="mixed-slide")["cells"]] == ["mixed-slide/cell.png"]


def test_an_image_that_is_there_is_not_replaced_unasked(visit, lab, tmp_path):
    image = copy_sample(tmp_path / "replaced-slide" / "cell.png", 10)
    lab.upload({"replaced-slide/cell.png": image.read_bytes()})
    lab.wait_until_answered()
    before = lab.get("/api/image", key="replaced-slide/cell.png")["results"][0]["image"]
    page = visit(lab.address)
    copy_sample(image, 11)
    drop(page, image.parent)
    expect(page.get_by_test_id("upload-replace")).to_contain_text("1 image is there already")
    assert lab.get("/api/image", key="replaced-slide/cell.png")["results"][0]["image"] == before
    page.get_by_test_id("replace-yes").click()
    expect(answered(page, "replaced-slide")).to_have_text("1 of 1 answered")
    after = wait_for("the new image's answer", lambda: next(
        (record["image"] for record in lab.get("/api/image", key="replaced-slide/cell.png")["results"]
         if record["stage"] == "prod" and record["image"]["etag"] != before["etag"]), None))
    assert after["etag"] != before["etag"]


def test_a_large_file_goes_up_in_parts_and_is_shown_in_tiles(visit, lab, tmp_path):
    folder = tmp_path / "field-slide"
    folder.mkdir()
    (folder / "field.tif").write_bytes(tiff(2200, 1300))
    page = visit(lab.address)
    sent, tiles = [], []
    page.on("request", lambda request: sent.append(request.url) if request.method == "PUT" else None)
    page.on("response", lambda response: tiles.append((response.status, response.url)) if "/api/image/tile" in response.url else None)
    drop(page, folder)
    expect(answered(page, "field-slide")).to_have_text("1 of 1 answered")
    numbers = {urllib.parse.parse_qs(urllib.parse.urlsplit(url).query)["partNumber"][0] for url in sent}
    assert numbers == {"1", "2"}
    page.goto(f"{lab.address}/image?key=field-slide/field.tif")
    expect(page.get_by_test_id("viewer-canvas").locator("canvas").first).to_be_visible()
    wait_for("tiles", lambda: page.wait_for_timeout(20) or len(tiles) > 1)
    fitted, few = page.get_by_test_id("zoom-level").inner_text(), len(tiles)
    for _ in range(3):
        page.get_by_test_id("zoom-in").click()
    expect(page.get_by_test_id("zoom-level")).not_to_have_text(fitted)
    wait_for("tiles of a higher level", lambda: page.wait_for_timeout(20) or len(tiles) > few)
    assert {status for status, _ in tiles} == {200}


def test_an_expired_link_is_renewed_and_the_upload_succeeds(start_stack, visit, tmp_path):
    stack = start_stack(GIEMSA_LINK_SECONDS="1")
    copy_sample(tmp_path / "late-slide" / "cell.png", 12)
    page = visit(stack.address)
    page.watch.allow("403")
    held, answers = [], []

    def hold_the_first(route):
        if held:
            route.continue_()
        else:
            held.append(route)

    page.route(f"{stack.s3}/**", lambda route: hold_the_first(route) if route.request.method == "PUT" else route.continue_())
    page.on("response", lambda response: answers.append(response.status) if response.request.method == "PUT" else None)
    drop(page, tmp_path / "late-slide")
    wait_for("the upload to start", lambda: page.wait_for_timeout(20) or held)
    query = urllib.parse.parse_qs(urllib.parse.urlsplit(held[0].request.url).query)
    assert query["X-Amz-Expires"] == ["1"], "the link lives as long as it was set to"
    # No luck: the link names its end, and the signature is of whole seconds.
    signed = time.strptime(query["X-Amz-Date"][0], "%Y%m%dT%H%M%SZ")
    expires = time.mktime(signed) - time.timezone + 2
    wait_for("the link to expire", lambda: page.wait_for_timeout(50) or time.time() > expires)
    held[0].continue_()
    expect(answered(page, "late-slide")).to_have_text("1 of 1 answered")
    assert answers == [403, 200]


def test_nothing_is_lost_when_the_server_is_killed_while_uploads_run(start_stack, visit, tmp_path):
    stack = start_stack()
    for number in range(1, 13):
        copy_sample(tmp_path / "long-slide" / f"cell-{number:02}.png", number)
    page = visit(stack.address)
    page.watch.allow("ERR_CONNECTION_REFUSED|ERR_CONNECTION_RESET|ERR_EMPTY_RESPONSE|ERR_SOCKET_NOT_CONNECTED")
    passed, held = [], []

    def pass_three(route):
        if len(passed) < 3 or stack.process.poll() is not None:
            passed.append(route)
            route.continue_()
        else:
            held.append(route)

    page.route(f"{stack.s3}/**", pass_three)
    drop(page, tmp_path / "long-slide")
    wait_for("three uploads, and more on their way", lambda: page.wait_for_timeout(20) or (len(passed) == 3 and held))
    expect(page.get_by_test_id("upload-summary")).to_contain_text("3 of 12 files")
    stack.kill()
    for route in held:
        route.continue_()
    expect(page.get_by_test_id("banner")).to_contain_text("The server does not answer")
    expect(page.get_by_test_id("upload-summary")).to_contain_text("Waits for the server")
    page.unroute_all(behavior="wait")
    stack.start()
    expect(answered(page, "long-slide")).to_have_text("12 of 12 answered")
    expect(page.get_by_test_id("banner")).not_to_contain_text("does not answer")
    assert len(stack.get("/api/slide/cells", slide="long-slide")["cells"]) == 12
    expect(page.get_by_test_id("slide-row").filter(has_text="long-slide").locator("td").nth(2)).to_have_text("12")

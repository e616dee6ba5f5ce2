"""Every page: for readers of all kinds, on a laptop and a tablet, in light and dark, and with hostile names."""

from urllib.parse import quote

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from conftest import LAPTOP, TABLET, answered, drop
from stack import SAMPLES

CELL = "slide-002-falciparum/cell-08.png"
PAGES = {
    "slides": ("/", "[data-test=slide-row] >> nth=1"),
    "slide": ("/slide?name=slide-002-falciparum", "[data-test=tile] img >> nth=10"),
    "image": (f"/image?key={CELL}", "[data-test=image-next]:not([disabled]), [data-test=image-previous]:not([disabled])"),
    "review": ("/review?slide=not-a-cell", "[data-test=review-confirm][aria-disabled=false]"),
    "models": ("/models", "[data-test=comparison] td"),
    "health": ("/health", "main:has([data-test=gauge-answered]) [data-test=days] td >> nth=0"),
    "nowhere": ("/slide?name=no-such-slide", "main .state"),
}
OVERFLOW = """() => {
  const root = document.documentElement;
  const wide = [...document.querySelectorAll("body *")].filter((one) => one.getBoundingClientRect().right > root.clientWidth + 1)
    .map((one) => `${one.tagName}.${one.className}`).slice(0, 5);
  return { scroll: root.scrollWidth, client: root.clientWidth, wide };
}"""

# What Tab has to reach, each as words that stay the same when a live view draws it anew.
NAME = """(one) => [one.tagName, one.dataset.test ?? "", one.id, one.getAttribute("href") ?? "", one.textContent.trim().slice(0, 40)].join("|")"""
REACHABLE = f"""() => {{
  const name = {NAME};
  return [...document.querySelectorAll("a[href], button, input, select, textarea, summary, [tabindex]")]
    .filter((one) => one.tabIndex >= 0 && !one.disabled && one.checkVisibility({{ visibilityProperty: true }}) && !one.closest("[inert]"))
    .map(name);
}}"""
FOCUSED = f"""() => {{
  const one = document.activeElement;
  if (!one || one === document.body) return null;
  const looks = (node) => {{
    const style = getComputedStyle(node);
    return (style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0) || style.boxShadow !== "none";
  }};
  const box = one.getBoundingClientRect();
  const shown = looks(one) || [...one.children].some(looks) || looks(one.parentElement);
  return {{ name: ({NAME})(one), isShown: shown, isInView: box.bottom > 0 && box.top < innerHeight }};
}}"""


def query(**parameters):
    """Parameters of an address, every character of them escaped."""
    return "&".join(f"{name}={quote(value, safe='')}" for name, value in parameters.items())


def open_page(visit, lab, name, **options):
    """Opens a page of `PAGES` with a reviewer who is known, and waits until it shows what it is for."""
    path, ready = PAGES[name]
    page = visit("about:blank", **options)
    page.add_init_script("try { localStorage.setItem('giemsa.reviewer', 'E. Ruiz') } catch {}")
    if name == "nowhere":
        page.watch.allow("404")
    page.goto(lab.address + path)
    page.locator(ready).first.wait_for()
    return page


def serious(page):
    """What axe finds serious or critical."""
    found = Axe().run(page).response["violations"]
    return [
        f"{one['id']} ({one['impact']}): {one['help']}: {[node['html'][:160] for node in one['nodes'][:3]]}"
        for one in found if one["impact"] in ("serious", "critical")
    ]


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_readable_on_every_screen_and_by_a_screen_reader(visit, lab, name):
    page = open_page(visit, lab, name, reduced_motion="reduce")
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert not serious(page), f"{name} in {scheme}"
    for size in (LAPTOP, TABLET):
        page.set_viewport_size(size)
        page.evaluate("() => new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)))")
        widths = page.evaluate(OVERFLOW)
        assert widths["scroll"] <= widths["client"], f"{name} at {size['width']}: {widths}"
    page.set_viewport_size(LAPTOP)
    everything_is_reached_by_tab(page)


def everything_is_reached_by_tab(page):
    """Everything that can be used is reached by Tab, in view, and shows that it has the focus."""
    wanted = set(page.evaluate(REACHABLE))
    reached, hidden = set(), set()
    page.evaluate("() => { document.activeElement?.blur(); scrollTo(0, 0); }")
    for _ in range(3 * len(wanted) + 10):
        page.keyboard.press("Tab")
        focused = page.evaluate(FOCUSED)
        if focused is None:
            continue
        if not (focused["isShown"] and focused["isInView"]):
            hidden.add(focused["name"])
        reached.add(focused["name"])
        if wanted <= reached:
            break
    assert not wanted - reached, f"Tab does not reach {wanted - reached}"
    assert not hidden, f"the focus is not seen on {hidden}"


def test_the_upload_panel_is_readable_by_a_screen_reader(visit, lab, tmp_path):
    folder = tmp_path / "shown-slide"
    folder.mkdir()
    for name in ("cell-01.png", "report.pdf"):
        (folder / name).write_bytes((SAMPLES / "slide-005-trouble" / name).read_bytes())
    page = visit(lab.address, reduced_motion="reduce")
    drop(page, folder)
    expect(answered(page, "shown-slide")).to_have_text("1 of 1 answered")
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert not serious(page), scheme
    page.set_viewport_size(TABLET)
    widths = page.evaluate(OVERFLOW)
    assert widths["scroll"] <= widths["client"], widths


# A slash divides folders, so what ends an element is the name of a file in a folder of the rest.
HOSTILE = [
    "<img src=x onerror=alert(1)>.png",
    "=cmd().png",
    "';alert(3);'.png",
    "${alert(4)}{{alert(5)}}.png",
    "\"><script>alert(2)<",
]
HOSTILE_SLIDE = "evil \"><svg onload=alert(6)> & <b>slide<"


def test_scripts_in_file_names_are_names(visit, lab, tmp_path):
    folder = tmp_path / HOSTILE_SLIDE
    cat = (SAMPLES / "not-a-cell/cat.png").read_bytes()
    for name in HOSTILE:
        path = folder / name / "script>.png" if name.endswith("<") else folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(cat)
    page = visit(lab.address)
    drop(page, folder)
    expect(page.get_by_test_id("upload-summary")).to_contain_text("Uploaded 5 of 5 files")
    expect(page.get_by_test_id("upload-slide")).to_have_count(2)
    expect(page.get_by_test_id("upload-slide").get_by_text("4 of 4 answered")).to_be_visible()
    expect(page.get_by_test_id("upload-slide").get_by_text("1 of 1 answered")).to_be_visible()
    lab.wait_until_answered()
    page.get_by_role("link", name=HOSTILE_SLIDE, exact=True).first.click()
    expect(page.locator("h1")).to_have_text(HOSTILE_SLIDE)
    expect(page.get_by_test_id("tile")).to_have_count(4)
    for name in HOSTILE[:4]:
        page.goto(f"{lab.address}/slide?{query(name=HOSTILE_SLIDE)}")
        page.get_by_test_id("tile").filter(has_text=name).click()
        expect(page.get_by_test_id("image-name")).to_have_text(name)
        expect(page.get_by_test_id("panel-answer")).to_be_visible()
        expect(page.get_by_test_id("raw")).to_be_attached()
    inner = f"{HOSTILE_SLIDE}/{HOSTILE[4]}"
    page.goto(f"{lab.address}/image?{query(key=inner + '/script>.png')}")
    expect(page.get_by_test_id("back-to-slide")).to_have_text(inner)

    # So are a reviewer's name and a note.
    page.goto(f"{lab.address}/review?{query(slide=inner)}")
    expect(page.get_by_test_id("reviewer-name")).to_be_focused()
    page.keyboard.type("<script>alert(7)</script>")
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("review-confirm")).to_have_attribute("aria-disabled", "false")
    page.keyboard.press("n")
    expect(page.get_by_test_id("review-note-text")).to_be_focused()
    page.keyboard.type("<img src=y onerror=alert(8)>")
    page.keyboard.press("Escape")
    page.keyboard.press("Enter")
    expect(page.locator("[data-test=done-entry][data-state=sent]")).to_have_count(1)
    page.goto(f"{lab.address}/image?{query(key=inner + '/script>.png')}")
    expect(page.locator("main")).to_contain_text("<img src=y onerror=alert(8)>")
    expect(page.locator("main")).to_contain_text("<script>alert(7)</script>")
    assert page.evaluate("document.querySelectorAll('main script, main b, [onerror], [onload]').length") == 0


def test_the_page_refuses_what_its_policy_forbids(visit, lab):
    page = visit(lab.address)
    page.watch.allow("Content Security Policy|Content-Security-Policy|violates")
    broken = page.evaluate("""async () => {
      const broken = [];
      document.addEventListener("securitypolicyviolation", (event) => broken.push(event.effectiveDirective));
      const script = document.createElement("script");
      script.textContent = "window.ran = true";
      document.body.append(script);
      document.body.insertAdjacentHTML("beforeend", "<p onclick='1' style='color: red'></p>");
      await fetch("http://127.0.0.1:9/").catch(() => {});
      await new Promise((resolve) => setTimeout(resolve, 50));
      return [...new Set(broken)].sort();
    }""")
    assert broken == ["connect-src", "script-src-attr", "script-src-elem", "style-src-attr"]
    assert page.evaluate("window.ran") is None

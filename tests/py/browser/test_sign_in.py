"""Signing in at an issuer of OpenID Connect: nothing is shown without, nothing is kept after, nothing is lost between."""

import json
import re
import urllib.error
import urllib.request

import pytest
from playwright.sync_api import expect

from issuer_process import Issuer
from pictures import tiff
from stack import PATIENCE_SECONDS, SAMPLES, Stack, get, wait_for

SLIDE = "signed-slide"
LARGE = f"{SLIDE}/large.tif"

# The issuer's own sign-in page asks for a font of another machine, which these tests do not let it have.
FONTS = "https://fonts.googleapis.com/**"

# What a token or a part of one begins with: `{"` in base64.
TOKEN = re.compile(r"eyJ[\w-]{8}")


@pytest.fixture(scope="module")
def issuer():
    process = Issuer()
    yield process
    process.end()


@pytest.fixture(scope="module")
def closed(tmp_path_factory, issuer, browser):
    """A stack that answers only to those who have signed in at `issuer`, with a slide."""
    arguments = ["--oidc-issuer", issuer.address, "--oidc-client-id", "giemsa"]
    with Stack(tmp_path_factory.mktemp("closed"), arguments) as stack:
        issuer.set("page", stack.address)
        page = browser.new_page()
        page.route(FONTS, lambda route: route.abort())
        page.goto(stack.address)
        sign_in_at(page, issuer, "Porter")
        page.get_by_test_id("person").wait_for()
        stack.token = token_of(page)
        page.close()
        stack.upload_folder(SAMPLES / "not-a-cell", slide=SLIDE)
        assert stack.upload({LARGE: tiff(1600, 1200)}) == [LARGE]
        stack.wait_until_answered()
        yield stack


@pytest.fixture
def enter(visit, issuer, closed):
    """Opens an address of the page without a session, signs in as somebody, and waits for the page."""

    def open_page(path, person, lifetime=3600, refresh="no"):
        issuer.set("lifetime", lifetime)
        issuer.set("refresh", refresh)
        page = visit("about:blank")
        page.watch.allow("fonts.googleapis.com|net::ERR_FAILED|status of 401")
        page.context.route(FONTS, lambda route: route.abort())
        page.goto(f"{closed.address}{path}")
        sign_in_at(page, issuer, person)
        expect(page.get_by_test_id("person")).to_have_text(f"{person} of the lab")
        return page

    return open_page


def sign_in_at(page, issuer, person):
    """Fills in the issuer's own form."""
    page.wait_for_url(f"{issuer.address}/interaction/**")
    page.get_by_placeholder("Enter any login").fill(person)
    page.get_by_placeholder("and password").fill("any")
    page.get_by_role("button", name="Sign-in").click()


def sign_in_again(page, issuer, person):
    """Signs in beside a page whose session has ended, in a tab that is gone afterwards."""
    page.context.clear_cookies()
    with page.context.expect_page() as opened:
        page.get_by_test_id("sign-in-again").click()
    tab = opened.value
    sign_in_at(tab, issuer, person)
    wait_for("the tab to close", lambda: page.wait_for_timeout(20) or tab.is_closed())


def token_of(page):
    """The token that the page sends; only a script of the page itself can see it."""
    return page.evaluate("async () => (await import('/session.js')).session.token()")


def kept_by_the_browser(page):
    """All that the browser keeps for the page."""
    stores = page.evaluate("""async () => JSON.stringify([
      Object.entries(localStorage), Object.entries(sessionStorage), document.cookie,
      await indexedDB.databases(), await caches.keys(), history.state, location.href,
    ])""")
    return stores + json.dumps(page.context.cookies(page.url))


def verdict_of(closed, key):
    return closed.get("/api/image", key=key)["verdict"]


def test_nothing_is_answered_without_a_token_of_the_issuer(closed, issuer):
    for token in [None, "eyJhbGciOiJub25lIn0.e30.", "nonsense"]:
        for path in ["/api/settings", "/api/image/tile?key=a&level=0&column=0&row=0", "/api/openapi.json", "/api/nothing"]:
            with pytest.raises(urllib.error.HTTPError) as refused:
                get(closed.address, path, token)
            assert refused.value.code == 401, path
            assert refused.value.headers["Content-Type"] == "application/problem+json"
            assert refused.value.headers["WWW-Authenticate"] == "Bearer"
            assert json.load(refused.value)["status"] == 401
    # What signs in needs no token, and the page says nothing by itself.
    assert set(get(closed.address, "/sign-in")) == {"issuer", "client_id"}
    with urllib.request.urlopen(closed.address, timeout=PATIENCE_SECONDS) as page:
        policy = page.headers["Content-Security-Policy"]
    widened = [rule for rule in policy.split("; ") if issuer.address in rule]
    assert len(widened) == 1 and widened[0].startswith("connect-src 'self' "), policy
    assert "form-action 'none'" in policy and "frame-ancestors 'none'" in policy


def test_a_link_leads_through_the_sign_in_to_its_view_and_no_token_is_kept(enter, closed):
    page = enter(f"/slide?name={SLIDE}&order=suspicion#cells", "Ada")
    # The same view, with its parameters; the code is out of the address.
    assert page.url == f"{closed.address}/slide?name={SLIDE}&order=suspicion#cells"
    token = token_of(page)
    assert TOKEN.match(token)
    kept = kept_by_the_browser(page)
    assert token not in kept and not TOKEN.search(kept), kept

    # Thumbnails, and tiles of an image that no browser shows by itself.
    expect(page.get_by_test_id("tile").first.locator("img")).to_be_visible()
    tiles = []
    page.on("request", lambda request: "/api/image/tile" in request.url and tiles.append(request))
    page.goto(f"{closed.address}/image?key={LARGE}")
    page.wait_for_function("""() => {
      const canvas = document.querySelector("[data-test=viewer-canvas] canvas");
      if (!canvas?.width || !window.OpenSeadragon) return false;
      const middle = canvas.getContext("2d").getImageData(canvas.width / 2, canvas.height / 2, 1, 1).data;
      return Math.abs(middle[0] - 200) < 12 && middle[3] === 255;
    }""")
    for _ in range(3):
        page.get_by_test_id("zoom-in").click()
    wait_for("tiles of a larger picture", lambda: page.wait_for_timeout(20) or len(tiles) > 2)
    assert all(tile.headers.get("authorization", "").startswith("Bearer ") for tile in tiles)


def test_a_verdict_carries_the_name_of_the_token(enter, closed):
    page = enter(f"/review?slide={SLIDE}", "Grace")
    closed.token = token_of(page)
    # Nobody is asked for a name that is known.
    expect(page.get_by_test_id("reviewer")).to_have_text("Grace of the lab")
    expect(page.get_by_test_id("reviewer-change")).to_have_count(0)
    expect(page.get_by_test_id("review-confirm")).to_have_attribute("aria-disabled", "false")
    name = page.get_by_test_id("review-name").inner_text()
    page.keyboard.press("c")
    expect(page.locator("[data-test=done-entry][data-state=sent]")).to_have_count(1)
    assert verdict_of(closed, f"{SLIDE}/{name}")["reviewer"] == "Grace of the lab"
    # And whatever a request says of itself, it is Grace's.
    record = closed.get("/api/review/queue", slide=SLIDE)["results"][0]
    body = {"key": record["image"]["key"], "stage": "prod", "result_id": record["result_id"], "action": "confirm"}
    closed.post("/api/reviews", {**body, "reviewer": "Somebody Else"})
    assert verdict_of(closed, body["key"])["reviewer"] == "Grace of the lab"
    closed.post("/api/reviews/undo", {"key": body["key"], "reviewer": "Somebody Else"})

    # What another could not send from this browser is not sent in her name: it waits for whoever said it.
    stored = "giemsa.unsent-reviews"
    own = closed.get("/api/settings")["reviewer_id"]
    assert own.endswith("|Grace"), own
    # Another Grace of the lab is another person.
    for by, is_sent in [(own.replace("|Grace", "|Grace-2"), False), (own, True)]:
        left = json.dumps([{"body": {**body, "reviewer": "Grace of the lab"}, "by": by}])
        page.evaluate("([name, text]) => localStorage.setItem(name, text)", [stored, left])
        page.goto(f"{closed.address}/review?slide={SLIDE}")
        expect(page.locator("[data-test=done-entry][data-state=sent]")).to_have_count(1 if is_sent else 0)
        expect(page.get_by_test_id("review-confirm")).to_have_attribute("aria-disabled", "false")
        assert (verdict_of(closed, body["key"]) is not None) == is_sent
        assert page.evaluate("(name) => localStorage.getItem(name)", stored) == (None if is_sent else left)


def test_a_session_that_ends_while_somebody_types_loses_nothing(enter, issuer, closed):
    page = enter(f"/review?slide={SLIDE}", "Ruth", lifetime=3)
    expect(page.get_by_test_id("review-confirm")).to_have_attribute("aria-disabled", "false")
    name = page.get_by_test_id("review-name").inner_text()
    page.keyboard.press("n")
    page.get_by_test_id("review-note-text").type("half a sent")
    again = page.get_by_test_id("sign-in-again")
    expect(again).to_be_visible()
    # Typing goes on, and what is sent waits.
    expect(page.get_by_test_id("review-note-text")).to_be_focused()
    page.keyboard.type("ence")
    page.keyboard.press("Escape")
    page.keyboard.press("c")
    expect(page.locator("[data-test=done-entry][data-state=unsent]")).to_have_count(1)
    page.keyboard.press("n")
    page.keyboard.type("the next note")
    # Somebody else is not her, and nothing of hers is sent in his name.
    issuer.set("lifetime", 3600)
    sign_in_again(page, issuer, "Boris")
    expect(page.get_by_test_id("banner")).to_contain_text("Sign in as Ruth of the lab")
    expect(page.locator("[data-test=done-entry][data-state=unsent]")).to_have_count(1)
    sign_in_again(page, issuer, "Ruth")
    expect(page.locator("[data-test=done-entry][data-state=sent]")).to_have_count(1)
    expect(again).to_have_count(0)
    expect(page.get_by_test_id("review-note-text")).to_have_value("the next note")
    closed.token = token_of(page)
    verdict = verdict_of(closed, f"{SLIDE}/{name}")
    assert (verdict["note"], verdict["reviewer"]) == ("half a sentence", "Ruth of the lab")
    assert not TOKEN.search(kept_by_the_browser(page))


def test_a_refresh_token_renews_the_session_unseen(enter, issuer, closed):
    page = enter("/models", "Vera", lifetime=1, refresh="yes")
    first = token_of(page)
    wait_for("a new token", lambda: page.wait_for_timeout(50) or token_of(page) != first)
    page.goto(f"{closed.address}/health")
    expect(page.get_by_test_id("person")).to_have_text("Vera of the lab")
    assert not TOKEN.search(kept_by_the_browser(page))


def test_signing_out_ends_the_session_here_and_at_the_issuer(enter, issuer, closed):
    page = enter(f"/slide?name={SLIDE}", "Ida", refresh="yes")
    page.get_by_test_id("tile").first.click()
    expect(page.get_by_test_id("image-name")).to_be_visible()
    other = page.context.new_page()
    other.goto(f"{closed.address}/models")
    # The issuer knows her: nobody is asked.
    expect(other.get_by_test_id("person")).to_have_text("Ida of the lab")

    # A page behind another draws, and is clicked, once a second.
    page.bring_to_front()
    page.get_by_test_id("sign-out").click()
    page.get_by_role("button", name="Yes, sign me out").click()
    expect(page.get_by_text("You are signed out")).to_be_visible()
    assert page.url == f"{closed.address}/"
    expect(other.get_by_text("You are signed out")).to_be_visible()
    # Back, past the issuer's question, to what was shown before: it is not there any more.
    while not page.url.startswith(f"{closed.address}/slide?"):
        page.go_back()
        assert page.url != "about:blank"
        if page.url.startswith(closed.address):
            expect(page.get_by_text("You are signed out")).to_be_visible()
            assert SLIDE not in page.inner_text("body") and page.locator("img").count() == 1
    page.get_by_role("button", name="Sign in").click()
    # At the issuer too: it asks who is there, and leads to what was asked for.
    sign_in_at(page, issuer, "Judy")
    expect(page.get_by_test_id("person")).to_have_text("Judy of the lab")
    assert page.url == f"{closed.address}/slide?name={SLIDE}"


def test_whoever_is_refused_sees_why_and_can_go_on(enter, issuer, closed):
    page = enter("/models", "Mary")
    # Known to the issuer and refused by the server: nothing is asked again and again.
    refusal = {"status": 401, "title": "Unauthorized", "detail": "this token is for another page"}
    page.context.route("**/api/settings", lambda route: route.fulfill(status=401, json=refusal))
    page.reload()
    expect(page.get_by_test_id("state-error")).to_contain_text("this token is for another page")
    page.get_by_role("button", name="Sign out").click()
    page.get_by_role("button", name="Yes, sign me out").click()
    page.context.unroute("**/api/settings")
    page.get_by_role("button", name="Sign in").click()
    # And who says no at the issuer is not sent there again by itself.
    page.get_by_role("link", name="Cancel").click()
    expect(page.get_by_test_id("state-error")).to_contain_text("access_denied")
    assert page.url == f"{closed.address}/"
    page.get_by_role("button", name="Try again").click()
    sign_in_at(page, issuer, "Mary")
    expect(page.get_by_test_id("person")).to_have_text("Mary of the lab")


def test_a_program_without_the_library_says_what_to_do(visit, closed):
    page = visit("about:blank")
    page.watch.allow("status of 404")
    page.context.route("**/oidc-client-ts.min.js", lambda route: route.fulfill(status=404))
    page.goto(f"{closed.address}/models")
    expect(page.get_by_test_id("state-error")).to_contain_text("make assets")


def test_cognito_is_signed_out_by_its_own_names(visit, closed):
    page = visit("about:blank")
    # A text names no icon, so that the browser asks for one where none is.
    page.watch.allow("status of 404")
    page.goto(f"{closed.address}/licenses.txt")
    assert "jwt-decode" in page.inner_text("body")
    ends = page.evaluate("""async () => {
      const { endOfSession } = await import("/session.js");
      const pool = { issuer: "https://cognito-idp.eu-central-1.amazonaws.com/eu-central-1_AbC", authorization_endpoint: "https://lab.auth.eu-central-1.amazoncognito.com/oauth2/authorize" };
      return [
        endOfSession(pool, "page", "https://lab.example/"),
        endOfSession({ issuer: "https://id.example", end_session_endpoint: "https://id.example/out?a=b" }, "page", "https://lab.example/"),
        endOfSession({ issuer: "https://id.example" }, "page", "https://lab.example/"),
      ];
    }""")
    back = "https%3A%2F%2Flab.example%2F"
    assert ends == [
        f"https://lab.auth.eu-central-1.amazoncognito.com/logout?client_id=page&logout_uri={back}",
        f"https://id.example/out?a=b&client_id=page&post_logout_redirect_uri={back}",
        None,
    ]

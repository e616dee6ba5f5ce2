"""What the browser tests share: one browser, one stack with sample slides, and pages that are watched.

A test gets its page by `visit`. Invariant: a script that runs from a file's name, an error in the console, a broken rule of
the content security policy and a request that leaves this machine fail the test in which they happen.
"""

import os
import re
import urllib.parse
from pathlib import Path

import pytest
from playwright.sync_api import Error, expect, sync_playwright

from stack import PATIENCE_SECONDS, SAMPLES, Stack

CHROMIUM = os.environ.get("GIEMSA_TEST_CHROMIUM", "/usr/bin/chromium")
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]
LAPTOP = {"width": 1366, "height": 768}
TABLET = {"width": 820, "height": 1180}

# Generous, because builds may run beside the tests.
expect.set_options(timeout=1000 * PATIENCE_SECONDS)

# Slides that every test may read and none may change.
SLIDES = ["slide-002-falciparum", "not-a-cell"]


class Watch:
    """Collects what must not happen in the pages of a browser context."""

    def __init__(self, context):
        self.complaints = []
        self.allowed = []
        context.on("console", lambda message: message.type == "error" and self.complain(f"console: {message.text}"))
        context.on("weberror", lambda error: self.complain(f"script: {error.error}"))
        context.on("dialog", self._dialog)
        context.on("request", self._request)

    def allow(self, pattern):
        """Expects complaints that match, e.g. of a server that a test has stopped."""
        self.allowed.append(re.compile(pattern))

    def complain(self, words):
        self.complaints.append(words)

    def verify(self):
        left = [words for words in self.complaints if not any(rule.search(words) for rule in self.allowed)]
        assert not left, "\n".join(left)

    def _dialog(self, dialog):
        self.complain(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _request(self, request):
        url = urllib.parse.urlsplit(request.url)
        if url.scheme not in ("blob", "data") and url.hostname != "127.0.0.1":
            self.complain(f"request: {request.url}")


@pytest.fixture(scope="session")
def browser():
    with sync_playwright() as playwright:
        playwright.selectors.set_test_id_attribute("data-test")
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def lab(tmp_path_factory):
    """A stack with answered sample slides, shared by all tests that break nothing."""
    with Stack(tmp_path_factory.mktemp("lab")) as stack:
        for slide in SLIDES:
            assert stack.upload_folder(SAMPLES / slide)
        stack.wait_until_answered()
        yield stack


@pytest.fixture
def start_stack(tmp_path):
    """Starts a stack of the test's own; `settings` are environment variables. Named before `visit`, it ends after its pages."""
    stacks = []

    def start(**settings):
        stacks.append(Stack(tmp_path / f"stack-{len(stacks)}", **settings))
        return stacks[-1]

    yield start
    for stack in stacks:
        stack.__exit__()


@pytest.fixture
def visit(browser):
    """Opens an address in a browser context of its own, as another reader would; `page.watch` watches it."""
    opened = []

    def open_page(address, **options):
        context = browser.new_context(**{"viewport": LAPTOP, "locale": "en-GB", "timezone_id": "UTC", **options})
        page = context.new_page()
        page.watch = Watch(context)
        opened.append((context, page.watch))
        page.set_default_timeout(1000 * PATIENCE_SECONDS)
        page.goto(address)
        return page

    yield open_page
    for context, watch in opened:
        try:
            context.close()
        except Error:
            pass
        watch.verify()


def drop(page, *paths):
    """Drops files and folders onto the page, as a file manager does, as soon as it takes them."""
    page.get_by_test_id("upload-button").wait_for()
    client = page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}

    def move(kind):
        client.send("Input.dispatchDragEvent", {"type": kind, "x": 600, "y": 400, "data": data})

    move("dragEnter")
    expect(page.get_by_test_id("drop-overlay")).to_be_visible()
    # The browser drops only where the page's answer to a move has arrived; no hand is quicker than that.
    for _ in range(3):
        move("dragOver")
        page.wait_for_timeout(20)
    move("drop")
    client.detach()


def answered(page, slide):
    """What the upload panel says of a slide's answers."""
    return page.get_by_test_id("upload-slide").filter(has_text=slide).get_by_test_id("answered")


def copy_sample(target: Path, number=1, slide="slide-001-healthy"):
    """Copies a sample cell; the folder is made."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes((SAMPLES / slide / f"cell-{number:02}.png").read_bytes())
    return target

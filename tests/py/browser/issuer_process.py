"""The issuer of OpenID Connect of these tests, `issuer/issuer.mjs`, as a process.

It never guesses a port. Invariant: it ends with this process, by its standard input.
"""

import os
import shutil
import subprocess
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

from stack import PATIENCE_SECONDS

PROGRAM = Path(__file__).with_name("issuer") / "issuer.mjs"


def folder():
    """Where `make test` has put the issuer's software; without it, or Node.js, the test is skipped, which fails in CI."""
    found = os.environ.get("GIEMSA_TEST_ISSUER")
    missing = None
    if not found:
        missing = "GIEMSA_TEST_ISSUER is not set; expected a folder with tests/py/browser/issuer installed (make test, needs npm)"
    elif not shutil.which("node"):
        missing = "node is not on the path"
    if missing:
        assert os.environ.get("CI") != "true", missing
        pytest.skip(f"*** signing in is not tested: {missing} ***")
    return found


class Issuer:
    """A running issuer at `address`; its client is `giemsa`."""

    def __init__(self):
        self.process = subprocess.Popen(
            ["node", PROGRAM, folder()], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.address = self.process.stdout.readline().strip()
        assert self.address, f"node {PROGRAM} ended with {self.process.wait()}"

    def set(self, name, value):
        """Changes a setting: `page`, `lifetime` or `refresh`."""
        url = f"{self.address}/test/{name}/{urllib.parse.quote(str(value), safe='')}"
        urllib.request.urlopen(urllib.request.Request(url, method="POST"), timeout=PATIENCE_SECONDS).close()

    def end(self):
        self.process.stdin.close()
        self.process.wait()

"""`giemsa up` as a process, on free ports, driven only by what it prints.

It never guesses a port and never sleeps for luck. Invariant: no process outlives its `Stack`.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[3]
SAMPLES = PROJECT / "sample-images"

# Longest wait for anything; generous, because builds may run beside the tests.
PATIENCE_SECONDS = 30

PORTS = ["--s3-port", "--dynamodb-port", "--sqs-port", "--http-port"]


def wait_for(what, found, patience=PATIENCE_SECONDS):
    """Asks `found` again and again, until it answers something true or patience ends."""
    until = time.monotonic() + patience
    while True:
        answer = found()
        if answer:
            return answer
        assert time.monotonic() < until, f"waited {patience} s for {what}"
        time.sleep(0.02)


class Stack:
    """A running `giemsa up`; `arguments` are more of the command's, `settings` its environment variables."""

    def __init__(self, folder, arguments=(), **settings):
        self.folder = folder
        self.arguments = arguments
        self.settings = settings
        # Sent with what this asks, where the API needs one.
        self.token = None
        self.ports = ["0"] * len(PORTS)
        self.process = None
        started_before = os.environ.get("GIEMSA_BROWSER_STARTED_BEFORE")
        if started_before:
            # A first start computes for a while: it tries the sample model.
            shutil.copytree(started_before, folder, dirs_exist_ok=True)
        self.start()

    def start(self):
        """Starts it, the first time on free ports and later on those it had, and waits until it has said how to use it."""
        program = os.environ.get("GIEMSA_TEST_PROGRAM", PROJECT / "target/debug/giemsa")
        ports = [word for pair in zip(PORTS, self.ports) for word in pair]
        environment = {k: v for k, v in os.environ.items() if k != "RUST_LOG"} | self.settings
        self.printed, self.errors = [], []
        self.process = subprocess.Popen(
            [program, "up", *ports, "--data-dir", self.folder, *self.arguments],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        )
        for pipe, lines in [(self.process.stdout, self.printed), (self.process.stderr, self.errors)]:
            threading.Thread(target=lambda p=pipe, l=lines: l.extend(p), daemon=True).start()
        wait_for("giemsa up to start", self._is_up)
        said = "".join(self.printed)
        self.address = re.search(r"Dashboard\s+(http://\S+)", said).group(1).rstrip("/")
        self.s3 = re.search(r"AWS_ENDPOINT_URL_S3=(\S+)", said).group(1).rstrip("/")
        services = [re.search(rf"AWS_ENDPOINT_URL_{name}=(\S+)", said).group(1) for name in ("S3", "DYNAMODB", "SQS")]
        self.ports = [str(urllib.parse.urlsplit(url).port) for url in [*services, self.address]]

    def _is_up(self):
        assert self.process.poll() is None, f"giemsa up ended with {self.process.returncode}:\n{''.join(self.errors)}"
        return any("Ctrl-C stops it." in line for line in list(self.printed))

    def kill(self):
        """Ends it as a power cut would."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.kill()

    def get(self, path, **parameters):
        """JSON of a route of the query API."""
        return get(self.address, path, self.token, **parameters)

    def post(self, path, body):
        """JSON that a route of the query API answers to a JSON body."""
        return post(self.address, path, body, self.token)

    def upload(self, files):
        """Puts files, `{name: bytes}`, as a script would; answers the keys of those that were not refused."""
        wanted = [{"name": name, "size_bytes": len(body), "content_type": ""} for name, body in files.items()]
        links = self.post("/api/uploads", {"files": wanted})["uploads"]
        taken = [link for link in links if "problem" not in link]

        def put(link):
            request = urllib.request.Request(link["url"], data=files[link["name"]], method="PUT", headers=link["headers"])
            urllib.request.urlopen(request, timeout=PATIENCE_SECONDS).close()

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(put, taken))
        return [link["key"] for link in taken]

    def upload_folder(self, folder, slide=None):
        """Puts the files of a folder as a slide; answers as `upload`."""
        files = sorted(path for path in folder.iterdir() if path.is_file())
        return self.upload({f"{slide or folder.name}/{path.name}": path.read_bytes() for path in files})

    def wait_until_answered(self):
        """Waits until no stage has anything to do."""
        def is_done():
            queues = [stage["queue"] for stage in self.get("/api/health")["stages"]]
            return sum(queue["waiting"] + queue["in_flight"] for queue in queues) == 0
        wait_for("all uploads to be answered", is_done)


def headers_of(token):
    """Headers of a request by whoever has `token`, or by nobody in particular."""
    return {"Authorization": f"Bearer {token}"} if token else {}


def get(address, path, token=None, **parameters):
    """JSON that `GET path` answers."""
    url = f"{address}{path}?{urllib.parse.urlencode(parameters)}" if parameters else f"{address}{path}"
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers_of(token)), timeout=PATIENCE_SECONDS) as answer:
        return json.load(answer)


def post(address, path, body, token=None):
    """JSON that `POST path` answers."""
    request = urllib.request.Request(
        f"{address}{path}", data=json.dumps(body).encode(), headers={"Content-Type": "application/json", **headers_of(token)})
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:
            text = answer.read()
    except urllib.error.HTTPError as error:
        raise AssertionError(f"{path}: {error.code} {error.read().decode()}") from error
    return json.loads(text) if text else None

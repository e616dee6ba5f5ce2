"""The Lambda Runtime API on the loopback, and one contestant process that runs on it as in Lambda.

One event at a time, as Lambda gives them to one instance. It never looks into an answer but for failed messages, and keeps
one invariant: a process that it started has ended when `Contestant.stop` returns.
"""

import json
import os
import queue
import subprocess
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

EVENT_TIMEOUT_S = 300


class Server(ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        """A contestant that was stopped resets its connection; whatever else fails shows as a missing answer."""


class RuntimeApi:
    """Hands out events and takes answers; one contestant at a time."""

    def __init__(self):
        self.events, self.answers = queue.Queue(), queue.Queue()
        api = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True
            # Headers and body in one write.
            wbufsize = -1

            def do_GET(self):
                body = api.events.get()
                if body is None:
                    return self.close()
                self.send_response(200)
                self.send_header("Lambda-Runtime-Aws-Request-Id", str(uuid.uuid4()))
                self.send_header("Lambda-Runtime-Deadline-Ms", str(int((time.time() + EVENT_TIMEOUT_S) * 1000)))
                self.send_header("Lambda-Runtime-Invoked-Function-Arn",
                                 "arn:aws:lambda:eu-central-1:000000000000:function:bench")
                self.send_header("Lambda-Runtime-Trace-Id", "Root=1-00000000-000000000000000000000000")
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"] or 0))
                api.answers.put((time.perf_counter(), self.path, body))
                self.send_response(202)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def close(self):
                self.close_connection = True

            def log_message(self, *_):
                pass

        self.server = Server(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.address = "127.0.0.1:%d" % self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def invoke(self, event: bytes, process: subprocess.Popen) -> float:
        """Gives one event, waits for its answer, and returns when that came, by `time.perf_counter`."""
        self.events.put(event)
        waited_until = time.monotonic() + EVENT_TIMEOUT_S
        while True:
            try:
                answered_at, path, body = self.answers.get(timeout=0.5)
                break
            except queue.Empty:
                if process.poll() is not None:
                    raise RuntimeError(f"{process.args} ended with code {process.returncode}") from None
                if time.monotonic() > waited_until:
                    raise RuntimeError(f"{process.args} gave no answer in {EVENT_TIMEOUT_S} s") from None
        answer = json.loads(body or b"{}")
        if not path.endswith("/response") or answer.get("batchItemFailures"):
            raise RuntimeError(f"{process.args} failed at {path}: {body[:2000]!r}")
        return answered_at

    def drain(self):
        """Wakes the thread that waits with an event for a process that is gone."""
        self.events.put(None)
        time.sleep(0.05)
        while not self.events.empty():
            self.events.get_nowait()


class Contestant:
    """A function's process, from start to stop."""

    def __init__(self, api: RuntimeApi, command: list[str], environment: dict, cpus: set[int], log):
        self.api = api
        self.started_at = time.perf_counter()
        self.process = subprocess.Popen(
            command,
            env={**environment, "AWS_LAMBDA_RUNTIME_API": api.address},
            stdout=log,
            stderr=log,
            preexec_fn=lambda: os.sched_setaffinity(0, cpus),
        )

    def invoke(self, event: bytes) -> float:
        return self.api.invoke(event, self.process)

    def cpu_s(self) -> float:
        """Processor time so far, user and system, all threads."""
        fields = open(f"/proc/{self.process.pid}/stat").read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def peak_bytes(self) -> int:
        """The largest resident set so far."""
        for line in open(f"/proc/{self.process.pid}/status"):
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        raise RuntimeError("the kernel gives no VmHWM")

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.api.drain()

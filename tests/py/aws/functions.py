"""The real binaries of the functions, each as Lambda runs it: with the environment that the stack gave the function.

The runtime API (version 2018-06-01) is served on loopback, one port a function. `poll` is what Lambda does between a queue
and a function. Invariant: a process gets nothing in its environment but what Lambda and the template set, and where moto is.
"""

import json
import os
import queue
import subprocess
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import boto3
from cloud import PROJECT, REGION, attributes

# A cold start of a debug build on a busy machine takes seconds; what takes longer hangs.
LONGEST_WAIT_SECONDS = 120
BINARIES = PROJECT / "target/debug"
NEXT = "/2018-06-01/runtime/invocation/next"


class RuntimeApi(BaseHTTPRequestHandler):
    """Hands out events, takes answers."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):  # noqa: N802
        assert self.path == NEXT, self.path
        invocation = self.server.events.get()
        if invocation is None:
            self.close_connection = True
            return
        request, event = invocation
        body = json.dumps(event).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Lambda-Runtime-Aws-Request-Id", request)
        self.send_header("Lambda-Runtime-Deadline-Ms", str(int((time.time() + self.server.timeout_seconds) * 1000)))
        self.send_header("Lambda-Runtime-Invoked-Function-Arn", self.server.arn)
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):  # noqa: N802
        # The dashboard answers in chunks, as it would if it streamed.
        body = self.rfile.read(int(self.headers["Content-Length"])) if "Content-Length" in self.headers else self.chunks()
        *_, request, kind = self.path.split("/")
        self.server.answers.put((request, kind, body))
        self.send_response(202)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def chunks(self):
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def log_message(self, *_):
        pass


class Function:
    """A function of the stack in moto, run by its real binary. Starts at its first invocation, as in Lambda."""

    def __init__(self, configuration, binary, log):
        self.configuration = configuration
        self.binary = BINARIES / binary
        self.log = log
        self.process = None

    def start(self):
        self.api = ThreadingHTTPServer(("127.0.0.1", 0), RuntimeApi)
        self.api.events, self.api.answers = queue.Queue(), queue.Queue()
        self.api.arn = self.configuration["FunctionArn"]
        self.api.timeout_seconds = self.configuration["Timeout"]
        threading.Thread(target=self.api.serve_forever, daemon=True).start()
        of_lambda = {
            "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{self.api.server_address[1]}",
            "AWS_LAMBDA_FUNCTION_NAME": self.configuration["FunctionName"],
            "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(self.configuration["MemorySize"]),
            "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{self.configuration['FunctionName']}",
            "AWS_LAMBDA_LOG_STREAM_NAME": "stream",
            "AWS_REGION": REGION,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_SESSION_TOKEN": "testing",
        }
        environment = of_lambda | self.configuration["Environment"]["Variables"]
        environment["AWS_ENDPOINT_URL"] = os.environ["AWS_ENDPOINT_URL"]
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen([self.binary], env=environment, stdout=log, stderr=log)

    def invoke(self, event):
        """What the function answers; an error of the function is an AssertionError with its words."""
        if self.process is None:
            self.start()
        sent = str(uuid.uuid4())
        self.api.events.put((sent, event))
        give_up = time.monotonic() + LONGEST_WAIT_SECONDS
        while True:
            try:
                request, kind, body = self.api.answers.get(timeout=0.5)
                break
            except queue.Empty:
                assert self.process.poll() is None, f"the function ended: {self.logged()}"
                assert time.monotonic() < give_up, f"no answer: {self.logged()}"
        assert (request, kind) == (sent, "response"), f"{kind}: {body.decode()}\n{self.logged()}"
        return json.loads(body)

    def logged(self):
        """All that it logged."""
        return self.log.read_text(encoding="utf-8")

    def stop(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.api.events.put(None)
            self.api.shutdown()
            self.api.server_close()
            self.process = None


class Poller:
    """Lambda's between a queue and a function, as the event source mapping in moto says."""

    def __init__(self, function, mapping):
        self.function = function
        self.mapping = mapping
        assert mapping["FunctionArn"] == function.configuration["FunctionArn"]
        # moto would run the function in a container.
        boto3.client("lambda").update_event_source_mapping(UUID=mapping["UUID"], Enabled=False)
        self.arn = mapping["EventSourceArn"]
        self.sqs = boto3.client("sqs")
        self.url = self.sqs.get_queue_url(QueueName=self.arn.rsplit(":", 1)[1])["QueueUrl"]

    def waiting(self):
        """Messages in the queue: those to be had, and those that somebody has."""
        said = attributes(self.url)
        return int(said["ApproximateNumberOfMessages"]), int(said["ApproximateNumberOfMessagesNotVisible"])

    def take(self):
        """One batch, as records of an event."""
        taken = self.sqs.receive_message(
            QueueUrl=self.url,
            MaxNumberOfMessages=min(self.mapping["BatchSize"], 10),
            AttributeNames=["All"],
            MessageAttributeNames=["All"],
        )
        return [self.record(message) for message in taken.get("Messages", [])]

    def give(self, records):
        """Invokes the function with a batch, and deletes what it answered. Returns what was deleted."""
        answer = self.function.invoke({"Records": records})
        # Without this type of response Lambda does not look at the list.
        reports = self.mapping.get("FunctionResponseTypes") == ["ReportBatchItemFailures"]
        failed = [failure["itemIdentifier"] for failure in answer["batchItemFailures"]] if reports else []
        assert set(failed) <= {record["messageId"] for record in records}, answer
        for record in records:
            message = {"QueueUrl": self.url, "ReceiptHandle": record["receiptHandle"]}
            if record["messageId"] not in failed:
                self.sqs.delete_message(**message)
            else:
                # Not after the queue's twelve minutes, but at once.
                self.sqs.change_message_visibility(**message, VisibilityTimeout=0)
        return [record for record in records if record["messageId"] not in failed]

    def poll(self):
        """Gives the function one batch, if there is one. Returns the records, and which of them were deleted."""
        records = self.take()
        return records, self.give(records) if records else []

    def record(self, message):
        """A message as Lambda hands it over."""
        return {
            "messageId": message["MessageId"],
            "receiptHandle": message["ReceiptHandle"],
            "body": message["Body"],
            "attributes": message["Attributes"],
            "messageAttributes": message.get("MessageAttributes", {}),
            "md5OfBody": message["MD5OfBody"],
            "eventSource": "aws:sqs",
            "eventSourceARN": self.arn,
            "awsRegion": REGION,
        }

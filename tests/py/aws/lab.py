"""The stack in use: what the tests do with it, and what they find in it.

It plays the user, Lambda's poller and API Gateway; all else is moto's and the functions'. Invariant: an event reaches a
function as moto sent it.
"""

import csv
import hashlib
import json
import os
import subprocess
import urllib.parse
import uuid

import boto3
from cloud import PROJECT, attributes, of_all_pages
from functions import BINARIES, Function, Poller

STAGES = ["prod", "dev"]
MODEL = PROJECT / "models/thin-smear.onnx"
SAMPLES = PROJECT / "sample-images"
# Blanks, a plus and letters beyond ASCII: in EventBridge's events a key is as it is, in S3's own it is encoded.
IMAGE = "slide 004 été +50%/cell a+b.jpg"
# Given up after all tries, as there was no model yet.
GIVEN_UP = "slide-003-mixed-forms/cell-04.tif"
# As many as the template gives a message.
TRIES = 5


def expected(image):
    with open(SAMPLES / "expected.csv", encoding="utf-8", newline="") as file:
        (row,) = (row for row in csv.DictReader(file) if row["path"] == image)
    return row


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Lab:
    """The stack in use: its buckets and table, and its functions."""

    def __init__(self, stack, logs):
        self.stack = stack
        self.input, self.models, self.results = (stack.outputs[f"{name}Bucket"] for name in ["Input", "Model", "Results"])
        self.table = boto3.resource("dynamodb").Table(stack.outputs["Table"])
        self.s3 = boto3.client("s3")
        self.functions = {
            name: Function(stack.function(name), stack.binary(name), logs / f"{name}.log")
            for name in ["ProdClassifier", "ProdBackfill", "DevClassifier", "Gate", "Dashboard"]
        }
        self.pollers = {
            stage: Poller(
                self.functions[f"{stage.title()}Classifier"],
                stack.mappings[stack.id(f"{stage.title()}Queue").rsplit("/", 1)[1]],
            )
            for stage in STAGES
        }
        self.gate_queue = self.stand_in_for_the_gate()

    def stand_in_for_the_gate(self):
        """moto's rules invoke no function, so a queue takes the gate's place as their target."""
        (target,) = self.stack.targets["ModelRule"]
        assert target["Arn"] == self.functions["Gate"].configuration["FunctionArn"]
        url = boto3.client("sqs").create_queue(QueueName="in-place-of-the-gate")["QueueUrl"]
        instead = [{"Id": target["Id"], "Arn": attributes(url)["QueueArn"]}]
        boto3.client("events").put_targets(Rule=self.stack.id("ModelRule"), Targets=instead)
        return url

    def upload(self, image, key=None):
        self.s3.upload_file(SAMPLES / image, self.input, key or image)

    def giemsa(self, stage, *arguments):
        """Runs the command with the outputs of the stack in its environment, as docs/deploy.md says. Returns what it prints."""
        outputs, name = self.stack.outputs, stage.title()
        environment = {key: value for key, value in os.environ.items() if key.startswith("AWS_")} | {
            "GIEMSA_INPUT_BUCKET": self.input,
            "GIEMSA_MODEL_BUCKET": self.models,
            "GIEMSA_RESULTS_BUCKET": self.results,
            "GIEMSA_TABLE": outputs["Table"],
            "GIEMSA_QUEUE_URL": outputs[f"{name}QueueUrl"],
            "GIEMSA_DLQ_URL": outputs[f"{name}DeadLetterQueueUrl"],
        }
        command = [BINARIES / "giemsa", *arguments, "--stage", stage]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"{command} failed:\n{done.stdout}{done.stderr}"
        return done.stdout

    def dead_letters(self, stage):
        """What was given up."""
        return json.loads(self.giemsa(stage, "dlq", "list", "--json"))["messages"]

    def poll(self):
        """One batch in each stage: for each stage the records, and those of them that were deleted."""
        return {stage: poller.poll() for stage, poller in self.pollers.items()}

    def model_events(self):
        """What moto sent the gate since it was last asked."""
        sqs, events = boto3.client("sqs"), []
        while messages := sqs.receive_message(QueueUrl=self.gate_queue, MaxNumberOfMessages=10).get("Messages", []):
            for message in messages:
                events.append(json.loads(message["Body"]))
                sqs.delete_message(QueueUrl=self.gate_queue, ReceiptHandle=message["ReceiptHandle"])
        return events

    def item(self, stage, key):
        """The current result of an image, if the table has one."""
        pk = f"result#{stage}#{self.input}/{key}"
        return self.table.get_item(Key={"pk": pk, "sk": "result"}, ConsistentRead=True).get("Item")

    def objects(self, prefix):
        """Names of results, each with the ETags of its versions: written again, it has to be the same."""
        found = {}
        for version in of_all_pages(self.s3, "list_object_versions", "Versions", Bucket=self.results, Prefix=prefix):
            found.setdefault(version["Key"], set()).add(version["ETag"])
        assert all(len(etags) == 1 for etags in found.values()), found
        return sorted(found)

    def result_key(self, stage, key, result_id):
        """As design and record schema promise it."""
        day = self.s3.head_object(Bucket=self.input, Key=key)["LastModified"].strftime("%Y-%m-%d")
        return f"results/stage={stage}/date={day}/{key}.{result_id}.json"

    def object(self, bucket, key):
        return json.load(self.s3.get_object(Bucket=bucket, Key=key)["Body"])

    def dashboard(self, path, body=None, **parameters):
        """What API Gateway asks the function, with the claims of a token: GET, or POST of a body. Returns its answer."""
        host = urllib.parse.urlsplit(self.stack.outputs["DashboardUrl"]).netloc
        method = "GET" if body is None else "POST"
        headers = {"accept": "application/json", "host": host}
        if body is not None:
            headers |= {"content-type": "application/json"}
        event = {
            "version": "2.0",
            "routeKey": f"{method} /api/{{proxy+}}",
            "rawPath": path,
            "rawQueryString": urllib.parse.urlencode(parameters),
            "headers": headers,
            "queryStringParameters": parameters,
            "requestContext": {
                "accountId": "123456789012",
                "apiId": self.stack.id("DashboardApi"),
                "authorizer": {"jwt": {"claims": {"iss": "https://id.example", "sub": "1", "email": "you@lab.example"}, "scopes": None}},
                "domainName": host,
                "http": {
                    "method": method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "127.0.0.1", "userAgent": "test",
                },
                "requestId": str(uuid.uuid4()),
                "routeKey": f"{method} /api/{{proxy+}}",
                "stage": "$default",
                "time": "23/Nov/2026:10:00:00 +0000",
                "timeEpoch": 1795428000000,
            },
            "isBase64Encoded": False,
        }
        if body is not None:
            event["body"] = json.dumps(body)
        answer = self.functions["Dashboard"].invoke(event)
        assert answer["statusCode"] in (200, 201), answer["body"]
        return json.loads(answer["body"])

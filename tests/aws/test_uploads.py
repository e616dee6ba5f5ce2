"""An upload becomes a result: the functions' real binaries on the stack in moto, with the events that moto sends.

What an image goes through is moto's from upload to message: S3 tells EventBridge, the rule of the template matches, its
targets are queues. Only Lambda is played by the tests (functions.py). Each fixture is a chapter, from the empty stack on.
"""

import csv
import hashlib
import json
import urllib.parse
import uuid

import boto3
import pytest
from boto3.dynamodb.conditions import Key
from cloud import PROJECT, attributes, aws, of_all_pages
from functions import Function, Poller

STAGES = ["prod", "dev"]
MODEL = PROJECT / "models/thin-smear.onnx"
SAMPLES = PROJECT / "sample-images"
# Blanks, a plus and letters beyond ASCII: in EventBridge's events a key is as it is, in S3's own it is encoded.
IMAGE = "slide 004 été +50%/cell a+b.jpg"


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
            name: Function(stack.id(name), binary, logs / f"{name}.log")
            for name, binary in [
                ("ProdClassifier", "classifier"),
                ("ProdBackfill", "classifier"),
                ("DevClassifier", "classifier"),
                ("Gate", "gate"),
                ("Dashboard", "dashboard"),
            ]
        }
        self.pollers = {stage: Poller(self.functions[f"{stage.title()}Classifier"]) for stage in STAGES}
        self.gate_queue = self.stand_in_for_the_gate()

    def stand_in_for_the_gate(self):
        """moto's rules invoke no function, so a queue takes the gate's place as their target."""
        sqs, events = boto3.client("sqs"), boto3.client("events")
        rule = self.stack.id("ModelRule")
        (target,) = events.list_targets_by_rule(Rule=rule)["Targets"]
        assert target["Arn"] == self.functions["Gate"].configuration["FunctionArn"]
        url = sqs.create_queue(QueueName="in-place-of-the-gate")["QueueUrl"]
        events.put_targets(Rule=rule, Targets=[{"Id": target["Id"], "Arn": attributes(url)["QueueArn"]}])
        return url

    def upload(self, image, key=None):
        self.s3.upload_file(SAMPLES / image, self.input, key or image)

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

    def dashboard(self, path, **parameters):
        """What API Gateway asks the function for `GET path`, with the claims of a token, and its answer."""
        api = self.stack.id("DashboardApi")
        host = urllib.parse.urlsplit(self.stack.outputs["DashboardUrl"]).netloc
        answer = self.functions["Dashboard"].invoke({
            "version": "2.0",
            "routeKey": "GET /api/{proxy+}",
            "rawPath": path,
            "rawQueryString": urllib.parse.urlencode(parameters),
            "headers": {"accept": "application/json", "host": host},
            "queryStringParameters": parameters,
            "requestContext": {
                "accountId": "123456789012",
                "apiId": api,
                "authorizer": {"jwt": {"claims": {"sub": "1", "email": "you@lab.example"}, "scopes": None}},
                "domainName": host,
                "http": {
                    "method": "GET", "path": path, "protocol": "HTTP/1.1", "sourceIp": "127.0.0.1", "userAgent": "test",
                },
                "requestId": str(uuid.uuid4()),
                "routeKey": "GET /api/{proxy+}",
                "stage": "$default",
                "time": "23/Nov/2026:10:00:00 +0000",
                "timeEpoch": 1795428000000,
            },
            "isBase64Encoded": False,
        })
        assert answer["statusCode"] == 200, answer
        return json.loads(answer["body"])


@pytest.fixture(scope="module")
def lab(stack, tmp_path_factory):
    """The stack before anybody used it."""
    stack.withdraw_bucket_policies()
    lab = Lab(stack, tmp_path_factory.mktemp("logs"))
    yield lab
    for function in lab.functions.values():
        function.stop()


@pytest.fixture(scope="module")
def early(lab):
    """An image that was uploaded before there was a model, by the aws client as users do, delivered once to each stage."""
    aws("s3", "cp", "--only-show-errors", SAMPLES / IMAGE, f"s3://{lab.input}/{IMAGE}")
    return lab.poll()


@pytest.fixture(scope="module")
def released(lab, early):
    """The sample model, tried on the sample golden set and released by the commands of docs/deploy.md."""
    aws("s3", "cp", "--recursive", "--only-show-errors", "--exclude", "*", "--include", "*.png",
        PROJECT / "models/golden", f"s3://{lab.models}/golden/")
    assert lab.model_events() == [], "a golden image is no model"
    aws("s3", "cp", "--only-show-errors", MODEL, f"s3://{lab.models}/dev/model.onnx")
    (event,) = lab.model_events()
    answer = lab.functions["Gate"].invoke(event)
    aws("s3", "cp", "--only-show-errors", MODEL, f"s3://{lab.models}/prod/model.onnx")
    return answer


@pytest.fixture(scope="module")
def answered(lab, released):
    """The early image, delivered again now that there is a model."""
    return lab.poll()


def test_without_a_model_uploads_wait(lab, early):
    for stage, (records, deleted) in early.items():
        assert len(records) == 1, f"{stage}: one message for one upload"
        event = json.loads(records[0]["body"])
        assert (event["source"], event["detail-type"]) == ("aws.s3", "Object Created")
        assert event["detail"]["object"]["key"] == IMAGE
        assert deleted == [], f"{stage}: nothing answered it"
        assert lab.functions[f"{stage.title()}Classifier"].process.poll() is None


def test_the_gate_tries_a_model_that_is_copied(lab, released):
    sha256 = digest(MODEL)
    assert [model["key"] for model in released["models"]] == ["dev/model.onnx"], released
    report = lab.object(lab.models, f"reports/{sha256}.json")
    assert (report["passed"], report["model"]["sha256"]) == (True, sha256)
    page = lab.s3.get_object(Bucket=lab.models, Key=f"reports/{sha256}.html")
    assert page["ContentType"].startswith("text/html")
    archived = lab.s3.get_object(Bucket=lab.models, Key=f"archive/{sha256}.onnx")["Body"].read()
    assert hashlib.sha256(archived).hexdigest() == sha256


def test_the_gate_leaves_production_alone(lab, released):
    (event,) = lab.model_events()
    assert event["detail"]["object"]["key"] == "prod/model.onnx"
    assert lab.functions["Gate"].invoke(event) == {"models": []}


@pytest.mark.parametrize("stage", STAGES)
def test_an_upload_becomes_a_result_in_the_table_and_in_the_bucket(lab, answered, stage):
    records, deleted = answered[stage]
    assert [record["attributes"]["ApproximateReceiveCount"] for record in records] == ["2"]
    assert deleted == records, "answered, hence deleted"
    assert lab.pollers[stage].waiting() == (0, 0)
    item = lab.item(stage, IMAGE)
    row = expected(IMAGE)
    record = lab.object(lab.results, lab.result_key(stage, IMAGE, item["result_id"]))
    assert (record["status"], record["label"], record["stage"]) == (row["status"], row["label"], stage)
    assert record["model"]["sha256"] == digest(MODEL)
    head = lab.s3.head_object(Bucket=lab.input, Key=IMAGE)
    image = record["image"]
    assert (image["bucket"], image["key"], image["version_id"]) == (lab.input, IMAGE, head["VersionId"])
    assert (image["size_bytes"], image["sha256"]) == (head["ContentLength"], digest(SAMPLES / IMAGE))
    assert f'"{image["etag"]}"' == head["ETag"]
    assert lab.objects(f"results/stage={stage}/") == [lab.result_key(stage, IMAGE, item["result_id"])]


@pytest.mark.parametrize("stage", STAGES)
def test_every_index_answers_for_it(lab, answered, stage):
    item, slide = lab.item(stage, IMAGE), IMAGE.rsplit("/", 1)[0]
    partitions = {
        "slide": f"{stage}#{slide}", "arrival": f"{stage}#{slide}", "suspect": f"{stage}#{slide}",
        "label": f"{stage}#=parasitized#", "model": f"{stage}#{digest(MODEL)}#", "recent": f"{stage}#",
    }
    for index, start in partitions.items():
        partition = item[f"{index}_pk"]
        assert partition.startswith(start), f"{index}: {partition}"
        found = lab.table.query(IndexName=index, KeyConditionExpression=Key(f"{index}_pk").eq(partition))["Items"]
        assert [row["pk"] for row in found] == [item["pk"]], index
    assert "review_pk" not in item, "nobody has to look at this one"
    # The slide and the day are told of.
    for pk in [f"slide#{stage}#{slide}", f"days#{stage}", f"model#{stage}"]:
        assert lab.table.query(KeyConditionExpression=Key("pk").eq(pk))["Items"], pk


def test_the_same_message_again_changes_nothing(lab, answered):
    for stage, (records, _) in answered.items():
        before = lab.item(stage, IMAGE)
        answer = lab.functions[f"{stage.title()}Classifier"].invoke({"Records": records})
        assert answer == {"batchItemFailures": []}
        assert lab.item(stage, IMAGE)["result_id"] == before["result_id"]
        assert lab.objects(f"results/stage={stage}/") == [lab.result_key(stage, IMAGE, before["result_id"])]


def test_only_what_cannot_be_read_is_handed_back_and_ends_as_a_dead_letter(lab, answered):
    image = "slide-001-healthy/cell-01.png"
    poller = lab.pollers["prod"]
    poller.sqs.send_message(QueueUrl=poller.url, MessageBody='{"Records": [')
    lab.upload(image)
    records, deleted = poller.poll()
    assert len(records) == 2
    assert [json.loads(record["body"])["detail"]["object"]["key"] for record in deleted] == [image]
    assert lab.item("prod", image)["status"] == "classified"
    (broken,) = [record for record in records if record not in deleted]
    # Four times more, then the queue sets it aside.
    for _ in range(4):
        records, deleted = poller.poll()
        assert ([record["messageId"] for record in records], deleted) == ([broken["messageId"]], [])
    assert poller.poll() == ([], [])
    dead = boto3.client("sqs").receive_message(QueueUrl=lab.stack.id("ProdDeadLetterQueue")).get("Messages", [])
    assert [message["MessageId"] for message in dead] == [broken["messageId"]]
    # Development answered the image by itself.
    assert len(lab.pollers["dev"].poll()[1]) == 1


def test_what_is_no_image_is_answered_once_as_rejected(lab, released):
    lab.upload("expected.csv")
    for stage, (records, deleted) in lab.poll().items():
        assert (len(records), deleted) == (1, records)
        item = lab.item(stage, "expected.csv")
        assert (item["status"], item["label_pk"][: len(f"{stage}#!rejected#")]) == ("rejected", f"{stage}#!rejected#")
        record = lab.object(lab.results, lab.result_key(stage, "expected.csv", item["result_id"]))
        assert record["reject"]["code"] == expected("expected.csv")["reject_code"]


def test_who_has_to_be_looked_at_is_in_the_index_of_reviews(lab, released):
    image = "not-a-cell/cat.png"
    lab.upload(image)
    lab.poll()
    for stage in STAGES:
        item = lab.item(stage, image)
        found = lab.table.query(IndexName="review", KeyConditionExpression=Key("review_pk").eq(item["review_pk"]))
        assert item["pk"] in [row["pk"] for row in found["Items"]]


@pytest.fixture(scope="module")
def successor(tmp_path_factory):
    """The sample model with one more text in its metadata: the same answers, another digest."""
    name, value = b"tests.aws", b"successor"
    entry = b"\x0a" + bytes([len(name)]) + name + b"\x12" + bytes([len(value)]) + value
    # Field 14 of ONNX's ModelProto is metadata_props; what is repeated may stand anywhere in the file.
    path = tmp_path_factory.mktemp("successor") / "model.onnx"
    path.write_bytes(MODEL.read_bytes() + b"\x72" + bytes([len(entry)]) + entry)
    return path


def test_one_copy_replaces_the_model_of_a_stage(lab, answered, successor):
    image = "slide-002-falciparum/cell-03.png"
    process = lab.functions["DevClassifier"].process.pid
    aws("s3", "cp", "--only-show-errors", successor, f"s3://{lab.models}/dev/model.onnx")
    lab.upload(image)
    lab.poll()
    for stage, model in [("prod", MODEL), ("dev", successor)]:
        item = lab.item(stage, image)
        record = lab.object(lab.results, lab.result_key(stage, image, item["result_id"]))
        assert (record["label"], record["model"]["sha256"]) == (expected(image)["label"], digest(model))
    assert lab.functions["DevClassifier"].process.pid == process, "nothing was started anew"
    # It is tried as well, and production refuses what was not.
    (event,) = lab.model_events()
    lab.functions["Gate"].invoke(event)
    assert lab.object(lab.models, f"reports/{digest(successor)}.json")["passed"]


def test_production_keeps_its_model_when_one_comes_that_was_not_tried(lab, answered, successor, tmp_path):
    untried = tmp_path / "model.onnx"
    untried.write_bytes(successor.read_bytes() + b"\x72\x06\x0a\x01x\x12\x01y")
    aws("s3", "cp", "--only-show-errors", untried, f"s3://{lab.models}/prod/model.onnx")
    image = "slide-001-healthy/cell-03.png"
    lab.upload(image)
    lab.poll()
    item = lab.item("prod", image)
    record = lab.object(lab.results, lab.result_key("prod", image, item["result_id"]))
    assert record["model"]["sha256"] == digest(MODEL)
    assert digest(untried) in lab.functions["ProdClassifier"].logged()
    aws("s3", "cp", "--only-show-errors", MODEL, f"s3://{lab.models}/prod/model.onnx")


def test_the_newest_image_of_a_key_wins(lab, answered):
    key = "again/cell.png"
    first, second = "slide-002-falciparum/cell-01.png", "slide-001-healthy/cell-02.png"
    for image in [first, second]:
        lab.upload(image, key)
    for stage, (records, deleted) in lab.poll().items():
        assert (len(records), deleted) == (2, records)
        item = lab.item(stage, key)
        assert item["label"] == expected(second)["label"]
        # Both versions have a result, however the first was answered after it was replaced.
        assert sum(f"/{key}." in name for name in lab.objects(f"results/stage={stage}/")) == 2


def test_a_job_of_s3_batch_operations_answers_what_was_there_before(lab, released):
    key = "before/cell a.png"
    lab.upload("slide-002-falciparum/cell-02.png", key)
    answer = lab.functions["ProdBackfill"].invoke({
        "invocationSchemaVersion": "2.0",
        "invocationId": "1",
        "job": {"id": "1", "userArguments": {}},
        "tasks": [
            {"taskId": "1", "s3Bucket": lab.input, "s3Key": urllib.parse.quote_plus(key), "s3VersionId": None},
            {"taskId": "2", "s3Bucket": lab.input, "s3Key": "before/none.png", "s3VersionId": None},
        ],
    })
    codes = {result["taskId"]: result["resultCode"] for result in answer["results"]}
    assert codes["1"] == "Succeeded", answer
    item = lab.item("prod", key)
    assert item["label"] == expected("slide-002-falciparum/cell-02.png")["label"]
    result = lab.result_key("prod", key, item["result_id"])
    # The event of the upload comes too, and leaves the same result under the same name.
    lab.poll()
    assert lab.objects(result) == [result]


def test_the_dashboard_answers_with_the_results(lab, answered):
    image = lab.dashboard("/api/image", key=IMAGE)
    print(json.dumps(image, indent=1)[:3000])
    print(json.dumps(lab.dashboard("/api/results", stage="prod", label="parasitized"), indent=1)[:1500])
    print(json.dumps(lab.dashboard("/api/health"), indent=1)[:1500])
    print(json.dumps(lab.dashboard("/api/models"), indent=1)[:1500])
    print(json.dumps(lab.dashboard("/api/slides", stage="prod"), indent=1)[:1500])

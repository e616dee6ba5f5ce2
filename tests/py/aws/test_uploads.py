"""An upload becomes a result: the functions' real binaries on the stack in moto, with the events that moto sends.

What an image goes through is moto's from upload to message: S3 tells EventBridge, the rule of the template matches, its
targets are queues. Only Lambda is played by the tests (functions.py, lab.py).
"""

import hashlib
import json
import urllib.parse

import boto3
import pytest
from boto3.dynamodb.conditions import Key
from cloud import aws
from lab import GIVEN_UP, IMAGE, MODEL, SAMPLES, STAGES, TRIES, digest, expected


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
    name = lab.result_key(stage, IMAGE, item["result_id"])
    assert lab.objects(name.rsplit(".", 2)[0]) == [name]


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
        # By the shard that the random name of the bucket leads to there may be others.
        assert item["pk"] in [row["pk"] for row in found], index
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
        name = lab.result_key(stage, IMAGE, before["result_id"])
        assert lab.objects(name.rsplit(".", 2)[0]) == [name]


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
    # The rest of its tries, then the queue sets it aside.
    for _ in range(TRIES - 1):
        records, deleted = poller.poll()
        assert ([record["messageId"] for record in records], deleted) == ([broken["messageId"]], [])
    assert poller.poll() == ([], [])
    assert broken["messageId"] in [letter["message_id"] for letter in lab.dead_letters("prod")]
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


def test_the_newest_image_of_a_key_wins_in_whatever_order_they_are_delivered(lab, answered):
    key = "again/cell.png"
    first, second = "slide-002-falciparum/cell-08.png", "slide-001-healthy/cell-02.png"
    assert expected(first)["label"] != expected(second)["label"]
    for image in [first, second]:
        lab.upload(image, key)
    for stage, poller in lab.pollers.items():
        records = poller.take()
        assert len(records) == 2
        for record in reversed(records):
            assert poller.give([record]) == [record]
        item = lab.item(stage, key)
        assert item["label"] == expected(second)["label"]
        # The first has a result too, under its own name.
        assert len(lab.objects(lab.result_key(stage, key, item["result_id"]).rsplit(".", 2)[0])) == 2


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


@pytest.mark.parametrize("stage", STAGES)
def test_what_was_given_up_is_listed_with_its_reason_and_answered_when_it_is_sent_again(lab, given_up, answered, stage):
    assert [len(delivered[stage][0]) for delivered in given_up] == [1] * TRIES
    (letter,) = [letter for letter in lab.dead_letters(stage) if letter["uploads"]]
    (upload,) = letter["uploads"]
    assert (upload["key"], upload["state"]) == (GIVEN_UP, "unanswered")
    assert (upload["failure"]["tries"], "no model" in upload["failure"]["reason"]) == (TRIES, True)
    lab.giemsa(stage, "dlq", "redrive", "--yes", "--match", GIVEN_UP)
    records, deleted = lab.pollers[stage].poll()
    assert (len(records), deleted) == (1, records)
    assert lab.item(stage, GIVEN_UP)["label"] == expected(GIVEN_UP)["label"]
    assert GIVEN_UP not in lab.giemsa(stage, "dlq", "list")


@pytest.mark.parametrize("stage", STAGES)
def test_in_the_end_every_upload_of_these_tests_has_its_result(lab, answered, stage):
    said = lab.giemsa(stage, "reconcile", "--grace", "0m")
    assert "Every upload has its result." in said, said

"""The dashboard's real binary on the stack in moto, asked as API Gateway asks it."""

import requests
from boto3.dynamodb.conditions import Key
from lab import IMAGE, MODEL, SAMPLES, STAGES, digest, expected


def test_an_image_is_shown_with_the_results_of_both_stages(lab, answered):
    image = lab.dashboard("/api/image", key=IMAGE)
    found = {result["stage"]: (result["label"], result["result_id"]) for result in image["results"]}
    label = expected(IMAGE)["label"]
    assert found == {stage: (label, lab.item(stage, IMAGE)["result_id"]) for stage in STAGES}
    # Its link is one that S3 takes.
    (link,) = lab.dashboard("/api/links", {"images": [{"key": IMAGE}], "kind": "image"})["links"]
    assert requests.get(link["url"], timeout=10).content == (SAMPLES / IMAGE).read_bytes()


def test_results_slides_models_and_queues_are_found(lab, answered):
    results = lab.dashboard("/api/results", stage="prod", label="parasitized")["results"]
    assert IMAGE in [result["image"]["key"] for result in results]
    slide = IMAGE.rsplit("/", 1)[0]
    for stage in STAGES:
        (cell,) = [cell for cell in lab.dashboard("/api/slide/cells", stage=stage, slide=slide)["cells"]]
        assert cell["key"] == IMAGE
        assert slide in [found["slide"] for found in lab.dashboard("/api/slides", stage=stage)["slides"]]
    models = lab.dashboard("/api/models")
    assert digest(MODEL) in [report["sha256"] for report in models["reports"]]
    health = lab.dashboard("/api/health")
    assert [found["stage"] for found in health["stages"]] == STAGES
    assert [found["queue"]["waiting"] for found in health["stages"]] == [0, 0]
    assert health["unavailable"] == []


def test_a_link_of_the_dashboard_takes_an_upload_that_is_answered(lab, answered):
    image, name = SAMPLES / "slide-002-falciparum/cell-04.png", "dropped/cell 1.png"
    asked = {"files": [{"name": name, "size_bytes": image.stat().st_size, "content_type": "image/png"}]}
    (signed,) = lab.dashboard("/api/uploads", asked)["uploads"]
    put = requests.request(
        signed["method"], signed["url"], headers=signed["headers"], data=image.read_bytes(), timeout=10
    )
    assert put.status_code == 200, put.text
    for stage, (records, deleted) in lab.poll().items():
        assert (len(records), deleted) == (1, records)
        assert lab.item(stage, signed["key"])["label"] == expected("slide-002-falciparum/cell-04.png")["label"]


def test_a_review_is_kept_and_takes_the_image_off_the_queue(lab, answered):
    image = "not-a-cell/text.png"
    lab.upload(image)
    lab.poll()
    item = lab.item("prod", image)
    queue = Key("review_pk").eq(item["review_pk"])

    def waits():
        found = lab.table.query(IndexName="review", KeyConditionExpression=queue)["Items"]
        return item["pk"] in [row["pk"] for row in found]

    assert waits()
    lab.dashboard("/api/reviews", {
        "key": image, "stage": "prod", "result_id": item["result_id"],
        "action": "correct", "label": "uninfected" if item["label"] == "parasitized" else "parasitized",
        "reviewer": "you@lab.example",
    })
    assert not waits()
    shown = lab.dashboard("/api/image", key=image)
    assert (len(shown["reviews"]), shown["verdict"]["reviewer"]) == (1, "you@lab.example")

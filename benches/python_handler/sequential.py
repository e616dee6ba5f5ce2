"""The handler as tutorials write it: one image after the other, the clients and the model made at import.

Its settings come from the same environment as Giemsa's. A failed image is reported to SQS, the others are not repeated.
"""

import json
import logging
import os
import time
from decimal import Decimal

import boto3

from classify import Model, index_keys, objects_of, record_of, result_json, result_key

STAGE = os.environ["GIEMSA_STAGE"]
RESULTS_BUCKET = os.environ["GIEMSA_RESULTS_BUCKET"]
RESULTS_PREFIX = os.environ.get("GIEMSA_RESULTS_PREFIX", "results")

s3 = boto3.client("s3")
table = boto3.resource("dynamodb").Table(os.environ["GIEMSA_TABLE"])
model = Model(
    s3.get_object(Bucket=os.environ["GIEMSA_MODEL_BUCKET"], Key=f"{STAGE}/model.onnx")["Body"].read()
)


def handler(event, _context):
    failures = []
    for message_id, bucket, key, sequencer in objects_of(event):
        try:
            answer(bucket, key, sequencer)
        except Exception:
            logging.exception("%s failed", key)
            failures.append({"itemIdentifier": message_id})
    return {"batchItemFailures": failures}


def answer(bucket, key, sequencer):
    started = time.perf_counter()
    found = s3.get_object(Bucket=bucket, Key=key)
    body = found["Body"].read()
    fetch_ms = (time.perf_counter() - started) * 1e3
    record = record_of(model, STAGE, bucket, key, found, body, fetch_ms)
    s3.put_object(
        Bucket=RESULTS_BUCKET,
        Key=result_key(RESULTS_PREFIX, record),
        Body=result_json(record),
        ContentType="application/json",
    )
    # The table takes no floats.
    item = json.loads(json.dumps(record), parse_float=Decimal)
    table.put_item(Item=item | index_keys(record, sequencer))

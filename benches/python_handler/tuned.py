"""The handler as someone writes it who has measured: threads, few bytes on the wire, one pool of connections.

What is tuned: images of a batch are answered by a thread pool (BENCH_WORKERS), whose size and onnxruntime's own threads
(BENCH_ORT_THREADS) the benchmark chooses by measurement; one client each, with as many connections as
threads; no checksums that nobody asked for; the low-level DynamoDB client with its own small serialiser, which is
cheaper than the resource; TCP keep-alive. Newest image wins, as in Giemsa, by one condition.
"""

import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor

import boto3
from botocore.config import Config

from classify import Model, index_keys, objects_of, record_of, result_json, result_key

STAGE = os.environ["GIEMSA_STAGE"]
RESULTS_BUCKET = os.environ["GIEMSA_RESULTS_BUCKET"]
RESULTS_PREFIX = os.environ.get("GIEMSA_RESULTS_PREFIX", "results")
TABLE = os.environ["GIEMSA_TABLE"]
WORKERS = int(os.environ["BENCH_WORKERS"])
ORT_THREADS = int(os.environ["BENCH_ORT_THREADS"])

config = Config(
    max_pool_connections=WORKERS,
    tcp_keepalive=True,
    retries={"mode": "standard"},
    request_checksum_calculation="when_required",
    response_checksum_validation="when_required",
    parameter_validation=False,
)
session = boto3.Session()
s3 = session.client("s3", config=config)
dynamodb = session.client("dynamodb", config=config)
model = Model(
    s3.get_object(Bucket=os.environ["GIEMSA_MODEL_BUCKET"], Key=f"{STAGE}/model.onnx")["Body"].read(),
    threads=ORT_THREADS,
)
pool = ThreadPoolExecutor(WORKERS)


def handler(event, _context):
    failed = pool.map(answer, objects_of(event))
    return {"batchItemFailures": [{"itemIdentifier": message_id} for message_id in failed if message_id]}


def answer(delivered):
    message_id, bucket, key, sequencer = delivered
    try:
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
        put_current(record, index_keys(record, sequencer))
        return None
    except Exception:
        logging.exception("%s failed", key)
        return message_id


def put_current(record, keys):
    item = {name: attribute(value) for name, value in (record | keys).items()}
    try:
        dynamodb.put_item(
            TableName=TABLE,
            Item=item,
            ConditionExpression="attribute_not_exists(pk) OR sequencer <= :sequencer",
            ExpressionAttributeValues={":sequencer": item["sequencer"]},
        )
    except dynamodb.exceptions.ConditionalCheckFailedException:
        pass  # A newer image was faster.


def attribute(value):
    match value:
        case bool():
            return {"BOOL": value}
        case str():
            return {"S": value}
        case int() | float():
            return {"N": repr(value)}
        case dict():
            return {"M": {name: attribute(inner) for name, inner in value.items()}}
        case list():
            return {"L": [attribute(inner) for inner in value]}
    raise TypeError(f"{type(value)} is not an attribute")

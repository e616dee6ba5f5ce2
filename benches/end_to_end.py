"""Giemsa's classifier against Python handlers: same images, model, S3, DynamoDB and Runtime API, in one run.

    benches/run                     # builds everything, then this script with its defaults
    benches/run --repetitions 9 --vcpus 2

Every repetition runs every contestant once, in turn, each in a fresh process; what counts are the ratios within a
repetition. It never measures a contestant whose answers differ from Giemsa's, and leaves no process behind.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from datetime import datetime, timezone
from pathlib import Path
from urllib.parse import quote_plus

import boto3
from botocore.config import Config

import bench_images
from lambda_api import Contestant, RuntimeApi

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
INPUT, MODELS, RESULTS, TABLE = "giemsa-input", "giemsa-models", "giemsa-results", "giemsa"
GIEMSA, TUNED, SEQUENTIAL = "giemsa", "tuned", "sequential"
# 1,769 MB is what AWS gives one vCPU for.
MB_PER_VCPU = 1769
# What the tuned handler may choose from.
WORKERS, ORT_THREADS = (1, 2, 4, 8, 16), (1, 2)
PROBABILITY_TOLERANCE = 0.02


def main():
    args = arguments()
    everywhere = os.sched_getaffinity(0)
    # With one vCPU the function has a processor for itself, as in Lambda, where S3 and DynamoDB run elsewhere.
    cpus = {min(everywhere)} if args.vcpus == 1 and len(everywhere) > 1 else everywhere
    rest = everywhere - cpus or everywhere
    os.sched_setaffinity(0, rest)
    with ExitStack() as stack:
        # In memory where there is such a folder: how fast this machine's disk syncs is nobody's merit.
        memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="giemsa-bench-", dir=memory)))
        endpoints = args.endpoints or stack.enter_context(servers(args.giemsa, folder))
        bench = Bench(args, folder, endpoints, cpus)
        report = bench.run()
    path = args.out / f"{datetime.now(timezone.utc):%Y-%m-%dT%H%M}-{args.vcpus}vcpu.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n")
    print("\n" + report["table"] + f"\nsaved to {os.path.relpath(path)}")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--vcpus", type=int, choices=(1, 2), default=1,
                        help="1: the function alone on one processor, servers on the others; 2: all share all")
    parser.add_argument("--only", nargs="+", help="names of workloads")
    parser.add_argument("--contestants", nargs="+", default=[GIEMSA, TUNED, SEQUENTIAL])
    parser.add_argument("--classifier", type=Path, default=ROOT / "target/release/classifier")
    parser.add_argument("--giemsa", type=Path, default=ROOT / "target/release/giemsa")
    parser.add_argument("--endpoints", nargs=2, metavar=("S3", "DYNAMODB"),
                        help="URLs of servers that run already, with buckets and table; default: starts its own")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    args = parser.parse_args()
    for path in [args.classifier] + ([] if args.endpoints else [args.giemsa]):
        if not path.is_file():
            parser.error(f"{path} is not there; benches/run builds it")
    if args.repetitions < 1:
        parser.error(f"--repetitions {args.repetitions}: expected 1 or more")
    return args


@contextmanager
def servers(giemsa: Path, folder: Path):
    """The embedded S3 and DynamoDB, without the worker that would answer the uploads itself."""
    ports = [free_port() for _ in range(3)]
    command = [giemsa, "up", "--no-worker", "--data-dir", folder / "data", "--s3-port", ports[0],
               "--dynamodb-port", ports[1], "--http-port", ports[2]]
    with open(folder / "servers.log", "w") as log:
        process = subprocess.Popen([str(part) for part in command], stdout=log, stderr=log)
    try:
        endpoints = [f"http://127.0.0.1:{port}" for port in ports[:2]]
        for attempt in range(100):
            if process.poll() is not None or attempt == 99:
                raise SystemExit(f"the servers did not start:\n{(folder / 'servers.log').read_text()}")
            try:
                s3, dynamodb = clients(endpoints)
                s3.head_bucket(Bucket=RESULTS)
                dynamodb.describe_table(TableName=TABLE)
                break
            except Exception:
                time.sleep(0.2)
        yield endpoints
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_port() -> int:
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def clients(endpoints):
    # giemsa's servers accept these on the loopback only; they protect nothing.
    keys = {"aws_access_key_id": "giemsa", "aws_secret_access_key": "giemsa-local", "region_name": "eu-central-1"}
    config = Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"})
    return (boto3.client("s3", endpoint_url=endpoints[0], config=config, **keys),
            boto3.client("dynamodb", endpoint_url=endpoints[1], config=config, **keys))


class Bench:
    def __init__(self, args, folder, endpoints, cpus):
        self.args, self.endpoints, self.cpus = args, endpoints, cpus
        self.s3, self.dynamodb = clients(endpoints)
        self.api = RuntimeApi()
        self.log = open(folder / "contestants.log", "w+")
        self.folder = folder
        self.contestants = [name for name in (GIEMSA, TUNED, SEQUENTIAL) if name in args.contestants]
        self.tuning = {}

    def run(self) -> dict:
        workloads = [w for w in self.workloads() if not self.args.only or w["name"] in self.args.only]
        if not workloads:
            raise SystemExit(f"--only {self.args.only}: no such workload")
        report = {"machine": machine(), "vcpus": self.args.vcpus, "repetitions": self.args.repetitions,
                  "versions": versions(), "workloads": []}
        try:
            for workload in workloads:
                report["workloads"].append(self.measure(workload))
        except RuntimeError:
            self.log.seek(0)
            sys.stderr.write(self.log.read()[-4000:])
            raise
        report["table"] = table(report["workloads"], self.contestants)
        return report

    def workloads(self):
        """Uploads what each workload reads, only when it is its turn."""
        sample = ROOT / "models/thin-smear.onnx"
        crops = lambda: self.upload("crops", bench_images.crops(ROOT / "sample-images", 400))
        yield {"name": "crops", "what": "400 crops, sample model, batches of 10", "model": sample, "batch": 10,
               "images": crops}
        yield {"name": "crops-100", "what": "400 crops, sample model, batches of 100", "model": sample,
               "batch": 100, "images": crops}
        yield {"name": "fields", "what": "20 fields of 12 megapixels, sample model, batches of 10", "model": sample,
               "batch": 10, "images": lambda: self.upload("fields", bench_images.fields(ROOT / "sample-images", 20))}
        resnet = ROOT / "target/resnet34.onnx"
        if not self.args.only or "resnet34" in self.args.only:
            if not resnet.is_file():
                subprocess.run([sys.executable, HERE / "make_resnet34.py", resnet], check=True)
        yield {"name": "resnet34", "what": "40 crops, ResNet-34-shaped network, batches of 10", "model": resnet,
               "batch": 10, "images": lambda: crops()[:40]}

    def upload(self, folder: str, images) -> list[dict]:
        uploaded = []
        for index, (name, body) in enumerate(images):
            key = f"{folder}/slide {index % 4}/{name}"
            etag = self.s3.put_object(Bucket=INPUT, Key=key, Body=body)["ETag"].strip('"')
            uploaded.append({"key": key, "size": len(body), "eTag": etag, "sequencer": f"{index + 1:018X}"})
        return uploaded

    def measure(self, workload: dict) -> dict:
        print(f"\n{workload['name']}: {workload['what']}", flush=True)
        images = workload["images"]()
        for name in self.contestants:
            self.s3.put_object(Bucket=MODELS, Key=f"{stage_of(name)}/model.onnx", Body=workload["model"].read_bytes())
        batches = [images[i:i + workload["batch"]] for i in range(0, len(images), workload["batch"])]
        if TUNED in self.contestants:
            self.tune(workload["name"], batches)
        rounds = []
        for number in range(self.args.repetitions):
            turn = number % len(self.contestants)
            found = {}
            for name in self.contestants[turn:] + self.contestants[:turn]:
                found[name] = self.run_once(name, batches)
            rounds.append(found)
            line = ", ".join(f"{name} {found[name]['images_per_s']:.1f}/s" for name in self.contestants)
            print(f"  repetition {number + 1}: {line}", flush=True)
        agreement = self.compare(images)
        mean_bytes = sum(image["size"] for image in images) / len(images)
        return {"name": workload["name"], "what": workload["what"], "mean_image_bytes": round(mean_bytes),
                "tuning": self.tuning, "rounds": rounds, "agreement": agreement,
                "timings_ms": {name: self.timings(name, images) for name in self.contestants}}

    def tune(self, name: str, batches):
        """Tries every setting of the tuned handler on a part of the work, twice, and keeps the best."""
        part = batches[: max(1, len(batches) // 4)]
        tried = {}
        for workers in WORKERS:
            for threads in ORT_THREADS[: max(1, len(self.cpus))]:
                self.tuning = {"workers": workers, "ort_threads": threads}
                rates = [self.run_once(TUNED, part)["images_per_s"] for _ in range(2)]
                tried[workers, threads] = max(rates)
        (workers, threads), rate = max(tried.items(), key=lambda item: item[1])
        shown = [{"workers": w, "ort_threads": t, "images_per_s": round(r, 1)} for (w, t), r in tried.items()]
        self.tuning = {"workers": workers, "ort_threads": threads, "tried": shown}
        print(f"  tuned handler of {name}: {workers} workers, {threads} onnxruntime threads "
              f"({rate:.1f}/s; worst of {len(tried)} settings {min(tried.values()):.1f}/s)", flush=True)

    def run_once(self, name: str, batches) -> dict:
        """One fresh process: one image (cold start), one batch to warm up, then all batches on the clock."""
        contestant = Contestant(self.api, self.command(name), self.environment(name), self.cpus, self.log)
        try:
            first = contestant.invoke(sqs_event(batches[0][:1]))
            contestant.invoke(sqs_event(batches[-1][:10]))
            cpu_before, started = contestant.cpu_s(), time.perf_counter()
            for batch in batches:
                ended = contestant.invoke(sqs_event(batch))
            count = sum(map(len, batches))
            return {"cold_start_s": first - contestant.started_at, "images_per_s": count / (ended - started),
                    "cpu_ms_per_image": (contestant.cpu_s() - cpu_before) / count * 1e3,
                    "peak_mib": contestant.peak_bytes() / 2**20}
        finally:
            contestant.stop()

    def command(self, name: str) -> list[str]:
        if name == GIEMSA:
            return [str(self.args.classifier)]
        return [sys.executable, str(HERE / "python_handler/bootstrap.py"), name]

    def environment(self, name: str) -> dict:
        environment = {
            "PATH": os.environ["PATH"], "LANG": "C.UTF-8", "HOME": str(self.folder),
            "AWS_ACCESS_KEY_ID": "giemsa", "AWS_SECRET_ACCESS_KEY": "giemsa-local", "AWS_REGION": "eu-central-1",
            "AWS_DEFAULT_REGION": "eu-central-1",
            "AWS_ENDPOINT_URL_S3": self.endpoints[0], "AWS_ENDPOINT_URL_DYNAMODB": self.endpoints[1],
            "AWS_LAMBDA_FUNCTION_NAME": "bench", "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(MB_PER_VCPU * self.args.vcpus),
            "AWS_LAMBDA_LOG_GROUP_NAME": "bench", "AWS_LAMBDA_LOG_STREAM_NAME": "bench",
            "GIEMSA_STAGE": stage_of(name), "GIEMSA_INPUT_BUCKET": INPUT, "GIEMSA_MODEL_BUCKET": MODELS,
            "GIEMSA_RESULTS_BUCKET": RESULTS, "GIEMSA_RESULTS_PREFIX": "results", "GIEMSA_TABLE": TABLE,
        }
        if name == TUNED:
            environment |= {"BENCH_WORKERS": str(self.tuning["workers"]),
                            "BENCH_ORT_THREADS": str(self.tuning["ort_threads"])}
        return environment

    def items(self, name: str, images) -> list[dict]:
        found = []
        for image in images:
            key = {"pk": {"S": f"result#{stage_of(name)}#{INPUT}/{image['key']}"}, "sk": {"S": "result"}}
            item = self.dynamodb.get_item(TableName=TABLE, Key=key).get("Item")
            if item is None or item["status"]["S"] != "classified":
                raise SystemExit(f"{name} did not classify {image['key']}: {item}")
            found.append(item)
        return found

    def compare(self, images) -> dict:
        """How far each Python handler's probabilities are from Giemsa's; more than the tolerance ends the run."""
        if GIEMSA not in self.contestants:
            return {}
        agreement = {}
        ours = self.items(GIEMSA, images)
        for name in self.contestants[1:]:
            theirs = self.items(name, images)
            largest = max(abs(float(a["probabilities"]["M"][label]["N"]) - float(b["probabilities"]["M"][label]["N"]))
                          for a, b in zip(ours, theirs) for label in a["probabilities"]["M"])
            labels = sum(a["label"]["S"] == b["label"]["S"] for a, b in zip(ours, theirs))
            agreement[name] = {"same_label": labels, "of": len(images), "largest_difference": largest}
            print(f"  {name}: {labels} of {len(images)} labels as giemsa's, probabilities within {largest:.4f}")
            if largest > PROBABILITY_TOLERANCE:
                raise SystemExit(f"{name} and giemsa differ by {largest}; they would not do the same job")
        return agreement

    def timings(self, name: str, images) -> dict:
        """Median milliseconds of each step, as the contestant recorded them."""
        steps = [item["timings_ms"]["M"] for item in self.items(name, images)]
        return {step: round(statistics.median(float(s[step]["N"]) for s in steps), 3) for step in steps[0]}


def stage_of(name: str) -> str:
    return f"bench-{name}"


def sqs_event(images) -> bytes:
    """What Lambda gets when S3 notifies a queue: one message an object, keys form-encoded."""
    now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    records = []
    for number, image in enumerate(images):
        notice = {"Records": [{
            "eventVersion": "2.1", "eventSource": "aws:s3", "awsRegion": "eu-central-1", "eventTime": now,
            "eventName": "ObjectCreated:Put", "userIdentity": {"principalId": "bench"},
            "requestParameters": {"sourceIPAddress": "127.0.0.1"}, "responseElements": {},
            "s3": {"s3SchemaVersion": "1.0", "configurationId": "bench",
                   "bucket": {"name": INPUT, "ownerIdentity": {"principalId": "bench"}, "arn": f"arn:aws:s3:::{INPUT}"},
                   "object": {**image, "key": quote_plus(image["key"], safe="/")}},
        }]}
        records.append({
            "messageId": f"message-{number}", "receiptHandle": "bench", "body": json.dumps(notice),
            "attributes": {"ApproximateReceiveCount": "1"}, "messageAttributes": {}, "md5OfBody": "",
            "eventSource": "aws:sqs", "eventSourceARN": "arn:aws:sqs:eu-central-1:000000000000:bench",
            "awsRegion": "eu-central-1",
        })
    return json.dumps({"Records": records}).encode()


def table(workloads, contestants) -> str:
    """Giemsa against each other contestant: median of the ratios within a repetition, (smallest to largest)."""
    lines = ["| workload | against | images/s | processor time per image | cold start | peak memory |",
             "|---|---|---|---|---|---|"]
    for workload in workloads:
        for name in [c for c in contestants if c != GIEMSA and GIEMSA in contestants]:
            cells = []
            for measure in ("images_per_s", "cpu_ms_per_image", "cold_start_s", "peak_mib"):
                ratios = [r[GIEMSA][measure] / r[name][measure] for r in workload["rounds"]]
                cells.append(f"{statistics.median(ratios):.2f} × ({min(ratios):.2f}–{max(ratios):.2f})")
            lines.append(f"| {workload['what']} | {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def machine() -> dict:
    cpu = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
    return {"cpu": cpu, "processors": os.cpu_count(), "memory_gib": round(
        os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1), "system": platform.platform()}


def versions() -> dict:
    from importlib.metadata import version

    names = ("boto3", "pillow", "onnxruntime", "numpy")
    commit = subprocess.run(["git", "-C", ROOT, "describe", "--always", "--dirty"], capture_output=True, text=True)
    return {"python": platform.python_version(), "giemsa": commit.stdout.strip(), **{n: version(n) for n in names}}


if __name__ == "__main__":
    main()

"""What both Python handlers do with one image: bytes to record, with Pillow, numpy and onnxruntime.

It does the job of Giemsa as far as a capable user would write it: the preprocessing `fit`, the temperature and
the labels come from the model file, EXIF orientation is applied, a broken image is a rejected record. It does not
look for a new model, keep to a deadline or bound its memory. It never talks to AWS.
"""

import hashlib
import io
import json
import time
from datetime import datetime, timezone

import numpy as np
import onnxruntime
from PIL import Image, ImageOps, UnidentifiedImageError


class Model:
    """A loaded model; `threads` is onnxruntime's own pool for one image, 0 for its default."""

    def __init__(self, onnx_bytes: bytes, threads: int = 0):
        options = onnxruntime.SessionOptions()
        if threads:
            options.intra_op_num_threads = threads
            options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(onnx_bytes, options, providers=["CPUExecutionProvider"])
        self.sha256 = hashlib.sha256(onnx_bytes).hexdigest()
        meta = self.session.get_modelmeta().custom_metadata_map
        self.name, self.version = meta["giemsa.name"], meta["giemsa.version"]
        self.labels = json.loads(meta["giemsa.labels"])
        self.input = json.loads(meta["giemsa.input"])
        self.review = json.loads(meta.get("giemsa.review", "{}"))
        self.positive = json.loads(meta.get("giemsa.positive", "[]"))
        self.temperature = float(meta["giemsa.temperature"])
        if self.input["resize"] != "fit" or self.input["color"] != "rgb" or meta["giemsa.output"] != "logits":
            raise ValueError(f"this handler reads rgb, resize fit and logits only; the model wants {meta}")
        self.input_name = self.session.get_inputs()[0].name
        self.mean, self.std = np.float32(self.input["mean"]), np.float32(self.input["std"])
        self.scale = np.float32(self.input.get("scale", 1 / 255))

    def tensor(self, image: Image.Image) -> np.ndarray:
        """The input for `image`: scaled to fit, centred on the padding, normalised."""
        width, height = self.input["width"], self.input["height"]
        if image.size != (width, height):
            scale = min(width / image.width, height / image.height)
            size = (max(1, int(image.width * scale + 0.5)), max(1, int(image.height * scale + 0.5)))
            canvas = Image.new("RGB", (width, height), tuple(self.input.get("pad", [0, 0, 0])))
            resized = image.resize(size, Image.Resampling.BILINEAR)
            canvas.paste(resized, ((width - size[0]) // 2, (height - size[1]) // 2))
            image = canvas
        values = (np.asarray(image, dtype=np.float32) * self.scale - self.mean) / self.std
        if self.input["layout"] == "nchw":
            values = values.transpose(2, 0, 1)
        return np.ascontiguousarray(values[None])

    def probabilities(self, tensor: np.ndarray) -> list[float]:
        logits = self.session.run(None, {self.input_name: tensor})[0].reshape(-1).astype(np.float64)
        scaled = logits / self.temperature
        exponentials = np.exp(scaled - scaled.max())
        return [round(float(p), 6) for p in exponentials / exponentials.sum()]


def open_rgb(body: bytes) -> tuple[Image.Image, str]:
    """The picture upright in RGB, and its format."""
    image = Image.open(io.BytesIO(body))
    name = image.format.lower()
    image = ImageOps.exif_transpose(image)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        flat = Image.new("RGBA", image.size, (255, 255, 255, 255))
        flat.alpha_composite(image)
        image = flat
    return image.convert("RGB"), name


def record_of(model: Model, stage: str, bucket: str, key: str, found: dict, body: bytes, fetch_ms: float) -> dict:
    """The record of one image; `found` is the answer of GetObject."""
    etag = found["ETag"].strip('"')
    identity = "\0".join([bucket, key, etag, model.sha256]).encode()
    uploaded_at = found["LastModified"].astimezone(timezone.utc)
    record = {
        "schema": "giemsa.record/1",
        "result_id": hashlib.sha256(identity).hexdigest()[:16],
        "image": {
            "bucket": bucket,
            "key": key,
            "etag": etag,
            "size_bytes": len(body),
            "uploaded_at": uploaded_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "sha256": hashlib.sha256(body).hexdigest(),
        },
        "slide": key.rpartition("/")[0],
        "stage": stage,
        "needs_review": False,
        "model": {"name": model.name, "version": model.version, "sha256": model.sha256},
        "software": "python-handler",
    }
    started = time.perf_counter()
    try:
        image, image_format = open_rgb(body)
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        record |= {"status": "rejected", "reject": {"code": "not_an_image", "message": str(error)}}
        return record
    decoded = time.perf_counter()
    tensor = model.tensor(image)
    preprocessed = time.perf_counter()
    probabilities = dict(zip(model.labels, model.probabilities(tensor)))
    inferred = time.perf_counter()

    label = max(probabilities, key=probabilities.get)
    reason = review_reason(model.review, label, probabilities)
    record["image"] |= {"width_px": image.width, "height_px": image.height, "format": image_format}
    record |= {
        "status": "classified",
        "label": label,
        "confidence": probabilities[label],
        "probabilities": probabilities,
        "positive": label in model.positive,
        "needs_review": reason is not None,
        "timings_ms": {
            "fetch": round(fetch_ms, 3),
            "decode": round((decoded - started) * 1e3, 3),
            "preprocess": round((preprocessed - decoded) * 1e3, 3),
            "infer": round((inferred - preprocessed) * 1e3, 3),
        },
        "classified_at": datetime.now(timezone.utc).isoformat(),
    }
    if reason:
        record["review_reason"] = reason
    return record


def review_reason(rule: dict, label: str, probabilities: dict) -> str | None:
    if probabilities[label] < rule.get("confidence_below", 0):
        return f"confidence {probabilities[label]:.3f} is below {rule['confidence_below']:.3f}"
    for other, limit in rule.get("label_above", {}).items():
        if other != label and probabilities.get(other, 0) > limit:
            return f"{other} is possible: {probabilities[other]:.3f} is above {limit:.3f}"
    return None


def result_key(prefix: str, record: dict) -> str:
    date = record["image"]["uploaded_at"][:10]
    return f"{prefix}/stage={record['stage']}/date={date}/{record['image']['key']}.{record['result_id']}.json"


def result_json(record: dict) -> bytes:
    """The record without times: the same event writes the same bytes."""
    stable = {name: value for name, value in record.items() if name not in ("timings_ms", "classified_at")}
    return json.dumps(stable).encode()


def index_keys(record: dict, sequencer: str) -> dict:
    """The attributes that the table's keys and indexes are made of; the same as Giemsa's."""
    image, stage, shard = record["image"], record["stage"], record["result_id"][0]
    uploaded, which = image["uploaded_at"], "=" + record["label"] if "label" in record else "!rejected"
    keys = {
        "pk": f"result#{stage}#{image['bucket']}/{image['key']}",
        "sk": "result",
        "slide_pk": f"{stage}#{record['slide']}",
        "slide_sk": image["key"],
        "label_pk": f"{stage}#{which}#{uploaded[:10]}#{shard}",
        "label_sk": f"{uploaded}#{record['result_id']}",
        "sequencer": sequencer.upper().ljust(64, "0"),
    }
    if record["needs_review"]:
        keys |= {"review_pk": f"{stage}#{shard}", "review_sk": f"{record['confidence']:.6f}#{record['result_id']}"}
    return keys


def objects_of(event: dict):
    """Message id, bucket, decoded key and sequencer of every object of an SQS event of S3 notifications."""
    from urllib.parse import unquote_plus

    for message in event["Records"]:
        for notice in json.loads(message["body"]).get("Records", []):
            s3 = notice["s3"]
            yield message["messageId"], s3["bucket"]["name"], unquote_plus(s3["object"]["key"]), s3["object"]["sequencer"]

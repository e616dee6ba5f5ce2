"""Trains the thin-smear model: from labelled cells to one ONNX file and a report of how good it is.

    python models/train/train.py --data ../shared/data/thin-smear --renders DIR --out models/thin-smear.onnx

It never tunes on test patients, and never writes an image. It keeps one invariant: the figures in the report
are those of the written file, run by onnxruntime, on patients that training has not seen.
"""

import argparse
import json
import os
import platform
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import onnxruntime
import tensorflow as tf

import network
from augment import Batches
from data import LABELS, SIDE_PX, load_exact, load_fine, read_manifest, read_renders, split_patients
from measure import choose_review, figures, figures_with_intervals, fit_temperature, log_loss, softmax

SCALE = 1 / 255
VERSION = "1"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with manifest.csv and the labelled cells")
    parser.add_argument("--renders", type=Path, required=True, help="folder of `render_samples training`")
    parser.add_argument("--out", type=Path, required=True, help="the ONNX file to write")
    parser.add_argument("--epochs", type=int, default=14)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seed", type=int, default=20261122)
    args = parser.parse_args()

    started = time.monotonic()
    keras.utils.set_random_seed(args.seed)
    tf.config.experimental.enable_op_determinism()

    real, donors = read_manifest(args.data)
    part_of = split_patients(donors, args.seed)
    parts = {part: [s for s in real if part_of[s.patient] == part] for part in ("train", "calibration", "test")}
    renders = read_renders(args.renders)
    if not renders:
        raise SystemExit(f"{args.renders}: no renders; write some with `cargo run --example render_samples -- training`")
    print({part: len(samples) for part, samples in parts.items()}, "renders:", len(renders), flush=True)

    training = parts["train"] + renders
    exact = load_exact(training)
    pixels = exact.reshape(-1, 3).astype("float64") * SCALE
    mean, std = [[round(float(v), 4) for v in f(axis=0)] for f in (pixels.mean, pixels.std)]
    del pixels
    labels = np.array([s.label for s in training])
    batches = Batches(exact, load_fine(training), labels, args.batch, args.seed)
    calibration = load_exact(parts["calibration"])
    print(f"pictures ready after {time.monotonic() - started:.0f} s", flush=True)

    model = train(batches, normaliser(mean, std), args)

    temporary = export(model, mean, std, 1.0, {"confidence_below": 0.5, "label_above": {}})
    score = scorer(temporary.SerializeToString(), normaliser(mean, std))
    calibration_logits, calibration_labels = score(calibration), labels_of(parts["calibration"])
    temperature = fit_temperature(calibration_logits, calibration_labels)
    review = choose_review(softmax(calibration_logits, temperature))

    final = export(model, mean, std, temperature, review)
    check_against_keras(model, final, calibration[:256], normaliser(mean, std))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_bytes(final.SerializeToString())
    score = scorer(args.out.read_bytes(), normaliser(mean, std))

    test_logits, test_labels = score(load_exact(parts["test"])), labels_of(parts["test"])
    report = describe(args, parts, donors, renders, test_logits, test_labels, temperature, review)
    report["calibration"] |= {
        "log_loss_before": round(log_loss(calibration_logits, calibration_labels, 1.0), 4),
        "log_loss_after": round(log_loss(calibration_logits, calibration_labels, temperature), 4),
    }
    report["network"] = {"parameters": model.count_params(), "epochs": args.epochs, "batch": args.batch,
                         "seed": args.seed, "bytes": args.out.stat().st_size}
    report["wall_seconds"] = round(time.monotonic() - started)
    report["software"] = {"python": platform.python_version(), "keras": keras.__version__,
                          "tensorflow": tf.__version__, "onnxruntime": onnxruntime.__version__}
    report_path = args.out.with_suffix(".report.json")
    report_path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(report_path.read_text(encoding="utf-8"))


def normaliser(mean, std):
    """The formula of the Rust side: (v * scale - mean) / std, per colour."""
    mean, std = np.float32(mean), np.float32(std)
    return lambda pixels: (np.asarray(pixels, dtype=np.float32) * np.float32(SCALE) - mean) / std


def train(batches, normalise, args):
    """Trains for a fixed number of epochs and keeps the last state: nothing is picked by looking at a result."""
    model = network.build()
    steps = len(batches) * args.epochs
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, steps - 200, alpha=0.01, warmup_target=2e-3, warmup_steps=200)
    optimizer = keras.optimizers.AdamW(rate, weight_decay=network.WEIGHT_DECAY)
    optimizer.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])
    model.compile(optimizer, keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.03),
                  metrics=["accuracy"])
    for epoch in range(args.epochs):
        begun, seen = time.monotonic(), []
        for index in range(len(batches)):
            pixels, wanted = batches[index]
            seen.append(model.train_on_batch(normalise(pixels), wanted))
        batches.on_epoch_end()
        loss, accuracy = np.mean(np.array(seen, dtype="float64"), axis=0)
        print(f"epoch {epoch + 1}/{args.epochs}: loss {loss:.4f} accuracy {accuracy:.4f} "
              f"{time.monotonic() - begun:.0f} s", flush=True)
    return model


def export(model, mean, std, temperature, review):
    """The ONNX file with all that Giemsa must know of it."""
    reading = {"layout": "nchw", "width": SIDE_PX, "height": SIDE_PX, "color": "rgb", "resize": "fit",
               "pad": [0, 0, 0], "scale": SCALE, "mean": mean, "std": std}
    return network.to_onnx(model, {
        "giemsa.name": "thin-smear",
        "giemsa.version": VERSION,
        "giemsa.labels": json.dumps(LABELS),
        "giemsa.input": json.dumps(reading),
        "giemsa.output": "logits",
        "giemsa.temperature": str(temperature),
        "giemsa.review": json.dumps(review),
        "giemsa.positive": json.dumps(["parasitized"]),
    })


def scorer(model_bytes, normalise):
    """A function from pixels [n, SIDE_PX, SIDE_PX, 3] to logits [n, 2], run by onnxruntime."""
    session = onnxruntime.InferenceSession(model_bytes, providers=["CPUExecutionProvider"])

    def score(pixels):
        parts = np.array_split(pixels, max(1, len(pixels) // 256))
        return np.concatenate([session.run(["logits"], {"image": normalise(p).transpose(0, 3, 1, 2)})[0]
                               for p in parts])

    return score


def check_against_keras(model, exported, pixels, normalise):
    """Stops unless the file gives the logits of the Keras network within 1e-4."""
    wanted = model.predict(normalise(pixels), verbose=0)
    found = scorer(exported.SerializeToString(), normalise)(pixels)
    worst = float(np.abs(wanted - found).max())
    print(f"largest difference between Keras and ONNX: {worst:.2e}", flush=True)
    if not worst < 1e-4:
        raise SystemExit(f"ONNX and Keras differ by {worst:.2e}, allowed is 1e-4: the export is wrong")


def labels_of(samples):
    return np.array([s.label for s in samples])


def describe(args, parts, donors, renders, logits, labels, temperature, review):
    """What a reader of the model card needs, from test patients only."""
    probabilities = softmax(logits, temperature)
    patients = np.array([s.patient for s in parts["test"]])
    healthy = np.array([donors[p] == "healthy" for p in patients])
    rates = [float((probabilities[patients == p].argmax(axis=1) == 0).mean()) for p in np.unique(patients[healthy])]
    sizes = {part: {"patients": len({s.patient for s in samples}), "images": len(samples),
                    "parasitized": sum(s.label == 0 for s in samples)} for part, samples in parts.items()}
    return {
        "model": {"name": "thin-smear", "version": VERSION, "labels": LABELS},
        "data": sizes | {"renders_in_training": len(renders)},
        "test": figures_with_intervals(probabilities, labels, patients, review),
        "test_healthy_donors": {"patients": len(rates), "share_called_parasitized": {
            "mean": round(float(np.mean(rates)), 4), "highest": round(max(rates), 4)}},
        "calibration": {"temperature": temperature, "review": review,
                        "test_log_loss_before": round(log_loss(logits, labels, 1.0), 4),
                        "test_log_loss_after": round(log_loss(logits, labels, temperature), 4),
                        "test_calibration_error_before": round(
                            figures(softmax(logits), labels, review)["expected_calibration_error"], 4)},
    }


if __name__ == "__main__":
    main()

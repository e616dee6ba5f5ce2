"""Scores the folder of sample images and compares with its expected.csv.

    python models/train/check_samples.py --model models/thin-smear.onnx --samples sample-images

It reads the files with Pillow, apart from the Rust side, so that a mistake in either shows. It keeps one
invariant: it fails if one label is wrong, a file has no row, or a row has no file.
"""

import argparse
import csv
import json
import unicodedata
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from data import fit, open_rgb
from measure import needs_review, softmax


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--samples", type=Path, required=True)
    args = parser.parse_args()

    with open(args.samples / "expected.csv", newline="", encoding="utf-8") as file:
        rows = {row["path"]: row for row in csv.DictReader(file)}
    files = {path.relative_to(args.samples).as_posix() for path in args.samples.rglob("*") if path.is_file()}
    problems = [f"{path}: no row in expected.csv" for path in sorted(files - rows.keys())]
    problems += [f"{path}: no such file" for path in sorted(rows.keys() - files)]
    problems += [f"{path}: not in precomposed form" for path in rows if unicodedata.normalize("NFC", path) != path]

    classify, labels = load(args.model)
    wanted = [row for row in rows.values() if row["status"] == "classified" and row["path"] in files]
    confidences, flagged = [], 0
    for row in wanted:
        probabilities, review = classify(args.samples / row["path"])
        answer = labels[int(probabilities.argmax())]
        confidences.append(float(probabilities.max()))
        flagged += review
        if answer != row["label"]:
            problems.append(f"{row['path']}: {answer} ({confidences[-1]:.3f}), expected {row['label']}")
        if review or answer != row["label"]:
            print(f"  review: {row['path']} {answer} {confidences[-1]:.3f} (truth {row['label']})")
    print(f"{len(wanted)} images to classify, {flagged} sent to review, confidence: lowest {min(confidences):.3f}, "
          f"median {np.median(confidences):.3f}")
    if problems:
        raise SystemExit("\n".join(problems))
    print("all labels as expected")


def load(path: Path):
    """A function from an image's path to its probabilities and whether it needs review; and the labels."""
    meta = {p.key: p.value for p in onnx.load(path).metadata_props}
    spec, review = json.loads(meta["giemsa.input"]), json.loads(meta["giemsa.review"])
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    mean, std = np.float32(spec["mean"]), np.float32(spec["std"])

    def classify(image_path):
        pixels = np.asarray(fit(open_rgb(image_path), spec["width"]), dtype=np.float32)
        values = ((pixels * np.float32(spec["scale"]) - mean) / std).transpose(2, 0, 1)[None]
        logits = session.run(["logits"], {"image": values})[0]
        probabilities = softmax(logits, float(meta["giemsa.temperature"]))
        return probabilities[0], bool(needs_review(probabilities, review)[0])

    return classify, json.loads(meta["giemsa.labels"])


if __name__ == "__main__":
    main()

"""Scores the folder of sample images and compares with its expected.csv.

    python models/train/check_samples.py --model models/thin-smear.onnx --samples sample-images

It reads the files with Pillow, apart from the Rust side, so that a mistake in either shows. It keeps one
invariant: it fails if a label or a wanted review is wrong, a file has no row, or a row has no file.
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
from measure import softmax
from review import needs_review


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
        probabilities, outlier, review = classify(args.samples / row["path"])
        answer, confidence = labels[int(probabilities.argmax())], float(probabilities.max())
        flagged += review
        if row["label"]:
            confidences.append(confidence)
        if answer != (row["label"] or answer):
            problems.append(f"{row['path']}: {answer} ({confidence:.3f}), expected {row['label']}")
        if row["needs_review"] and review != (row["needs_review"] == "yes"):
            problems.append(f"{row['path']}: review {review}, expected {row['needs_review']} (outlier score {outlier:.3f})")
        if review:
            print(f"  review: {row['path']} {answer} {confidence:.3f}, outlier {outlier:.3f} (truth {row['label'] or 'no cell'})")
    print(f"{len(wanted)} images to classify, {flagged} sent to review; confidence of the cells: lowest {min(confidences):.3f}, "
          f"median {np.median(confidences):.3f}")
    if problems:
        raise SystemExit("\n".join(problems))
    print("all as expected")


def load(path: Path):
    """A function from an image's path to its probabilities, outlier score and whether it needs review; and the labels."""
    meta = {p.key: p.value for p in onnx.load(path).metadata_props}
    spec, review = json.loads(meta["giemsa.input"]), json.loads(meta["giemsa.review"])
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    mean, std = np.float32(spec["mean"]), np.float32(spec["std"])

    def classify(image_path):
        pixels = np.asarray(fit(open_rgb(image_path), spec["width"]), dtype=np.float32)
        values = ((pixels * np.float32(spec["scale"]) - mean) / std).transpose(2, 0, 1)[None]
        logits, outlier = session.run(["logits", "outlier"], {"image": values})
        probabilities = softmax(logits, float(meta["giemsa.temperature"]))
        flagged = outlier.item() > review["outlier_above"] or bool(needs_review(probabilities, review)[0])
        return probabilities[0], outlier.item(), flagged

    return classify, json.loads(meta["giemsa.labels"])


if __name__ == "__main__":
    main()

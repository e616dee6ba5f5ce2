"""Writes into the sample model its own proof: drawn sample images, and the scores for them.

    python models/train/prove.py --model models/thin-smear.onnx

`train.py` writes it from PyTorch when it trains; this script writes it from onnxruntime, into a file whose network is not
at hand any more. It keeps one invariant: of the file only the metadata changes.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import onnx

from data import SIDE_PX, fit, open_rgb

PROJECT = Path(__file__).resolve().parents[2]
sys.path.append(str(PROJECT / "models" / "convert"))
import proof  # noqa: E402

# Drawn, as all sample images are: a healthy cell, two sick ones, and what is not a cell.
IMAGES = ("slide-001-healthy/cell-01.png", "slide-002-falciparum/cell-08.png", "slide-002-falciparum/cell-12.png",
          "not-a-cell/debris.png")


def pictures() -> np.ndarray:
    """The sample images at the size of the network's input, uint8 [N, SIDE_PX, SIDE_PX, 3]."""
    return np.stack([np.asarray(fit(open_rgb(PROJECT / "sample-images" / image), SIDE_PX)) for image in IMAGES])


def main():
    import onnxruntime

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="the ONNX file; it is changed")
    path = parser.parse_args().model

    model = onnx.load(path)
    entries = {entry.key: entry.value for entry in model.metadata_props}
    spec, shown = json.loads(entries["giemsa.input"]), pictures()
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    rows = [session.run(["logits", "outlier"], {"image": proof.tensor(picture, spec)}) for picture in shown]
    text = proof.proof(shown, [logits for logits, _ in rows], f"onnxruntime {onnxruntime.__version__}",
                       outliers=[outlier for _, outlier in rows])
    onnx.helper.set_model_props(model, entries | {"giemsa.proof": text})
    path.write_bytes(model.SerializeToString())
    print(f"{path}: {len(shown)} pictures, {len(text)} bytes of proof")


if __name__ == "__main__":
    main()

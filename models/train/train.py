"""Trains the thin-smear model: from labelled cells to one ONNX file, and a report of how good it is.

    python models/train/train.py --data ../shared/data/thin-smear --drawn target/training/drawn \\
        --out models/thin-smear.onnx --report models/report

Six networks are trained with the same settings: one for each of five folds of patients, and the one that ships, on all
patients. Every figure about cells comes from the five, each on the patients it has not seen; temperature and review limits
likewise (cross-fitting, as scikit-learn's CalibratedClassifierCV with ensemble=False), and where they are judged, they come
from the other four folds. It never writes a picture of a patient. It keeps one invariant: nothing that is chosen for a
fold's patients was chosen with their labels.
"""

import argparse
import hashlib
import json
import os
import platform
import time
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import onnxruntime
import torch

import augment
import fitting
import measure
import network
import prove
import report
import review
import shortcuts
from data import (LABELS, POSITIVE, SIDE_PX, Sample, deal_patients, exact_pixels, fine_pixels, load, read_manifest,
                  read_outliers, read_renders)

FOLDS = 5
VERSION = "2"
# Of good cells, the share that may be sent to a person for being unlike a cell.
GOOD_CELLS_FLAGGED = 0.005


@dataclass(frozen=True)
class Job:
    """One network to train: `fold` is left out, FOLDS leaves none out."""

    fold: int
    seed: int
    folder: Path
    key: str

    @property
    def weights(self) -> Path:
        return self.folder / f"network-{self.fold}-{self.key[:12]}.pt"


@dataclass
class Material:
    """All pictures to train on, in the order of `samples`."""

    samples: list[Sample]
    pictures: fitting.Pictures
    fold_of: dict[str, int]
    kinds: list[str]

    def fold_of_rows(self) -> np.ndarray:
        """The fold of each row, -1 for what is of no patient."""
        return np.array([self.fold_of.get(s.patient, -1) for s in self.samples])

    def of_job(self, fold: int) -> tuple[fitting.Pictures, fitting.Pictures]:
        """Cells of the other folds with all drawn cells; drawn outliers but for the kinds this fold is kept from."""
        is_outlier = np.array([s.label < 0 for s in self.samples])
        unseen = np.isin([s.kind for s in self.samples], held_out_kinds(self.kinds, fold))
        cells = np.flatnonzero(~is_outlier & (self.fold_of_rows() != fold))
        return self.pictures.rows(cells), self.pictures.rows(np.flatnonzero(is_outlier & ~unseen))


def held_out_kinds(kinds: list[str], fold: int) -> list[str]:
    """The kinds of drawn outliers that the network of a fold never sees; none for the one that ships."""
    return [kind for index, kind in enumerate(kinds) if index % FOLDS == fold]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with manifest.csv and the labelled cells")
    parser.add_argument("--drawn", type=Path, required=True,
                        help="folder with what render_samples drew: cells/, outliers/ and outliers-test/")
    parser.add_argument("--out", type=Path, required=True, help="the ONNX file to write")
    parser.add_argument("--report", type=Path, required=True, help="folder for report.json, report.md and the plots")
    parser.add_argument("--work", type=Path, default=Path("target/training/networks"),
                        help="folder for trained networks: an interrupted run goes on from there")
    parser.add_argument("--candidates", type=Path, help="the JSON of candidates.py, for the report")
    parser.add_argument("--epochs", type=int, default=fitting.EPOCHS)
    parser.add_argument("--seed", type=int, default=20261123)
    args = parser.parse_args()

    started = time.monotonic()
    cells, donors = read_manifest(args.data)
    drawn, outliers = read_renders(args.drawn / "cells"), read_outliers(args.drawn / "outliers")
    test_outliers = read_outliers(args.drawn / "outliers-test")
    if not (drawn and outliers and test_outliers):
        raise SystemExit(f"{args.drawn}: expected drawings in cells/, outliers/ and outliers-test/; `make model` draws them")
    kinds = sorted({s.kind for s in outliers})
    fold_of = deal_patients(donors, FOLDS, args.seed)
    print(f"{len(cells)} cells of {len(donors)} patients, {len(drawn)} drawn cells, {len(outliers)} drawn outliers of "
          f"{len(kinds)} kinds", flush=True)

    args.work.mkdir(parents=True, exist_ok=True)
    key = settings_key(args, cells, drawn, outliers)
    jobs = [Job(fold, args.seed + fold, args.work, key) for fold in range(FOLDS + 1)]
    missing = [job for job in jobs if not job.weights.exists()]
    samples = cells + drawn + outliers
    exact = load(samples, exact_pixels)
    if missing:
        pictures = fitting.Pictures(torch.from_numpy(exact), torch.from_numpy(load(samples, fine_pixels)),
                                torch.tensor([s.label for s in samples]))
        train_all(missing, Material(samples, pictures, fold_of, kinds), args.epochs)
    networks = [read_network(job) for job in jobs]
    trained = time.monotonic() - started

    cell_pixels, folds = exact[: len(cells)], np.array([fold_of[s.patient] for s in cells])
    answers = Answers(networks[:FOLDS], folds, cell_pixels, np.array([s.label for s in cells]),
                      np.array([s.patient for s in cells]))
    settings = answers.settings()
    found = report.Findings(
        donors=donors, cells=cells, answers=answers, settings=settings,
        outliers=report.measure_outliers(networks, kinds, test_outliers, cells, answers, settings, held_out_kinds),
        shortcuts=measure_shortcuts(cells, networks, folds, answers),
    )
    model = network.to_onnx(networks[FOLDS], metadata(settings) | {"giemsa.proof": proof_of(networks[FOLDS])})
    worst = difference_to_onnx(networks[FOLDS], model, cell_pixels[:: len(cell_pixels) // 512])
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_bytes(model.SerializeToString())
    report.write(args.report, found, run={
        "version": VERSION, "epochs": args.epochs, "seed": args.seed, "drawn_cells": len(drawn),
        "drawn_outliers": len(outliers), "parameters": sum(p.numel() for p in networks[FOLDS].parameters()),
        "bytes": args.out.stat().st_size, "sha256": hashlib.sha256(args.out.read_bytes()).hexdigest(),
        "onnx_difference": float(f"{worst:.1e}"), "training_minutes": round(trained / 60),
        "minutes": round((time.monotonic() - started) / 60),
        "software": {"python": platform.python_version(), "torch": torch.__version__,
                     "onnxruntime": onnxruntime.__version__, "numpy": np.__version__},
    }, candidates=json.loads(args.candidates.read_text()) if args.candidates else None)


def settings_key(args, *groups) -> str:
    """Changes when the pictures, the settings or the code that trains change."""
    digest = hashlib.sha256(f"{args.epochs} {args.seed}".encode())
    for module in (augment, fitting, network):
        digest.update(Path(module.__file__).read_bytes())
    for sample in (s for group in groups for s in group):
        digest.update(f"{sample.path.name} {sample.label} {sample.patient} {sample.path.stat().st_size}".encode())
    return digest.hexdigest()


_material: Material | None = None  # of a worker process: inherited, so that the pictures are in memory once


def train_all(jobs: list[Job], material: Material, epochs: int):
    """Trains the networks of `jobs`, as many at a time as there are processors, one thread each."""
    global _material
    _material = material
    # The longest first. The worker processes inherit the pictures; torch has started no thread yet that they would miss.
    longest_first = sorted(jobs, key=lambda job: -job.fold)
    with get_context("fork").Pool(len(os.sched_getaffinity(0))) as pool:
        pool.starmap(train_one, [(job, epochs) for job in longest_first], chunksize=1)


def train_one(job: Job, epochs: int):
    """Trains and keeps one network."""
    # One thread: the networks are small, two of them side by side are faster, and the sums have one order.
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    cells, outliers = _material.of_job(job.fold)
    trained = fitting.train(cells, outliers, job.seed, f"fold {job.fold}" if job.fold < FOLDS else "all patients", epochs)
    temporary = job.weights.with_suffix(".part")
    torch.save(trained.state_dict(), temporary)
    temporary.rename(job.weights)


def read_network(job: Job) -> network.Network:
    """The trained network of a job."""
    found = network.Network()
    found.load_state_dict(torch.load(job.weights, weights_only=True))
    return found.eval()


class Answers:
    """What the five networks say of the patients that each has not seen, and what is chosen from it."""

    def __init__(self, networks, folds, pixels, labels, patients):
        self.networks, self.folds, self.labels, self.patients = networks, folds, labels, patients
        self.logits, self.outlier = self.score(pixels)
        # For each fold what its patients are judged with: chosen on the patients of the other folds.
        self.temperature_of = [measure.fit_temperature(self.logits[folds != f], labels[folds != f]) for f in range(FOLDS)]
        self.probabilities = self.calibrated(self.logits)
        self.review_of = [self._review(folds != f, self.temperature_of[f]) for f in range(FOLDS)]

    def score(self, pixels, rows=None):
        """Logits and outlier scores of pixels that belong to `rows` of the cells (all by default)."""
        folds = self.folds if rows is None else self.folds[rows]
        logits, outlier = np.zeros((len(pixels), len(LABELS)), np.float32), np.zeros(len(pixels), np.float32)
        for fold, one in enumerate(self.networks):
            mine = np.flatnonzero(folds == fold)
            if len(mine):
                logits[mine], outlier[mine] = fitting.score(one, pixels[mine])
        return logits, outlier

    def calibrated(self, logits, rows=None):
        """Probabilities at the temperature of each row's fold."""
        folds = self.folds if rows is None else self.folds[rows]
        return measure.softmax(logits, np.array(self.temperature_of)[folds])

    def sent(self) -> np.ndarray:
        """True for cells that a person looks at: each by the limits of its fold."""
        sent = np.zeros(len(self.labels), bool)
        for fold, rule in enumerate(self.review_of):
            mine = self.folds == fold
            sent[mine] = review.needs_review(self.probabilities[mine], rule) | (self.outlier[mine] > rule["outlier_above"])
        return sent

    def settings(self) -> dict:
        """Temperature and review of the model that ships: from all cells."""
        everything = np.ones(len(self.labels), bool)
        temperature = measure.fit_temperature(self.logits, self.labels)
        return {"temperature": temperature, "review": self._review(everything, temperature)}

    def _review(self, rows, temperature):
        probabilities = measure.softmax(self.logits[rows], temperature)
        rule = review.choose(probabilities, self.labels[rows], self.patients[rows])
        limit = float(np.quantile(self.outlier[rows], 1 - GOOD_CELLS_FLAGGED))
        return rule | {"outlier_above": round(min(max(limit, 0.05), 0.95), 2)}


def measure_shortcuts(cells, networks, folds, answers) -> list[dict]:
    """The changes of shortcuts.py on every third cell."""
    rows = np.arange(0, len(cells), 3)
    return shortcuts.measure([cells[i] for i in rows], lambda pixels: answers.calibrated(answers.score(pixels, rows)[0], rows),
                             answers.probabilities[rows])


def metadata(settings: dict) -> dict[str, str]:
    """All that Giemsa must know of the file."""
    reading = {"layout": "nchw", "width": SIDE_PX, "height": SIDE_PX, "color": "rgb", "resize": "fit", "pad": [0, 0, 0],
               "scale": network.SCALE, "mean": [network.MEAN] * 3, "std": [network.STD] * 3}
    return {
        "giemsa.name": "thin-smear",
        "giemsa.version": VERSION,
        "giemsa.labels": json.dumps(LABELS),
        "giemsa.input": json.dumps(reading),
        "giemsa.output": "logits",
        "giemsa.temperature": str(settings["temperature"]),
        "giemsa.review": json.dumps(settings["review"]),
        "giemsa.positive": json.dumps([LABELS[POSITIVE]]),
    }


def proof_of(trained: network.Network) -> str:
    """What the trained network says of a few drawn images, for `giemsa.proof`."""
    pictures = prove.pictures()
    logits, outlier = fitting.score(trained, pictures)
    return prove.proof.proof(pictures, logits, f"torch {torch.__version__}", outliers=outlier)


def difference_to_onnx(trained, model, pixels) -> float:
    """The largest difference of any output between PyTorch and the file run by onnxruntime; stops at 1e-4."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    values = (pixels.astype(np.float32) * np.float32(network.SCALE) - np.float32(network.MEAN)) / np.float32(network.STD)
    found = session.run(["logits", "outlier"], {"image": values.transpose(0, 3, 1, 2)})
    wanted = fitting.score(trained, pixels)
    worst = max(float(np.abs(a.reshape(b.shape) - b).max()) for a, b in zip(found, wanted))
    print(f"largest difference between PyTorch and ONNX: {worst:.1e}", flush=True)
    if not worst < 1e-4:
        raise SystemExit(f"ONNX and PyTorch differ by {worst:.1e}, allowed is 1e-4: the export is wrong")
    return worst


if __name__ == "__main__":
    main()

"""Figures of answers to cells of unseen patients, with intervals.

It never chooses anything. It keeps one invariant: intervals are drawn over patients, not cells, because cells of one patient
are not independent.
"""

import numpy as np

from data import POSITIVE

DRAWS = 1000


def softmax(logits: np.ndarray, temperature=1.0) -> np.ndarray:
    """Probabilities [n, k] of logits [n, k] divided by the temperature, one number or one for each row."""
    z = logits.astype("float64") / np.reshape(temperature, (-1, 1))
    z -= z.max(axis=1, keepdims=True)
    e = np.exp(z)
    return e / e.sum(axis=1, keepdims=True)


def log_loss(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean negative log likelihood in nats."""
    return float(-np.log(np.maximum(probabilities[np.arange(len(labels)), labels], 1e-12)).mean())


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature, 0.25 to 8, with the least log loss, to three digits (Guo et al. 2017, arXiv:1706.04599)."""
    candidates = np.exp(np.linspace(np.log(0.25), np.log(8), 1001))
    losses = [log_loss(softmax(logits, t), labels) for t in candidates]
    return round(float(candidates[int(np.argmin(losses))]), 3)


def auc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Area under the ROC curve; ties count half."""
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    p, n = positive.sum(), (~positive).sum()
    return float((ranks[positive].sum() - p * (p + 1) / 2) / (p * n))


def sensitivity_at(scores: np.ndarray, positive: np.ndarray, specificity: float) -> float:
    """Share of positives above the lowest limit that keeps at least this share of negatives at or below it."""
    negatives = np.sort(scores[~positive])
    limit = negatives[min(len(negatives) - 1, int(np.ceil(specificity * len(negatives))) - 1)]
    return float((scores[positive] > limit).mean())


def reliability(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> list[dict]:
    """For each bin of equal width that holds answers: how many, their mean confidence, the share that is right."""
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
    return [{"cells": int((bin_of == b).sum()), "confidence": float(confidence[bin_of == b].mean()),
             "accuracy": float(right[bin_of == b].mean())} for b in np.unique(bin_of)]


def calibration_error(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Expected calibration error of the answers in 15 bins of equal width."""
    return sum(abs(b["accuracy"] - b["confidence"]) * b["cells"] for b in reliability(probabilities, labels)) / len(labels)


def figures(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The figures of one set of cells."""
    positive, called = labels == POSITIVE, probabilities.argmax(axis=1) == POSITIVE
    scores = probabilities[:, POSITIVE]
    return {
        "accuracy": float((positive == called).mean()),
        "auc": auc(scores, positive),
        "sensitivity": float(called[positive].mean()),
        "specificity": float((~called[~positive]).mean()),
        "sensitivity_at_specificity_0.97": sensitivity_at(scores, positive, 0.97),
        "expected_calibration_error": calibration_error(probabilities, labels),
        "log_loss": log_loss(probabilities, labels),
    }


def interval_by_patient(patients: np.ndarray, figures_of, seed: int = 7) -> dict[str, list[float]]:
    """For each figure of `figures_of(rows)` the 95 % interval from DRAWS bootstrap draws of patients."""
    rows_of = [np.flatnonzero(patients == p) for p in np.unique(patients)]
    rng = np.random.default_rng(seed)
    drawn = [figures_of(np.concatenate([rows_of[i] for i in rng.integers(len(rows_of), size=len(rows_of))]))
             for _ in range(DRAWS)]
    return {key: [round(float(v), 4) for v in np.quantile([d[key] for d in drawn], [0.025, 0.975])] for key in drawn[0]}


def summarise(probabilities, labels, patients, folds) -> dict:
    """Each figure over all cells, its interval by patient, and its mean, standard deviation and values over the folds."""
    whole = figures(probabilities, labels)
    intervals = interval_by_patient(patients, lambda rows: figures(probabilities[rows], labels[rows]))
    per_fold = [figures(probabilities[folds == f], labels[folds == f]) for f in np.unique(folds)]
    return {key: {
        "value": round(value, 4), "interval_95": intervals[key],
        "fold_mean": round(float(np.mean([f[key] for f in per_fold])), 4),
        "fold_deviation": round(float(np.std([f[key] for f in per_fold], ddof=1)), 4),
        "folds": [round(f[key], 4) for f in per_fold],
    } for key, value in whole.items()}

"""Draws the report's figures as SVG.

It never computes a figure that the report does not hold. It keeps one invariant: the same numbers give the same file.
"""

from pathlib import Path

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams.update({"svg.hashsalt": "giemsa", "svg.fonttype": "none", "font.size": 9, "axes.grid": True,
                            "grid.alpha": 0.3, "figure.constrained_layout.use": True})
import matplotlib.pyplot as plt
import numpy as np

from data import POSITIVE

BLUE, RED, GREY = "#3b6ea8", "#b5403c", "#777777"


def reliability(path: Path, before: list[dict], after: list[dict]):
    """Share of right answers against confidence, before and after temperature; circles grow with the number of cells."""
    figure, axes = plt.subplots(figsize=(4.2, 4.2))
    axes.plot([0.5, 1], [0.5, 1], color=GREY, linewidth=1, label="perfectly calibrated")
    for bins, colour, label in ((before, RED, "before temperature"), (after, BLUE, "after temperature")):
        axes.plot([b["confidence"] for b in bins], [b["accuracy"] for b in bins], color=colour, linewidth=1, label=label)
        axes.scatter([b["confidence"] for b in bins], [b["accuracy"] for b in bins], color=colour,
                     s=[8 + 3 * np.sqrt(b["cells"]) for b in bins])
    axes.set(xlabel="confidence of the answer", ylabel="share of right answers", xlim=(0.48, 1.02), ylim=(0.3, 1.02))
    axes.legend(loc="lower right")
    _save(figure, path)


def roc(path: Path, probabilities, labels, folds):
    """Sensitivity against 1 - specificity of each fold, and of all cells."""
    figure, axes = plt.subplots(figsize=(4.2, 4.2))
    for fold in np.unique(folds):
        axes.plot(*_curve(probabilities[folds == fold], labels[folds == fold]), color=GREY, linewidth=0.7)
    axes.plot(*_curve(probabilities, labels), color=BLUE, label="all cells (grey: each fold)")
    axes.axhline(0.97, color=RED, linewidth=0.7, linestyle="--")
    axes.axvline(0.03, color=RED, linewidth=0.7, linestyle="--", label="0.97")
    axes.set(xlabel="1 - specificity", ylabel="sensitivity", xlim=(0, 0.2), ylim=(0.8, 1.002))
    axes.legend(loc="lower right")
    _save(figure, path)


def _curve(probabilities, labels):
    order = np.argsort(-probabilities[:, POSITIVE], kind="stable")
    positive = labels[order] == POSITIVE
    step = max(1, len(order) // 600)
    return (np.cumsum(~positive) / (~positive).sum())[::step], (np.cumsum(positive) / positive.sum())[::step]


def review(path: Path, probabilities, labels, chosen: dict[str, float]):
    """Error of the answers that nobody looks at against the share that is looked at, the least certain first."""
    order = np.argsort(probabilities.max(axis=1), kind="stable")
    wrong = (probabilities.argmax(axis=1) != labels)[order]
    left = np.cumsum(wrong[::-1])[::-1] / np.arange(len(wrong), 0, -1)
    share = np.arange(len(wrong)) / len(wrong)
    step = max(1, len(wrong) // 600)
    shown = share < 0.6
    figure, axes = plt.subplots(figsize=(5, 3.4))
    axes.plot(100 * share[shown][::step], 100 * left[shown][::step], color=BLUE, label="least certain cells first")
    axes.axhline(1, color=RED, linewidth=0.7, linestyle="--", label="promise: 1 %")
    axes.scatter([100 * chosen["share_sent"]], [100 * chosen["error_of_unsent"]], color=RED, zorder=3, label="the chosen limits")
    axes.set(xlabel="% of cells sent to a person", ylabel="% wrong among the others", ylim=(0, None))
    axes.legend()
    _save(figure, path)


def patients(path: Path, probabilities, labels, patients):
    """Accuracy of each patient's cells against how many there are."""
    names, index = np.unique(patients, return_inverse=True)
    right = np.bincount(index, probabilities.argmax(axis=1) == labels) / np.bincount(index)
    figure, axes = plt.subplots(figsize=(5, 3.4))
    axes.scatter(np.bincount(index), 100 * right, s=12, color=BLUE, alpha=0.7)
    axes.set(xlabel="cells of the patient", ylabel="% right", title=f"{len(names)} patients, each unseen by the network that answers")
    _save(figure, path)


def _save(figure, path: Path):
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None, "Creator": None})
    plt.close(figure)

"""Measures a model on cells of patients it has not seen: temperature, review limits, figures with intervals.

It never chooses anything on test patients. It keeps one invariant: intervals are drawn over patients, not cells,
because cells of one patient are not independent.
"""

import numpy as np

POSITIVE = 0  # index of `parasitized`


def softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Probabilities [n, k] of logits [n, k] divided by the temperature."""
    z = logits.astype("float64") / temperature
    z -= z.max(axis=1, keepdims=True)
    e = np.exp(z)
    return e / e.sum(axis=1, keepdims=True)


def log_loss(logits: np.ndarray, labels: np.ndarray, temperature: float) -> float:
    """Mean negative log likelihood in nats."""
    p = softmax(logits, temperature)[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(p, 1e-12)).mean())


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature, 0.25 to 8, with the least log loss, to three digits."""
    candidates = np.exp(np.linspace(np.log(0.25), np.log(8), 1001))
    losses = [log_loss(logits, labels, t) for t in candidates]
    return round(float(candidates[int(np.argmin(losses))]), 3)


def choose_review(probabilities: np.ndarray) -> dict:
    """Limits that send about the 5 % least certain calibration cells to a person, and beyond these about 5 % of
    the cells that are called uninfected, the most suspicious first: a missed parasite is the costlier error."""
    confidence = probabilities.max(axis=1)
    below = round(float(np.clip(np.quantile(confidence, 0.05), 0.55, 0.95)), 2)
    negative = probabilities[probabilities.argmax(axis=1) != POSITIVE]
    rest = negative[negative.max(axis=1) >= below][:, POSITIVE]
    above = round(float(np.clip(np.quantile(rest, 0.95), 0.02, 1 - below)), 2)
    return {"confidence_below": below, "label_above": {"parasitized": above}}


def needs_review(probabilities: np.ndarray, review: dict) -> np.ndarray:
    """True for cells that a person must look at, by the rule that Giemsa applies when it serves."""
    answers = probabilities.argmax(axis=1)
    unsure = probabilities.max(axis=1) < review["confidence_below"]
    suspicious = probabilities[:, POSITIVE] > review["label_above"]["parasitized"]
    return unsure | ((answers != POSITIVE) & suspicious)


def auc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Area under the ROC curve; ties count half."""
    values, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    p, n = positive.sum(), (~positive).sum()
    return float((ranks[positive].sum() - p * (p + 1) / 2) / (p * n))


def calibration_error(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Expected calibration error of the answers in 15 bins of equal width."""
    confidence, answers = probabilities.max(axis=1), probabilities.argmax(axis=1)
    bins = np.minimum((confidence * 15).astype(int), 14)
    gaps = [abs((answers == labels)[bins == b].mean() - confidence[bins == b].mean()) * (bins == b).mean()
            for b in np.unique(bins)]
    return float(sum(gaps))


def figures(probabilities: np.ndarray, labels: np.ndarray, review: dict) -> dict[str, float]:
    """The figures of one set of cells."""
    positive, called = labels == POSITIVE, probabilities.argmax(axis=1) == POSITIVE
    wrong, flagged = positive != called, needs_review(probabilities, review)
    missed = positive & ~called
    return {
        "accuracy": float((~wrong).mean()),
        "sensitivity": float(called[positive].mean()),
        "specificity": float((~called[~positive]).mean()),
        "auc": auc(probabilities[:, POSITIVE], positive),
        "expected_calibration_error": calibration_error(probabilities, labels),
        "review_rate": float(flagged.mean()),
        "errors_sent_to_review": float(flagged[wrong].mean()) if wrong.any() else 1.0,
        "missed_parasites_sent_to_review": float(flagged[missed].mean()) if missed.any() else 1.0,
    }


def figures_with_intervals(probabilities, labels, patients, review, draws=1000, seed=7) -> dict:
    """The figures, each with a 95 % interval from `draws` bootstrap draws of patients."""
    rows_of = {p: np.flatnonzero(patients == p) for p in np.unique(patients)}
    names, rng = list(rows_of), np.random.default_rng(seed)
    drawn = []
    for _ in range(draws):
        rows = np.concatenate([rows_of[names[i]] for i in rng.integers(len(names), size=len(names))])
        drawn.append(figures(probabilities[rows], labels[rows], review))
    result = {}
    for key, value in figures(probabilities, labels, review).items():
        low, high = np.quantile([d[key] for d in drawn], [0.025, 0.975])
        result[key] = {"value": round(value, 4), "interval_95": [round(float(low), 4), round(float(high), 4)]}
    return result

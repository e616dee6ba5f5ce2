"""Chooses the limits beyond which a person looks at a cell, so that the answers nobody looks at are wrong at most 1 in 100 times.

It never sees a patient that the answers were trained on. It keeps one invariant: each limit meets both bounds below on the
cells it was chosen on, or is 1, which sends every such answer to a person.

For the answers of each label the least confidence is chosen that goes without a look. Limits are tried in a fixed order, from
one that lets half of the answers through downwards, and the first failure ends the search, so that trying many costs nothing
(Geifman and El-Yaniv 2017, arXiv:1705.08500; Angelopoulos et al. 2021, arXiv:2110.01052). A limit fails if, with 95 %
confidence, the error rate of the answers beyond it can be above ERROR, by either of

* the binomial bound of Clopper and Pearson 1934, exact for cells that are independent of each other;
* the bootstrap over patients, because cells of one patient are not; it is exact only for many patients.

What needs neither is a bound for one new patient: the share of his cells expected to be answered wrongly with nobody looking
is at most `expected_risk` (conformal risk control: Angelopoulos et al. 2022, arXiv:2208.02814, for a loss of 0 to 1), if he
comes from where the others came from. It is reported, not chosen by: with 160 patients no limit brings it near 0.
"""

import numpy as np
from scipy.stats import beta

from data import LABELS, POSITIVE

ERROR = 0.01
CONFIDENCE = 0.95
# Tried from the strictest on; the metadata holds these digits.
LIMITS = np.unique(np.round(1 - np.geomspace(0.0005, 0.5, 80), 4))[::-1]
DRAWS = 2000


def upper_bound(errors: int, cells: int) -> float:
    """Upper Clopper-Pearson bound of an error rate at CONFIDENCE."""
    return 1.0 if errors >= cells else float(beta.ppf(CONFIDENCE, errors + 1, cells - errors))


def expected_risk(wrong: np.ndarray, patients: np.ndarray) -> float:
    """Bound on the expected share of a new patient's cells that are `wrong`: (sum over patients + 1) / (patients + 1)."""
    names, index = np.unique(patients, return_inverse=True)
    shares = np.bincount(index, wrong) / np.bincount(index)
    return float((shares.sum() + 1) / (len(names) + 1))


def upper_bound_by_patient(errors: np.ndarray, kept: np.ndarray, patients: np.ndarray) -> float:
    """Upper bound at CONFIDENCE of the share of `errors` among `kept` cells, from DRAWS bootstrap draws of patients."""
    names, index = np.unique(patients, return_inverse=True)
    draws = np.random.default_rng(11).multinomial(len(names), np.full(len(names), 1 / len(names)), DRAWS)
    counts = np.stack([np.bincount(index, rows, len(names)) for rows in (errors & kept, kept)])
    drawn_errors, drawn_kept = draws @ counts[0], draws @ counts[1]
    return float(np.quantile(drawn_errors / np.maximum(drawn_kept, 1), CONFIDENCE))


def choose(probabilities: np.ndarray, labels: np.ndarray, patients: np.ndarray) -> dict:
    """The value of `giemsa.review`, without `outlier_above`."""
    answers, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    wrong, limit_of = answers != labels, {}
    for answer in range(len(LABELS)):
        limit_of[answer] = 1.0
        for limit in LIMITS:
            kept = (answers == answer) & (confidence >= limit)
            if kept.sum() < (answers == answer).sum() / 2:
                continue
            bounds = upper_bound(int(wrong[kept].sum()), int(kept.sum())), upper_bound_by_patient(wrong, kept, patients)
            if max(bounds) > ERROR:
                break
            limit_of[answer] = float(limit)
    return as_review(limit_of)


def as_review(limit_of: dict[int, float]) -> dict:
    """The rule of Giemsa for a least confidence of each label: one limit for all, a stricter one where needed."""
    lowest = min(limit_of.values())
    above = {LABELS[1 - answer]: round(1 - limit, 4) for answer, limit in limit_of.items() if limit > lowest}
    return {"confidence_below": lowest, "label_above": above}


def needs_review(probabilities: np.ndarray, review: dict) -> np.ndarray:
    """True for cells that a person must look at, by the rule that Giemsa applies when it serves."""
    answers = probabilities.argmax(axis=1)
    sent = probabilities.max(axis=1) < review["confidence_below"]
    for label, above in review["label_above"].items():
        index = LABELS.index(label)
        sent |= (answers != index) & (probabilities[:, index] > above)
    return sent


def wrong_unseen(probabilities, labels, review) -> np.ndarray:
    """True for cells that are answered wrongly and that nobody looks at."""
    return (probabilities.argmax(axis=1) != labels) & ~needs_review(probabilities, review)


def figures(sent: np.ndarray, probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """What review catches, of one set of cells."""
    wrong = probabilities.argmax(axis=1) != labels
    missed = wrong & (labels == POSITIVE)
    return {
        "share_sent": float(sent.mean()),
        "error_of_unsent": float(wrong[~sent].mean()) if (~sent).any() else 0.0,
        "errors_sent": float(sent[wrong].mean()) if wrong.any() else 1.0,
        "missed_parasites_sent": float(sent[missed].mean()) if missed.any() else 1.0,
    }


def per_patient(sent, probabilities, labels, patients) -> dict[str, float]:
    """The error of the unsent cells of each patient that has 20 or more of them: mean, quantiles, share above ERROR."""
    wrong = probabilities.argmax(axis=1) != labels
    errors = [wrong[(patients == p) & ~sent].mean() for p in np.unique(patients) if ((patients == p) & ~sent).sum() >= 20]
    return {"patients": len(errors), "mean": round(float(np.mean(errors)), 4), "median": round(float(np.median(errors)), 4),
            "highest": round(float(np.max(errors)), 4), "without_an_error": round(float((np.array(errors) == 0).mean()), 4),
            "expected_wrong_unseen_share_of_a_new_patient": round(expected_risk(wrong & ~sent, patients), 4)}

"""Writes what was found of the model: `report.json`, `report.md` for people, and the plots.

It never trains or chooses. It keeps one invariant: each figure of `report.md` is in `report.json`, and each about cells is of
patients that the answering network has not seen.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import augment
import fitting
import measure
import plots
import review
from data import LABELS, POSITIVE, Sample, exact_pixels, fine_pixels, load


@dataclass
class Findings:
    """All that was measured."""

    donors: dict[str, str]
    cells: list[Sample]
    answers: object
    settings: dict
    outliers: dict
    shortcuts: list[dict]


def measure_outliers(networks, kinds, drawn: list[Sample], cells: list[Sample], answers, settings, held_out_kinds) -> dict:
    """Which share of what is not a cell is sent to a person, and which share of good cells is sent for being no cell."""
    limit, pixels = settings["review"]["outlier_above"], load(drawn, exact_pixels)
    kind_of = np.array([s.kind for s in drawn])

    def caught(network, chosen):
        logits, outlier = fitting.score(network, pixels[chosen])
        uncertain = review.needs_review(measure.softmax(logits, settings["temperature"]), settings["review"])
        return float((outlier > limit).mean()), float(((outlier > limit) | uncertain).mean())

    rows = []
    for index, kind in enumerate(kinds):
        fold = next(f for f in range(len(networks) - 1) if kind in held_out_kinds(kinds, f))
        chosen = kind_of == kind
        known, unseen = caught(networks[-1], chosen), caught(networks[fold], chosen)
        rows.append({"kind": kind, "pictures": int(chosen.sum()), "flagged": round(known[0], 4), "sent": round(known[1], 4),
                     "flagged_by_a_network_that_never_saw_the_kind": round(unseen[0], 4),
                     "sent_by_a_network_that_never_saw_the_kind": round(unseen[1], 4)})
        print(f"{kind}: {rows[-1]}", flush=True)
    return {
        "limit": limit,
        "good_cells_flagged": round(float((answers.outlier > limit).mean()), 4),
        "good_cells_flagged_by_label": {label: round(float((answers.outlier > limit)[answers.labels == i].mean()), 4)
                                        for i, label in enumerate(LABELS)},
        "drawn": rows,
        "made_of_cells_of_unseen_patients": _spoilt(cells, answers, limit),
    }


def _spoilt(cells, answers, limit) -> dict[str, float]:
    """Share flagged of real cells that were defocused, cut to a detail, tiled or torn, each by a network that never saw its patient."""
    rng = torch.Generator().manual_seed(5)
    names, flagged = ["far out of focus", "a detail", "several cells", "a torn sliver"], [[] for _ in range(4)]
    for fold, network in enumerate(answers.networks):
        rows = np.flatnonzero(answers.folds == fold)[::20]
        rows = rows[: len(rows) // 4 * 4]
        pixels = augment.spoil(torch.from_numpy(load([cells[i] for i in rows], fine_pixels)), rng)
        exact = (pixels.permute(0, 2, 3, 1) * 255).round().to(torch.uint8).numpy()
        for made, part in zip(flagged, np.array_split(fitting.score(network, exact)[1] > limit, 4)):
            made.append(part)
    return {name: round(float(np.concatenate(parts).mean()), 4) for name, parts in zip(names, flagged)}


def write(folder: Path, found: Findings, run: dict, candidates: list[dict] | None):
    """Writes all of it."""
    folder.mkdir(parents=True, exist_ok=True)
    contents = describe(found, run, candidates)
    answers, labels = found.answers, found.answers.labels
    raw = measure.softmax(answers.logits)
    plots.reliability(folder / "reliability.svg", measure.reliability(raw, labels),
                      measure.reliability(answers.probabilities, labels))
    plots.roc(folder / "roc.svg", answers.probabilities, labels, answers.folds)
    plots.review(folder / "review.svg", answers.probabilities, labels, contents["review"]["cells"])
    plots.patients(folder / "patients.svg", answers.probabilities, labels, answers.patients)
    (folder / "report.json").write_text(json.dumps(contents, indent=1) + "\n", encoding="utf-8")
    (folder / "report.md").write_text(as_markdown(contents), encoding="utf-8")
    print((folder / "report.md").read_text(encoding="utf-8"))


def describe(found: Findings, run: dict, candidates) -> dict:
    """The report as JSON."""
    answers, labels, patients = found.answers, found.answers.labels, found.answers.patients
    probabilities, sent = answers.probabilities, answers.sent()
    raw = measure.figures(measure.softmax(answers.logits), labels)
    healthy = np.array([found.donors[p] == "healthy" for p in patients])
    false_rates = [float((probabilities[patients == p].argmax(axis=1) == POSITIVE).mean()) for p in np.unique(patients[healthy])]
    sensitivities = [float((probabilities[rows].argmax(axis=1) == POSITIVE).mean())
                     for rows in ((patients == p) & (labels == POSITIVE) for p in np.unique(patients)) if rows.sum() >= 10]
    caught = review.figures(sent, probabilities, labels)
    intervals = measure.interval_by_patient(
        patients, lambda rows: review.figures(sent[rows], probabilities[rows], labels[rows]))
    return {
        "run": run,
        "data": {"cells": len(labels), "parasitized": int((labels == POSITIVE).sum()), "patients": len(found.donors),
                 "infected_donors": sum(d == "infected" for d in found.donors.values()),
                 "folds": [{"patients": len(np.unique(patients[answers.folds == f])), "cells": int((answers.folds == f).sum())}
                           for f in np.unique(answers.folds)]},
        "figures": measure.summarise(probabilities, labels, patients, answers.folds),
        "calibration": {
            "temperature": found.settings["temperature"], "temperature_of_folds": answers.temperature_of,
            "expected_calibration_error_before": round(raw["expected_calibration_error"], 4),
            "log_loss_before": round(raw["log_loss"], 4),
            "bins": [{k: round(v, 4) for k, v in b.items()} for b in measure.reliability(probabilities, labels)],
        },
        "patients": {
            "sensitivity": _spread(sensitivities), "patients_with_10_parasitized_cells": len(sensitivities),
            "healthy_donors_called_parasitized": _spread(false_rates), "healthy_donors": len(false_rates),
        },
        "review": {
            "rule": found.settings["review"], "rules_of_folds": answers.review_of,
            "error_promised": review.ERROR, "confidence_of_the_promise": review.CONFIDENCE,
            "cells": {key: round(value, 4) for key, value in caught.items()}, "cells_interval_95": intervals,
            "patients": review.per_patient(sent, probabilities, labels, patients),
        },
        "not_a_cell": found.outliers,
        "shortcuts": found.shortcuts,
        "candidates": candidates,
    }


def _spread(values) -> dict[str, float]:
    return {"lowest": round(min(values), 4), "median": round(float(np.median(values)), 4), "highest": round(max(values), 4)}


def as_markdown(contents: dict) -> str:
    """The report for people."""
    figures, kept, card = contents["figures"], contents["review"], contents["run"]
    lines = [
        "# How good `thin-smear.onnx` is",
        "", "Written by `models/train/report.py`; do not edit. Same settings for every fold; each cell is answered by a network "
        f"that has not seen its patient ({contents['data']['cells']:,} cells of {contents['data']['patients']} patients, "
        f"{len(contents['data']['folds'])} folds). Intervals: 95 %, {measure.DRAWS} bootstrap draws of patients.",
        "", "| figure | all cells | interval | mean of folds ± deviation | folds |", "|---|---|---|---|---|",
    ]
    for key, row in figures.items():
        folds = ", ".join(f"{v:.3f}" for v in row["folds"])
        lines.append(f"| {key.replace('_', ' ')} | **{row['value']:.4f}** | {row['interval_95'][0]:.3f} to "
                     f"{row['interval_95'][1]:.3f} | {row['fold_mean']:.4f} ± {row['fold_deviation']:.4f} | {folds} |")
    sensitivity, healthy = contents["patients"]["sensitivity"], contents["patients"]["healthy_donors_called_parasitized"]
    lines += [
        "", f"Sensitivity per patient ({contents['patients']['patients_with_10_parasitized_cells']} with 10 or more parasitized "
        f"cells): median {sensitivity['median']:.3f}, lowest {sensitivity['lowest']:.3f}. Cells of "
        f"{contents['patients']['healthy_donors']} healthy donors called parasitized: median {healthy['median']:.3f}, highest "
        f"{healthy['highest']:.3f}.",
        "", "![ROC](roc.svg) ![patients](patients.svg)",
        "", "## Calibration",
        "", f"Temperature {contents['calibration']['temperature']} (of the folds: "
        f"{', '.join(str(t) for t in contents['calibration']['temperature_of_folds'])}). Expected calibration error "
        f"{contents['calibration']['expected_calibration_error_before']} before, "
        f"{figures['expected_calibration_error']['value']} after.",
        "", "![reliability](reliability.svg)",
        "", "## What a person must look at",
        "", f"`giemsa.review` is `{json.dumps(kept['rule'])}`. Chosen so that answers nobody looks at are wrong at most "
        f"{100 * kept['error_promised']:.0f} in 100 times, of each label, with "
        f"{100 * kept['confidence_of_the_promise']:.0f} % confidence both by the binomial bound of Clopper and Pearson and by the "
        "bootstrap over patients; `models/train/review.py` states the method. Judged on each fold with the limits of the other four:",
        "", "| | value | interval |", "|---|---|---|",
    ]
    for key, value in kept["cells"].items():
        low, high = kept["cells_interval_95"][key]
        lines.append(f"| {key.replace('_', ' ')} | {100 * value:.2f} % | {100 * low:.2f} to {100 * high:.2f} % |")
    people = kept["patients"]
    lines += [
        "", f"Per patient ({people['patients']} with 20 or more unsent cells): error of the unsent cells on average "
        f"{100 * people['mean']:.2f} %, median {100 * people['median']:.2f} %, highest {100 * people['highest']:.1f} %; "
        f"{100 * people['without_an_error']:.0f} % of patients have none. Conformal bound on the share of a new patient's cells that "
        f"is answered wrongly with nobody looking: {100 * people['expected_wrong_unseen_share_of_a_new_patient']:.2f} % on average.",
        "", "![review](review.svg)",
        "", "## Not a cell",
        "", f"Sent as no cell above an outlier score of {contents['not_a_cell']['limit']}: "
        f"{100 * contents['not_a_cell']['good_cells_flagged']:.2f} % of good cells. Drawings (not those trained on):",
        "", "| kind | pictures | flagged as no cell | sent for any reason | flagged / sent by a network that never saw the kind |",
        "|---|---|---|---|---|",
    ]
    for row in contents["not_a_cell"]["drawn"]:
        lines.append(f"| {row['kind']} | {row['pictures']} | {100 * row['flagged']:.0f} % | {100 * row['sent']:.0f} % | "
                     f"{100 * row['flagged_by_a_network_that_never_saw_the_kind']:.0f} % / "
                     f"{100 * row['sent_by_a_network_that_never_saw_the_kind']:.0f} % |")
    spoilt = ", ".join(f"{name} {100 * share:.0f} %" for name, share in
                       contents["not_a_cell"]["made_of_cells_of_unseen_patients"].items())
    lines += ["", f"Real cells of unseen patients, spoilt: {spoilt}.", "", "## No shortcut", "",
              "| change of the picture | accuracy | points | AUC |", "|---|---|---|---|"]
    for row in contents["shortcuts"]:
        chance = f" (always the commoner label: {row['always_the_commoner_label']:.3f})" if "always_the_commoner_label" in row else ""
        lines.append(f"| {row['change']} | {row['accuracy']:.4f}{chance} | {row['points']:+.2f} | {row['auc']:.4f} |")
    if contents["candidates"]:
        lines += ["", "## Candidates", "", "One image on one core, median, engine and onnxruntime in turn in the same run "
                  "(`models/train/candidates.py`). The first is what ships.", "",
                  "| network | parameters | MMAC | engine ms | onnxruntime ms | ratio |", "|---|---|---|---|---|---|"]
        for row in contents["candidates"]:
            lines.append(f"| {row['name']} | {row['parameters']:,} | {row['mmac']:.1f} | {row['engine_ms']:.3f} | "
                         f"{row['onnxruntime_ms']:.3f} | {row['engine_ms'] / row['onnxruntime_ms']:.2f} |")
    lines += ["", "## Run", "", f"Version {card['version']}, {card['parameters']:,} parameters, {card['bytes']:,} bytes, "
              f"{card['epochs']} epochs, seed {card['seed']}, {card['training_minutes']} minutes of training in "
              f"{card['minutes']}. Largest difference between PyTorch and the ONNX file: {card['onnx_difference']}. "
              f"Software: {', '.join(f'{k} {v}' for k, v in card['software'].items())}.", ""]
    return "\n".join(lines)

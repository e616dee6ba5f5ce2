"""Compares the scores of Giemsa's engine with those of onnxruntime, operator by operator and architecture by architecture.

    python tests/py/parity/engine.py --runner target/debug/examples/run_network [--only Pad] [--fixed FOLDER]

Each network of `engine_networks.py` is a whole Giemsa model: an image, the operators under test, and scores. It is loaded by
the code that loads models in production, run on the same random pixels in both engines, and its scores are compared. It
exits with 1 if any score differs by more than 1e-3 (relative above 1), if the engine's process ends, or if onnxruntime
refuses what Giemsa runs. What Giemsa refuses is listed by operator with its count and its sentence.

`--fixed FOLDER` writes the networks marked as fixed with onnxruntime's scores, for `tests/models/engine_parity.rs`.
"""

import argparse
import collections
import json
import pathlib
import re
import subprocess
import sys
import tempfile

import numpy as np
import onnx
import onnxruntime

import engine_networks

TOLERANCE = 1e-3


class Runner:
    """The engine, in a process of its own that is started again if a network ends it."""

    def __init__(self, command):
        self.command = command
        self.process = None

    def ask(self, model, image):
        if self.process is None:
            self.process = subprocess.Popen(
                [self.command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
        try:
            self.process.stdin.write(f"{model}\t{image}\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            code = self.process.wait()
            self.process = None
            return {"ended": code}
        return json.loads(line)


def expected_scores(case, image):
    """Onnxruntime's scores, computed as the standard defines them: without its own rewriting of the graph."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(case.model.SerializeToString(), options, ["CPUExecutionProvider"])
    kind = session.get_inputs()[0].type
    image = image.astype(np.float16) if kind == "tensor(float16)" else image
    return session.run(None, {session.get_inputs()[0].name: image})[0].astype(np.float64).ravel()


def difference(found, expected):
    found = np.array(found, np.float64)
    if found.shape != expected.shape:
        return float("inf")
    if found.size == 0:
        return 0.0
    return float((np.abs(found - expected) / np.maximum(1.0, np.abs(expected))).max())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runner", required=True, help="the example run_network, built")
    parser.add_argument("--only", help="only cases whose name holds this text")
    parser.add_argument("--fixed", type=pathlib.Path, help="write the fixed set into this folder, and stop")
    parser.add_argument("--verbose", action="store_true", help="name each case with its difference")
    parser.add_argument("--keep", type=pathlib.Path, help="keep the networks that differ in this folder")
    arguments = parser.parse_args()
    cases = [case for case in engine_networks.all_cases() if not arguments.only or arguments.only in case.name]
    if arguments.fixed:
        return write_fixed(cases, arguments.fixed)

    runner = Runner(arguments.runner)
    compared, worst, worst_name = 0, 0.0, ""
    refused = collections.defaultdict(list)
    wrong, invalid, differences = [], collections.defaultdict(list), collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        model, image = pathlib.Path(folder, "network.onnx"), pathlib.Path(folder, "input.f32")
        for case in cases:
            pixels = case.image()
            model.write_bytes(case.model.SerializeToString())
            image.write_bytes(pixels.astype("<f4").tobytes())
            try:
                expected = expected_scores(case, pixels)
            except Exception as error:  # onnxruntime has no class of its own for this
                expected = str(error)
            answer = runner.ask(model, image)
            if "ended" in answer:
                wrong.append(f"{case.name}: the process ended ({answer['ended']})")
            elif "giemsa.labels names" in answer.get("refused", "") and not isinstance(expected, str):
                wrong.append(f"{case.name}: gives another number of scores: {answer['refused']}")
            elif "refused" in answer:
                refused[case.operator].append((case.name, answer["refused"]))
            elif isinstance(expected, str):
                invalid[case.operator].append((case.name, expected))
            elif not np.isfinite(expected).all():
                invalid[case.operator].append((case.name, "the scores are not finite"))
            else:
                compared += 1
                found = difference(answer["scores"], expected)
                limit = case.tolerance or TOLERANCE
                if found > worst and limit == TOLERANCE:
                    worst, worst_name = found, case.name
                if not found <= limit:
                    wrong.append(f"{case.name}: differs by {found:.3g}")
                    if arguments.keep:
                        arguments.keep.mkdir(parents=True, exist_ok=True)
                        (arguments.keep / f"{case.name.replace('/', '-')}.onnx").write_bytes(model.read_bytes())
                differences[case.operator] = max(differences[case.operator], found)
                if arguments.verbose:
                    print(f"{case.name}: {found:.2g}")

    for title, groups in [("refused", refused), ("run here, though not by onnxruntime", invalid)]:
        total = sum(map(len, groups.values()))
        print(f"\n{title}: {total}")
        for operator, found in sorted(groups.items()):
            by_sentence = collections.defaultdict(list)
            for name, why in found:
                by_sentence[re.sub(r"[\d.+-]+|\w+/node", "…", why)[-200:]].append((name, why))
            for alike in by_sentence.values():
                name, why = alike[0]
                print(f"  {operator}: {len(alike)}, e.g. {name}: {' '.join(why.split())[:400]}")
    untested = sorted(set(engine_networks.allowed_operators()) - set(differences))
    print(f"\nallowed operators without a case that was compared: {', '.join(untested) or 'none'}")
    print(f"onnxruntime {onnxruntime.__version__}, onnx {onnx.__version__}, opsets {engine_networks.OPSETS}")
    print(f"{compared} networks of {len(cases)} compared, the greatest difference is {worst:.2g} ({worst_name})")
    print(f"{len(wrong)} differ by more than {TOLERANCE}, or ended the process")
    for line in wrong:
        print(f"  {line}")
    return 1 if wrong or (untested and not arguments.only) else 0


def write_fixed(cases, folder):
    folder.mkdir(parents=True, exist_ok=True)
    for file in folder.glob("*.onnx"):
        file.unlink()
    answers, total = [], 0
    for case in filter(lambda case: case.fixed, cases):
        data = case.model.SerializeToString()
        total += len(data)
        name = case.name.replace("/", "-")
        (folder / f"{name}.onnx").write_bytes(data)
        scores = [float(f"{score:.6g}") for score in expected_scores(case, case.fixed_image())]
        answers.append({"model": name, "scores": scores})
    text = ",\n".join(json.dumps(answer) for answer in answers)
    (folder / "scores.json").write_text(f"[\n{text}\n]\n")
    print(f"{len(answers)} networks, {total} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Compares Giemsa's decoding with that of libjpeg, libtiff, Pillow and others, pixel by pixel, on files made here.

    python tests/py/parity/decode.py --dump target/debug/examples/decode_dump [--count 4000] [--seed 1] [--only jpeg,png]

Each module *_cases.py yields (name, bytes, expected RGB or None, words that a refusal holds). Every file must be decoded to
the expected pixels, within the module's tolerance, or be refused: with the given words where nothing is expected, and by
the code unsupported_format where something is. Prints what differs, what is refused, and a summary as one line of JSON;
ends with 1 if anything differs.
"""

import argparse
import collections
import importlib
import itertools
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

import numpy as np

HERE = pathlib.Path(__file__).parent
#: How many files are given to one process.
CHUNK = 500


def find_modules(only):
    """The case modules by format, without those whose tools are missing."""
    modules = {}
    for path in sorted(HERE.glob("*_cases.py")):
        name = path.stem.removesuffix("_cases")
        if only and name not in only:
            continue
        module = importlib.import_module(path.stem)
        missing = [tool for tool in getattr(module, "NEEDS", []) if shutil.which(tool) is None]
        if missing:
            print(f"SKIPPED: {name}: {', '.join(missing)} not found", file=sys.stderr)
            if os.environ.get("CI") == "true":
                sys.exit("nothing is skipped with CI=true")
            continue
        modules[name] = module
    return modules


def tolerance_of(module, name):
    """The largest difference that is allowed, in levels."""
    tolerance = getattr(module, "TOLERANCE", 3 if any(word in name.lower() for word in ("jpeg", "ycbcr")) else 0)
    return tolerance(name) if callable(tolerance) else tolerance


def judge(answer, pixels, expected, words, tolerance):
    """What is wrong with an answer, or None."""
    if "panic" in answer:
        return f"panicked: {answer['panic']}"
    if "message" in answer:
        message = answer["message"]
        if expected is None and not all(word in message for word in words):
            return f"refused without the words {words}: {message}"
        if expected is not None and answer["code"] != "unsupported_format":
            return f"refused, though it is whole: {message}"
        return None
    if expected is None:
        return f"decoded, though it should be refused ({words})"
    if expected.shape != (answer["height"], answer["width"], 3):
        return f"is {answer['width']} x {answer['height']}, expected {expected.shape[1]} x {expected.shape[0]}"
    difference = np.abs(pixels.astype(int) - expected.reshape(-1))
    if difference.max() > tolerance:
        share = (difference > tolerance).mean()
        return f"differs by up to {difference.max()} levels, {share:.1%} of the samples by more than {tolerance}"
    return None


def compare(format_name, module, count, seed, dump, keep):
    """Decodes all cases of a module; counts and faults."""
    figures = {"files": 0, "decoded": 0, "refused": 0, "different": 0, "panicked": 0, "largest_difference": 0}
    refusals, faults = collections.Counter(), []
    cases = module.cases(count, seed)
    while batch := list(itertools.islice(cases, CHUNK)):
        with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as out:
            for index, (_, data, _, _) in enumerate(batch):
                (pathlib.Path(folder) / f"{index:06}").write_bytes(data)
            done = subprocess.run([dump, folder, out], capture_output=True, text=True)
            if done.returncode != 0:
                sys.exit(f"{dump} ended with {done.returncode}: {done.stderr[-2000:]}")
            answers = [json.loads(line) for line in done.stdout.splitlines()]
            assert len(answers) == len(batch), "one answer for each file"
            for answer, (name, data, expected, words) in zip(answers, batch):
                is_decoded = "width" in answer
                pixels = np.fromfile(os.path.join(out, answer["name"] + ".rgb"), np.uint8) if is_decoded else None
                tolerance = tolerance_of(module, name)
                fault = judge(answer, pixels, expected, words, tolerance)
                figures["files"] += 1
                figures["decoded" if is_decoded else "refused"] += 1
                figures["panicked"] += "panic" in answer
                if "message" in answer:
                    refusals[re.sub(r"(at|ends at) byte \d+", r"\1 byte n", answer["message"].split(";")[0])] += 1
                if fault:
                    figures["different"] += 1
                    faults.append(f"{format_name} {name}: {fault}")
                    if keep:
                        (pathlib.Path(keep) / f"{format_name} {name}".replace("/", "_")[:200]).write_bytes(data)
                elif is_decoded:
                    most = int(np.abs(pixels.astype(int) - expected.reshape(-1)).max())
                    figures["largest_difference"] = max(most, figures["largest_difference"])
    return figures, refusals, faults


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dump", required=True, help="the built example decode_dump")
    parser.add_argument("--count", type=int, default=4000, help="files in all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="formats, separated by commas")
    parser.add_argument("--keep", help="folder for the files that differ")
    arguments = parser.parse_args()
    started = time.monotonic()
    modules = find_modules([name for name in arguments.only.split(",") if name])
    if not modules:
        sys.exit("no format is left to compare")
    weights = {name: getattr(module, "WEIGHT", 1) for name, module in modules.items()}
    summary, ends_well = {}, True
    for name, module in modules.items():
        count = max(1, arguments.count * weights[name] // sum(weights.values()))
        figures, refusals, faults = compare(name, module, count, arguments.seed, arguments.dump, arguments.keep)
        print(f"{name}: {figures['files']} files, {figures['decoded']} decoded, {figures['refused']} refused")
        for message, times in refusals.most_common():
            print(f"  {times:5} refused: {message}")
        for fault in faults[:40]:
            print(f"  DIFFERENT: {fault}")
        summary[name] = figures
        ends_well &= not faults
    total = {key: sum(figures[key] for figures in summary.values()) for key in ("files", "decoded", "refused", "different", "panicked")}
    total["seconds"] = round(time.monotonic() - started, 1)
    print(json.dumps({"decode_parity": total, "formats": summary}))
    sys.exit(0 if ends_well else 1)


if __name__ == "__main__":
    main()

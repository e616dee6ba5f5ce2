"""Chooses the TIFFs that every run of the tests decodes, out of those of tiff_cases.py.

    python tests/py/parity/make_fixed_tiffs.py

Writes fixed/tiff.jsonl: one line for each file, with its bytes and the expected pixels in base64, or the words of its
refusal. A file is chosen for what no file before it has: a model, a depth, a compression with its predictor, tiles, planes.
"""

import base64
import collections
import json
import pathlib
import re

import tiff_cases

OUT = pathlib.Path(__file__).parents[2] / "data" / "parity" / "tiff.jsonl"
#: Files that show each trait, at least.
ENOUGH = 1


def traits(name):
    """What a case is there for."""
    words = name.split(" ", 1)[1].removesuffix(".tif")
    words = re.sub(r"\d+x\d+|\(\d+, \d+\)|-?\d+(\.\d+)? to -?\d+(\.\d+)?|-[wlr] \d+|rows \d+", "", words)
    if words.startswith(("refused", "pages", "jpeg")):
        return {re.sub(r"\{.*?\}", "", words)}
    found = {" ".join(words.split()[:1]), *re.findall(r"tile None|planar True|big True|turned \d|counts False|kind \w+|empty True", words)}
    found |= {" ".join(pair) for pair in re.findall(r"(c\d+|cold LZW) (p\d)", words)}
    if words.startswith("tiffcp"):
        found |= {f"tiffcp {word}" for word in words.split() if word[0] != "-"}
    return found | ({"reverse " + words.split()[0]} if "reverse True" in words else set())


def main():
    tiff_cases.LONGEST_PX = 18
    seen, lines = collections.Counter(), []
    for name, data, expected, words in tiff_cases.cases(4000, 14):
        new = [trait for trait in traits(name) if seen[trait] < ENOUGH]
        if not new or len(data) > 3000:
            continue
        seen.update(traits(name))
        line = {"name": name, "file": base64.b64encode(data).decode()}
        if expected is None:
            line["words"] = words
        else:
            line |= {"height": expected.shape[0], "width": expected.shape[1], "tolerance": tiff_cases.TOLERANCE(name),
                     "rgb": base64.b64encode(expected.tobytes()).decode()}
        lines.append(json.dumps(line))
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text("\n".join(lines) + "\n")
    print(f"{len(lines)} files")


if __name__ == "__main__":
    main()

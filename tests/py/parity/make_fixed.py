"""Chooses the JPEG, PNG, GIF, BMP and WebP files that every run of the tests decodes, as make_fixed_tiffs.py does for TIFF.

    python tests/py/parity/make_fixed.py

Pictures have at most 18 pixels a side. One file of each name is kept, numbers, qualities and scan scripts left out.
"""

import base64
import json
import pathlib
import re

import decode
import jpeg_cases
import pictures
import raster_cases

FOLDER = pathlib.Path(__file__).parents[2] / "data" / "parity"


def main():
    any_size = pictures.size
    pictures.size = lambda random: any_size(random, 18)
    for module, count in ((jpeg_cases, 700), (raster_cases, 700)):
        chosen = {}
        for name, data, expected, words in module.cases(count, 14):
            trait = re.sub(r"-quality \d+|-optimize|-restart \w+|\d+: .*|interlaced \w+|orientation [2-8]", "", name.split(" ", 1)[1])
            line = {"name": name, "file": base64.b64encode(data).decode()}
            if expected is None:
                line["words"] = words
            else:
                line |= {"height": expected.shape[0], "width": expected.shape[1],
                         "tolerance": decode.tolerance_of(module, name), "rgb": base64.b64encode(expected.tobytes()).decode()}
            chosen.setdefault(" ".join(trait.split()), json.dumps(line))
        kept = [line for line in chosen.values() if len(line) < 3000][:50]
        name = module.__name__.removesuffix("_cases")
        (FOLDER / f"{name}.jsonl").write_text("\n".join(kept) + "\n")
        print(f"{name}: {len(kept)} files")


if __name__ == "__main__":
    main()

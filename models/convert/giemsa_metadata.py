"""Puts into an ONNX file what Giemsa must know of it (`giemsa.*` in `metadata_props`); refuses what cannot be right.

    python models/convert/giemsa_metadata.py any.onnx --out my-model.onnx --labels parasitized uninfected --resize fit

It never changes weights or operators, and never guesses how images were prepared for training.
It keeps one invariant: a file that it writes was run on random images, and gave one finite score for each label,
scores that are what `giemsa.output` says. `giemsa classify --model` has the last word.
"""

import argparse
import json
import math
import os
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

# Opsets that the engine behind Giemsa is tested with.
OPSETS = range(9, 19)
REVIEW_KEYS = {"confidence_below", "label_above", "outlier_above"}
# Far above rounding of 32-bit floats, far below what a missing softmax makes.
SUM_TOLERANCE = 1e-3


class Refused(Exception):
    """The model cannot be used as described; the message says what was found, what was expected and the way out."""


def add_metadata(source, out, **description) -> dict[str, str]:
    """Reads the ONNX file `source`, adds what `description` says (see `complete`), and writes one file, `out`."""
    source = Path(source)
    if not source.is_file():
        raise Refused(f"{source} is not there; expected an ONNX file")
    try:
        model = onnx.load(source)
    except Exception as error:
        raise Refused(f"{source} cannot be read as ONNX with its weights: {error}") from error
    complete(model, **description)
    write(model, out)
    return {entry.key: entry.value for entry in model.metadata_props}


def complete(model: onnx.ModelProto, *, labels, resize, output=None, layout=None, width=None, height=None, color=None,
             pad=None, scale=None, mean=None, std=None, name="unnamed", version="0", temperature=1.0, review=None,
             positive=()) -> None:
    """Adds the metadata to `model` after checking it against the graph, then runs the graph on random images.

    `labels`: in the order of the scores. `resize`: stretch, fit or crop. `output`: logits or probabilities; needed
    unless the graph ends in a softmax. `layout` (nchw, nhwc), `width` and `height` (px), `color` (rgb, gray): needed
    where the graph's input leaves them open. A pixel v of 0 to 255 becomes `(v * scale - mean) / std`, `mean` and
    `std` for each channel; by default v / 255. `pad`: colour around an image that `fit` made smaller, 0 to 255.
    `temperature`: above 0, divides the logits. `review`: dict of confidence_below, label_above, outlier_above.
    `positive`: labels that count in a slide's figure. Raises `Refused`.
    """
    labels, positive = _labels(labels), list(positive)
    spec = _input_spec(model, layout=layout, width=width, height=height, color=color, resize=resize, pad=pad,
                       scale=scale, mean=mean, std=std)
    outputs = [entry.name for entry in model.graph.output]
    if outputs[1:] not in ([], ["outlier"]):
        raise Refused(f"the graph has the outputs {outputs}; expected the scores, and after them at most one more, "
                      f"named outlier. Drop the others: del model.graph.output[1:]")
    output = _output_kind(model, output)
    if not (isinstance(temperature, (int, float)) and math.isfinite(temperature) and temperature > 0):
        raise Refused(f"temperature is {temperature!r}; expected a number above 0 (1 if scores are not calibrated)")
    for label in positive:
        if label not in labels:
            raise Refused(f"positive names {label!r}; expected some of the labels {labels}")
    if review is None and outputs[1:]:
        raise Refused('the graph has an output "outlier", and nothing says from which value on an image is to be '
                      'looked at; expected review to hold it, e.g. {"confidence_below": 0.9, "outlier_above": 0.5}')
    entries = {
        "giemsa.name": str(name),
        "giemsa.version": str(version),
        "giemsa.labels": json.dumps(labels, ensure_ascii=False),
        "giemsa.input": json.dumps(spec),
        "giemsa.output": output,
        "giemsa.temperature": repr(float(temperature)),
        "giemsa.positive": json.dumps(positive, ensure_ascii=False),
    }
    if review is not None:
        entries["giemsa.review"] = json.dumps(_review(review, labels, bool(outputs[1:])), ensure_ascii=False)
    kept = {entry.key: entry.value for entry in model.metadata_props if not entry.key.startswith("giemsa.")}
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, kept | entries)
    run = Runner(model.SerializeToString())
    _check_scores([run(tensor) for tensor in sample_tensors(spec)], labels, output)


def write(model: onnx.ModelProto, out) -> None:
    """Writes the model as one file, all at once: what stood there before stays if this fails."""
    out = Path(out)
    temporary = out.with_name(out.name + ".part")
    temporary.write_bytes(model.SerializeToString())
    os.replace(temporary, out)
    print(f"{out}: {out.stat().st_size} bytes, opset {_opset(model)}. Now: giemsa classify --model {out} IMAGE…")


def input_spec(model: onnx.ModelProto) -> dict:
    """What `giemsa.input` of a completed model says."""
    return json.loads(next(entry.value for entry in model.metadata_props if entry.key == "giemsa.input"))


def sample_tensors(spec: dict, count: int = 8) -> list[np.ndarray]:
    """Random images as the network gets them, float32 [1, ...]: blocks of colour under noise, all different."""
    rng = np.random.default_rng(7)
    width, height, channels = spec["width"], spec["height"], 3 if spec["color"] == "rgb" else 1
    tensors = []
    for _ in range(count):
        blocks = rng.uniform(0, 255, (4, 4, channels))
        rows, columns = np.arange(height) * 4 // height, np.arange(width) * 4 // width
        picture = blocks[rows][:, columns] + rng.normal(0, 20, (height, width, channels))
        levels = np.clip(np.rint(picture), 0, 255).astype(np.float32)
        mean, std = (np.float32(spec[key]) for key in ("mean", "std"))
        tensor = ((levels * np.float32(spec["scale"]) - mean) / std)[None]
        tensors.append(np.ascontiguousarray(tensor.transpose(0, 3, 1, 2) if spec["layout"] == "nchw" else tensor))
    return tensors


class Runner:
    """Runs an ONNX model on one image at a time; gives its scores as one row."""

    def __init__(self, content: bytes):
        try:
            self.session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise Refused(f"onnxruntime cannot load the graph: {error}") from error

    def __call__(self, tensor: np.ndarray) -> np.ndarray:
        try:
            return np.asarray(self.session.run(None, {self.session.get_inputs()[0].name: tensor})[0]).ravel()
        except Exception as error:
            raise Refused(f"the graph cannot be run on an input of the shape {list(tensor.shape)}: {error}") from error


def _labels(labels) -> list[str]:
    labels = [labels] if isinstance(labels, str) else list(labels or [])
    if len(labels) < 2 or len(set(labels)) < len(labels) or not all(isinstance(x, str) and x.strip() for x in labels):
        raise Refused(f"labels are {labels}; expected two or more different texts, in the order of the scores "
                      f"(Keras' image_dataset_from_directory and torchvision's ImageFolder sort them by name)")
    return labels


def _opset(model) -> int:
    return next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)


def _input_spec(model, *, layout, width, height, color, resize, pad, scale, mean, std) -> dict:
    if _opset(model) not in OPSETS:
        print(f"note: the graph's opset is {_opset(model)}; Giemsa's engine is tested with {OPSETS[0]} to {OPSETS[-1]}")
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [entry for entry in model.graph.input if entry.name not in weights]
    if len(inputs) != 1:
        raise Refused(f"the graph has the inputs {[entry.name for entry in inputs]}; expected one, the image")
    kind = inputs[0].type.tensor_type
    if kind.elem_type != onnx.TensorProto.FLOAT:
        found = onnx.TensorProto.DataType.Name(kind.elem_type)
        raise Refused(f"the graph's input is {found}; expected FLOAT (32-bit): export the model with a float32 input")
    shape = [dim.dim_value or None for dim in kind.shape.dim]
    shown = [size or "?" for size in shape]
    if len(shape) != 4:
        raise Refused(f"the graph's input has the shape {shown}; expected four dimensions: batch, then nchw or nhwc")
    if shape[0] not in (None, 1):
        raise Refused(f"the graph's input has the shape {shown}; expected a batch of 1, or an open one")
    if layout is None:
        is_channels = [size in (1, 3) for size in (shape[1], shape[3])]
        if is_channels[0] == is_channels[1]:
            raise Refused(f"layout is missing, and the graph's input shape {shown} does not tell it; "
                          f"expected nchw (PyTorch) or nhwc (Keras)")
        layout = "nchw" if is_channels[0] else "nhwc"
    _one_of("layout", layout, ("nchw", "nhwc"))
    channels, rows, columns = (shape[i] for i in ((1, 2, 3) if layout == "nchw" else (3, 1, 2)))
    if channels not in (None, 1, 3):
        raise Refused(f"the graph's input shape {shown} has {channels} channels as {layout}; expected 1 or 3")
    of_channels = {1: "gray", 3: "rgb"}.get(channels)
    spec = {"layout": layout}
    for key, said, graph in (("width", width, columns), ("height", height, rows), ("color", color, of_channels)):
        if said is not None and graph is not None and said != graph:
            raise Refused(f"{key} is {said}, but the graph's input shape {shown} as {layout} says {graph}; "
                          f"expected the same")
        spec[key] = graph if said is None else said
        if spec[key] is None:
            raise Refused(f"{key} is missing, and the graph's input shape {shown} does not tell it")
    _one_of("color", spec["color"], ("rgb", "gray"))
    _one_of("resize", resize, ("stretch", "fit", "crop"), "the one that training used")
    count = 3 if spec["color"] == "rgb" else 1
    spec |= {
        "resize": resize,
        "pad": _numbers("pad", pad, 3, [0, 0, 0]),
        "scale": 1 / 255 if scale is None else float(scale),
        "mean": _numbers("mean", mean, count, [0.0] * count),
        "std": _numbers("std", std, count, [1.0] * count),
    }
    if any(value not in range(256) for value in spec["pad"]):
        raise Refused(f"pad is {spec['pad']}; expected red, green and blue, whole numbers of 0 to 255")
    spec["pad"] = [int(value) for value in spec["pad"]]
    if not math.isfinite(spec["scale"]) or spec["scale"] == 0:
        raise Refused(f"scale is {spec['scale']}; expected a number other than 0, e.g. 1/255 = 0.00392156862745098")
    if min(spec["std"]) <= 0:
        raise Refused(f"std is {spec['std']}; expected numbers above 0")
    return spec


def _one_of(key, value, allowed, hint=""):
    if value not in allowed:
        raise Refused(f"{key} is {value!r}; expected one of {', '.join(allowed)}{hint and ': ' + hint}")


def _numbers(key, values, count, default) -> list:
    values = default if values is None else [float(value) for value in values]
    if len(values) != count or not all(math.isfinite(value) for value in values):
        raise Refused(f"{key} is {values}; expected {count} finite number{'s' * (count > 1)}")
    return values


def _output_kind(model, output) -> str:
    scores = model.graph.output[0].name
    producer = next((node.op_type for node in model.graph.node if scores in node.output), None)
    if output is None and producer == "Softmax":
        return "probabilities"
    if output is None:
        raise Refused(f"output is missing, and the graph ends in {producer}, not in Softmax; expected logits "
                      f"(scores before a softmax) or probabilities (they sum to one)")
    _one_of("output", output, ("logits", "probabilities"))
    return output


def _review(review, labels, has_outlier) -> dict:
    if not isinstance(review, dict) or set(review) - REVIEW_KEYS:
        raise Refused(f"review is {review!r}; expected an object with some of {', '.join(sorted(REVIEW_KEYS))}")
    above = review.get("label_above", {})
    for label in above:
        if label not in labels:
            raise Refused(f"review names the label {label!r}; expected some of {labels}")
    for value in [review.get("confidence_below", 0), *above.values()]:
        if not (isinstance(value, (int, float)) and 0 <= value <= 1):
            raise Refused(f"review holds {value!r}; expected a probability, 0 to 1")
    if has_outlier != ("outlier_above" in review):
        found = "has" if has_outlier else "has not"
        raise Refused(f"review is {review}, and the graph {found} an output named outlier; expected outlier_above in "
                      f"review if and only if there is such an output")
    return review


def _check_scores(rows: list[np.ndarray], labels: list[str], output: str) -> None:
    scores = np.stack(rows).astype(np.float64)
    if scores.shape[1] != len(labels):
        raise Refused(f"{len(labels)} labels are given, {labels}, but the network gives {scores.shape[1]} scores for "
                      f"an image; expected one label for each score, in their order")
    if not np.isfinite(scores).all():
        raise Refused(f"the network gives {scores[~np.isfinite(scores).all(axis=1)][0].tolist()} on a random image; "
                      f"expected finite scores")
    sums = scores.sum(axis=1)
    furthest = int(np.abs(sums - 1).argmax())
    are_shares = (scores > -1e-6).all() and abs(sums[furthest] - 1) <= SUM_TOLERANCE
    if output == "probabilities" and not are_shares:
        shown = [round(value, 4) for value in scores[furthest]]
        raise Refused(f"output is probabilities, but the scores {shown} of a random image sum to {sums[furthest]:.4f}; "
                      f"expected numbers of 0 to 1 that sum to 1. If they come before a softmax, say logits; "
                      f"independent sigmoids are not supported")
    if output == "logits" and are_shares:
        shown = [round(value, 4) for value in scores[0]]
        raise Refused(f"output is logits, but the scores of each random image sum to 1, e.g. {shown}: they are "
                      f"probabilities, and a second softmax would flatten them; say probabilities")
    if np.ptp(scores, axis=0).max() < 1e-6:
        print("note: the scores of all random images are the same; do scale, mean and std fit the network?")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds an option for each key of the metadata; `description` reads them back."""
    parser.add_argument("--out", type=Path, required=True, help="the ONNX file to write")
    parser.add_argument("--labels", nargs="+", required=True, metavar="LABEL", help="in the order of the scores")
    parser.add_argument("--resize", choices=("stretch", "fit", "crop"), required=True, help="as in training")
    parser.add_argument("--output", choices=("logits", "probabilities"), help="what the scores are")
    parser.add_argument("--layout", choices=("nchw", "nhwc"), help="default: what the graph says")
    parser.add_argument("--width", type=int, metavar="PX", help="default: what the graph says")
    parser.add_argument("--height", type=int, metavar="PX", help="default: what the graph says")
    parser.add_argument("--color", choices=("rgb", "gray"), help="default: what the graph says")
    parser.add_argument("--pad", type=int, nargs=3, metavar=("R", "G", "B"), help="for fit; default 0 0 0")
    parser.add_argument("--scale", type=float, help="pixels of 0 to 255 are multiplied by it")
    parser.add_argument("--mean", type=float, nargs="+", help="then it is subtracted, for each channel")
    parser.add_argument("--std", type=float, nargs="+", help="then it divides, for each channel")
    parser.add_argument("--name", default="unnamed", help="shown to people")
    parser.add_argument("--version", default="0", help="shown to people")
    parser.add_argument("--temperature", type=float, default=1.0, help="divides the logits; default 1")
    parser.add_argument("--review", type=json.loads, metavar="JSON", help='e.g. \'{"confidence_below": 0.9}\'')
    parser.add_argument("--positive", nargs="*", default=(), metavar="LABEL", help="count in a slide's figure")


def description(args: argparse.Namespace) -> dict:
    """What the options of `add_arguments` say, for `complete`."""
    keys = ("labels", "resize", "output", "layout", "width", "height", "color", "pad", "scale", "mean", "std", "name",
            "version", "temperature", "review", "positive")
    return {key: getattr(args, key) for key in keys}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="an ONNX file from anywhere")
    add_arguments(parser)
    args = parser.parse_args()
    try:
        add_metadata(args.model, args.out, **description(args))
    except Refused as problem:
        raise SystemExit(f"{args.model}: {problem}") from None


if __name__ == "__main__":
    main()

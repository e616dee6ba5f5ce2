"""Puts into an ONNX file what Giemsa must know of it (`giemsa.*` in `metadata_props`); refuses what cannot be right.

    python models/convert/giemsa_metadata.py any.onnx --out my-model.onnx --labels parasitized uninfected --resize fit \\
        --pixels 0-1

It never changes what the network computes, and never guesses how images were prepared for training.
It keeps one invariant: a file that it writes was run on generated images, and gave finite scores that are what
`giemsa.output` says. `giemsa classify --model` has the last word.
"""

import argparse
import json
import math
import os
from pathlib import Path

from refusal import Refused, needs, reason, run

needs("requirements-onnx.txt", "numpy", "onnx", "onnxruntime")
import numpy as np
import onnx
import onnxruntime

import graph
import proof as proofs
import scores

# Opsets that the engine behind Giemsa is tested with.
OPSETS = range(7, 25)
REVIEW_KEYS = {"confidence_below", "label_above", "outlier_above"}
# What a network takes, as scale and mean of pixels of 0 to 255.
PIXELS = {"0-255": (1.0, 0.0), "0-1": (1 / 255, 0.0), "-1-1": (1 / 127.5, 1.0)}
FOUR_CHANNELS = ("expected 1 (grey) or 3 (red, green, blue): Giemsa drops an image's alpha channel, and no other fourth "
                 "channel is known to it; train the network without it")
SAY_PIXELS = ("--pixels 0-1 if training divided them by 255, --pixels -1-1 if it made them -1 to 1, --pixels 0-255 if it "
              "left them as they are, or --scale, --mean and --std")


def add_metadata(source, out, *, proof=None, **description) -> dict[str, str]:
    """Reads the ONNX file `source`, adds what `description` says (see `complete`), and writes one file, `out`.

    `proof`: a file with the value of `giemsa.proof`; without it, onnxruntime's scores are the proof.
    """
    source = Path(source)
    if not source.is_file():
        raise Refused("it is not there; expected an ONNX file")
    try:
        model = onnx.load(source)
    except Exception as error:
        raise Refused(f"it cannot be read as ONNX with its weights: {reason(error)}") from error
    if not model.graph.node:
        raise Refused("it is not an ONNX file, or has no operators; for Keras use from_keras.py, for PyTorch "
                      "from_pytorch.py")
    graph.set_batch_of_one(model)
    if graph.widen(model):
        print("its 16-bit floats are now 32-bit floats: the file is larger, its scores are the same but for rounding")
    spec = complete(model, **description)
    if proof:
        text = _read_proof(Path(proof))
    else:
        network = scores.Runner(model.SerializeToString())
        found = [(picture, network(proofs.tensor(picture, spec)))
                 for picture in scores.pictures(spec)[:scores.PROOF_PICTURES]]
        text = scores.make_proof(found, f"onnxruntime {onnxruntime.__version__}")
    finish(model, text, out)
    return {entry.key: entry.value for entry in model.metadata_props}


def _read_proof(path: Path) -> str:
    try:
        return json.dumps(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise Refused(f"{path} is not JSON ({error}); expected what proof.proof() of models/convert/proof.py gives") \
            from error


def complete(model: onnx.ModelProto, *, labels, resize, output=None, layout=None, width=None, height=None, color=None,
             pad=None, pixels=None, scale=None, mean=None, std=None, name="unnamed", version="0", temperature=1.0,
             review=None, positive=()) -> dict:
    """Adds the metadata to `model` after checking it against the graph; gives `giemsa.input`. It runs the graph.

    `labels`: in the order of the scores. `resize`: stretch, fit or crop. `output`: logits or probabilities; needed
    unless the graph ends in a softmax. `layout` (nchw, nhwc), `width` and `height` (px), `color` (rgb, gray): needed
    where the graph's input leaves them open. A pixel v of 0 to 255 becomes `(v * scale - mean) / std`, `mean` and
    `std` for each channel; `pixels` is the short form (0-255, 0-1, -1-1). One of them is needed, unless the network
    begins with the arithmetic that pixels of 0 to 255 need. `pad`: colour around an image that `fit` made smaller, 0 to
    255. `temperature`: above 0, divides the logits. `review`: dict of confidence_below, label_above, outlier_above.
    `positive`: labels that count in a slide's figure. Raises `Refused`.
    """
    labels, positive = _labels(labels), list(positive)
    spec = _input_spec(model, layout=layout, width=width, height=height, color=color, resize=resize, pad=pad)
    spec |= _pixel_formula(model, spec, pixels=pixels, scale=scale, mean=mean, std=std)
    tensors = [proofs.tensor(picture, spec) for picture in scores.pictures(spec)]
    network = scores.Runner(model.SerializeToString())
    first = network(tensors[0])
    graph.check_kind(model, first, labels)
    outputs = [entry.name for entry in model.graph.output]
    if outputs[1:] not in ([], ["outlier"]):
        raise Refused(f"the graph has the outputs {outputs}; expected the scores, and after them at most one more, "
                      f"named outlier. Drop the others: del model.graph.output[1:]")
    output = _output_kind(model, output, first[0].size == 1)
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
    scores.check(model, [first, *map(network, tensors[1:])], output)
    return spec


def finish(model: onnx.ModelProto, proof: str, out) -> None:
    """Adds `giemsa.proof` and writes the model as one file, all at once: what stood there before stays if this fails."""
    model.metadata_props.add(key="giemsa.proof", value=proof)
    out = Path(out)
    temporary = out.with_name(out.name + ".part")
    temporary.write_bytes(model.SerializeToString())
    os.replace(temporary, out)
    print(f"{out}: {out.stat().st_size} bytes, opset {graph.opset(model)}. Now: giemsa classify --model {out} IMAGE…")


def _labels(labels) -> list[str]:
    labels = [labels] if isinstance(labels, str) else list(labels or [])
    if len(labels) < 2 or len(set(labels)) < len(labels) or not all(isinstance(x, str) and x.strip() for x in labels):
        raise Refused(f"labels are {labels}; expected two or more different texts, in the order of the scores "
                      f"(Keras' image_dataset_from_directory and torchvision's ImageFolder sort them by name)")
    return labels


def _input_spec(model, *, layout, width, height, color, resize, pad) -> dict:
    if graph.opset(model) not in OPSETS:
        print(f"note: the graph's opset is {graph.opset(model)}; Giemsa's engine is tested with {OPSETS[0]} to "
              f"{OPSETS[-1]}")
    kind = graph.image_input(model).type.tensor_type
    if kind.elem_type != onnx.TensorProto.FLOAT:
        found = onnx.TensorProto.DataType.Name(kind.elem_type)
        raise Refused(f"the graph's input takes {found}; expected FLOAT (32-bit floats): export the network with a "
                      f"float32 input, and if it takes pixels of 0 to 255, say --pixels 0-255")
    shape = [dim.dim_value or None for dim in kind.shape.dim]
    shown = [size or "?" for size in shape]
    if len(shape) != 4:
        raise Refused(f"the graph's input has the shape {shown}; expected four dimensions: batch, then nchw or nhwc")
    if 4 in (shape[1], shape[3]) and not {1, 3} & {shape[1], shape[3]}:
        raise Refused(f"the graph's input shape {shown} has 4 channels; {FOUR_CHANNELS}")
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
    for key, said, own in (("width", width, columns), ("height", height, rows), ("color", color, of_channels)):
        if said is not None and own is not None and said != own:
            raise Refused(f"{key} is {said}, but the graph's input shape {shown} as {layout} says {own}; "
                          f"expected the same")
        spec[key] = own if said is None else said
        if spec[key] is None:
            raise Refused(f"{key} is missing, and the graph's input shape {shown} does not tell it")
    _one_of("color", spec["color"], ("rgb", "gray"))
    _one_of("resize", resize, ("stretch", "fit", "crop"), "the one that training used")
    spec |= {"resize": resize, "pad": _numbers("pad", pad, 3)}
    if any(value not in range(256) for value in spec["pad"]):
        raise Refused(f"pad is {spec['pad']}; expected red, green and blue, whole numbers of 0 to 255")
    spec["pad"] = [int(value) for value in spec["pad"]]
    return spec


def _pixel_formula(model, spec, *, pixels, scale, mean, std) -> dict:
    """Scale, mean and std as stated, or as the network's own arithmetic demands them; never guessed."""
    if pixels is not None:
        _one_of("pixels", pixels, PIXELS)
        if scale is not None or (mean is not None and pixels == "-1-1"):
            given = f"scale {scale}" if scale is not None else f"mean {mean}"
            raise Refused(f"pixels {pixels} and {given} are both given, and say the same thing twice; expected one")
        scale = PIXELS[pixels][0]
        mean = [PIXELS[pixels][1]] * _channels(spec) if mean is None else mean
    count = _channels(spec)
    stated = {"mean": _numbers("mean", mean, count), "std": _numbers("std", std, count, 1.0)}
    if min(stated["std"]) <= 0:
        raise Refused(f"std is {stated['std']}; expected numbers above 0")
    if scale is not None and (not math.isfinite(scale) or scale == 0):
        raise Refused(f"scale is {scale}; expected a number other than 0, e.g. 1/255 = 0.00392156862745098")
    front = graph.Front(model)

    def spread(scale, mean, std):
        formula = spec | {"scale": scale, "mean": mean, "std": std}
        shape = (spec["height"], spec["width"], count)
        dark, light = (proofs.tensor(np.full(shape, level, np.uint8), formula) for level in (0, 255))
        return front.spread(scores.Runner, dark, light)

    plain = {name: spread(*PIXELS[name], np.ones(count)) for name in ("0-255", "0-1")}
    takes = [name for name, found in plain.items() if found and graph.is_plausible(*found)]
    begins = f"the network begins with {', '.join(dict.fromkeys(front.operators))}"
    if scale is None and (mean is not None or std is not None) and max(map(abs, stated["mean"])) <= 1:
        scale = PIXELS["0-1"][0]
        print("mean and std are those of pixels of 0 to 1: scale is 1/255, as of torchvision's ToTensor and Normalize")
    elif scale is None and takes == ["0-255"]:
        scale = 1.0
        low, high = plain["0-255"]
        print(f"pixels stay 0 to 255 (scale 1): {begins}, which makes {low:.4g} to {high:.4g} of them")
    elif scale is None:
        raise Refused(f"nothing says what the network expects of pixels; expected {SAY_PIXELS}")
    stated = {"scale": float(scale)} | stated
    found = spread(**stated)
    if found and takes and not graph.is_plausible(*found):
        low, high = plain[takes[0]]
        raise Refused(f"scale {stated['scale']:.6g}, mean {stated['mean']} and std {stated['std']} are stated, but {begins}, "
                      f"which would make {found[0]:.4g} to {found[1]:.4g} of black to white; it takes pixels of "
                      f"{takes[0].replace('-', ' to ')} (of which it makes {low:.4g} to {high:.4g}): say --pixels "
                      f"{takes[0]}, or take that arithmetic out of the network")
    return stated


def _channels(spec) -> int:
    return 3 if spec["color"] == "rgb" else 1


def _one_of(key, value, allowed, hint=""):
    if value not in allowed:
        raise Refused(f"{key} is {value!r}; expected one of {', '.join(allowed)}{hint and ': ' + hint}")


def _numbers(key, values, count, default=0.0) -> list:
    values = [default] * count if values is None else [float(value) for value in values]
    if len(values) != count or not all(math.isfinite(value) for value in values):
        raise Refused(f"{key} is {values}; expected {count} finite number{'s' * (count > 1)}")
    return values


def _output_kind(model, output, is_single) -> str:
    ending = scores.ending(model)
    if output is None and (ending == "Softmax" or (is_single and ending == "Sigmoid")):
        return "probabilities"
    if output is None:
        raise Refused(f"output is missing, and the graph ends in {ending}, not in Softmax; expected logits "
                      f"(scores before a softmax or sigmoid) or probabilities (they sum to one)")
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
    parser.add_argument("--pixels", choices=PIXELS, help="what training made of pixels; short for scale and mean")
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
    keys = ("labels", "resize", "output", "layout", "width", "height", "color", "pad", "pixels", "scale", "mean", "std",
            "name", "version", "temperature", "review", "positive")
    return {key: getattr(args, key) for key in keys}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="an ONNX file from anywhere")
    parser.add_argument("--proof", type=Path, help="giemsa.proof as the training framework made it (convert/proof.py)")
    add_arguments(parser)
    run(parser, lambda args: add_metadata(args.model, args.out, proof=args.proof, **description(args)))


if __name__ == "__main__":
    main()

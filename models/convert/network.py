"""What the conversions of Keras and of PyTorch share: outputs, comparison with the framework, and the proof.

A framework is a function: a float32 tensor in, a list of arrays out, the scores first.
It keeps one invariant: the scores in `giemsa.proof` are the framework's, never those of the exported graph.
"""

import argparse

import onnx

import graph
import proof
import scores
from giemsa_metadata import complete, finish
from refusal import Refused


def add_outlier(parser: argparse.ArgumentParser) -> None:
    """Adds the option that says what a second output is."""
    parser.add_argument("--outlier", action="store_true", help="the network's second output is an outlier score")


def output_names(found: list[str], outlier: bool) -> list[str]:
    """Names for the outputs of the graph: scores, and maybe outlier; `found`: what the framework calls them."""
    if outlier and len(found) != 2 or len(found) > 2:
        expected = "expected two: the scores, then the outlier score" if outlier else "expected one, the scores"
    elif len(found) == 2 and not outlier and found[1] != "outlier":
        expected = "expected one, the scores. If the second is an outlier score, say so: --outlier (outlier=True)"
    else:
        return ["scores", "outlier"][: len(found)]
    raise Refused(f"the network has {len(found)} outputs ({', '.join(found)}); {expected}. Otherwise make a network that "
                  f"gives the scores only: in Keras, keras.Model(model.inputs, model.outputs[0])")


def write(model: onnx.ModelProto, framework, by: str, out, **metadata) -> None:
    """Describes an exported graph, compares it with `framework`, whose name and version is `by`, and writes it."""
    graph.mend_integer_constants(model)
    _forget_origin(model)
    spec = complete(model, **metadata)
    output = next(entry.value for entry in model.metadata_props if entry.key == "giemsa.output")
    pictures = scores.pictures(spec)
    tensors = [proof.tensor(picture, spec) for picture in pictures]
    stable = scores.compare(framework, scores.Runner(model.SerializeToString()), tensors, output)
    finish(model, scores.make_proof([(pictures[number], own) for number, own in stable.items()], by), out)


def _forget_origin(model: onnx.ModelProto) -> None:
    """Removes unused weights and what exporters say of the source: your folders and lines of code."""
    parts = model.graph
    used = {name for node in parts.node for name in node.input}
    for tensor in [tensor for tensor in parts.initializer if tensor.name not in used]:
        parts.initializer.remove(tensor)
    for entry in [model, parts, *parts.node, *parts.input, *parts.output, *parts.value_info, *parts.initializer]:
        del entry.metadata_props[:]
        entry.doc_string = ""

"""Makes a Giemsa model of a PyTorch module: export to ONNX, metadata, and a comparison of the scores.

In your own script, where the module's class is known:

    import sys; sys.path.append("models/convert")
    from from_pytorch import convert
    convert(net, "my-model.onnx", width=64, height=48, labels=["parasitized", "uninfected"], output="logits",
            resize="fit")

or, for a program saved by `torch.export.save`:

    python models/convert/from_pytorch.py net.pt2 --out my-model.onnx --labels parasitized uninfected \\
        --output logits --resize fit

It never changes your module, and never takes pickled modules: those need their code.
It keeps one invariant: a file that it writes gives the module's own scores, to 1e-4, on random images.
"""

import argparse
import copy
import logging
import tempfile
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch

from giemsa_metadata import (Refused, Runner, add_arguments, complete, description, input_spec, sample_tensors, write)

# The newest that the engine behind Giemsa is tested with.
OPSET = 18
TOLERANCE = 1e-4


def convert(module: torch.nn.Module, out, *, width: int, height: int, color: str = "rgb", **metadata) -> None:
    """Writes `module` as the Giemsa model `out`; raises `Refused` if it cannot, or if the scores differ.

    The module gets float32 [1, C, height, width] (or [1, height, width, C] with layout="nhwc") and gives scores
    [1, number of labels], or one score that is the second label's. It may give a pair: scores and an outlier score.
    `metadata`: labels, resize, output and so on, see `giemsa_metadata.complete`.
    """
    own = copy.deepcopy(module).cpu().float().eval()
    export(own, out, width=width, height=height, color=color, **metadata)


def export(module, out, *, width, height, color, layout="nchw", labels, output=None, **metadata) -> None:
    """As `convert`, for a module that is on the CPU, in float32, and set to inference."""
    channels = 3 if color == "rgb" else 1
    shape = (1, channels, height, width) if layout == "nchw" else (1, height, width, channels)
    trial = torch.zeros(shape)
    with torch.no_grad():
        found = module(trial)
    outputs = list(found) if isinstance(found, (tuple, list)) else [found]
    if len(outputs) > 2 or not all(isinstance(entry, torch.Tensor) for entry in outputs):
        raise Refused(f"the module gives {type(found).__name__} of {len(outputs)}; expected scores, or scores and an "
                      f"outlier score: wrap it in a module that gives those only")
    if outputs[0].numel() == 1 and len(labels) == 2:
        if output not in ("logits", "probabilities"):
            raise Refused("the network gives one score for two labels; expected output to be probabilities (after a "
                          "sigmoid) or logits (before it)")
        module = TwoScores(module, output == "probabilities").eval()
    model = _to_onnx(module, trial, ["scores", "outlier"][: len(outputs)])
    complete(model, labels=labels, output=output, layout=layout, width=width, height=height, color=color, **metadata)
    _compare(module, model)
    write(model, out)


class TwoScores(torch.nn.Module):
    """Makes two scores of one, that of the second label."""

    def __init__(self, module, is_probability):
        super().__init__()
        self.module, self.is_probability = module, is_probability

    def forward(self, image):
        found = self.module(image)
        score, rest = (found[0], tuple(found[1:])) if isinstance(found, (tuple, list)) else (found, ())
        score = score.reshape(-1, 1)
        both = torch.cat([1 - score if self.is_probability else torch.zeros_like(score), score], dim=1)
        return (both, *rest) if rest else both


def _to_onnx(module, trial, names) -> onnx.ModelProto:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # It tells of every optional package that is not there.
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / "model.onnx"
        try:
            # A fixed batch of one is what Giemsa runs. With an open one the older exporter (dynamo=False) leaves
            # long chains of operators that compute shapes, for Keras' "same" padding above all.
            torch.onnx.export(module, (trial,), path, dynamo=True, opset_version=OPSET, external_data=False,
                              input_names=["image"], output_names=names, verbose=False)
        except Exception as error:
            raise Refused(f"PyTorch cannot export this network to ONNX: {error}") from error
        model = onnx.load(path)
    _forget_origin(model)
    return model


def _forget_origin(model: onnx.ModelProto) -> None:
    """Removes what the exporter says of the source: your folders and lines of code, larger than a small network."""
    graph = model.graph
    for entry in [model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer]:
        del entry.metadata_props[:]
        entry.doc_string = ""


def _compare(module, model: onnx.ModelProto) -> None:
    run = Runner(model.SerializeToString())
    worst = 0.0
    for number, tensor in enumerate(sample_tensors(input_spec(model))):
        with torch.no_grad():
            found = module(torch.from_numpy(tensor))
        own = (found[0] if isinstance(found, (tuple, list)) else found).numpy().ravel()
        exported = run(tensor)
        # Of large logits the last digits differ; a probability is never above 1.
        difference = float(np.abs(own - exported).max() / max(1.0, np.abs(own).max()))
        if not difference <= TOLERANCE:
            raise Refused(f"on random image {number} the framework's scores are {own.tolist()}, those of the exported "
                          f"file {exported.tolist()}: they differ by {difference:.2g}, expected at most {TOLERANCE}. "
                          f"Is something in it random, or in training mode?")
        worst = max(worst, difference)
    print(f"scores of the framework and of the file differ by {worst:.1g} at most (allowed: {TOLERANCE})")


def load_program(path: Path) -> tuple[torch.nn.Module, tuple[int, ...]]:
    """The module of a `.pt2` file, and the shape of its input."""
    logging.getLogger("torch.export").setLevel(logging.CRITICAL)  # It prints a trace before it raises.
    if not path.is_file():
        raise Refused(f"{path} is not there; expected a file of torch.export.save")
    try:
        program = torch.export.load(path)
    except Exception as error:
        raise Refused(f"it is not a program of torch.export.save ({type(error).__name__}: {str(error)[:200]}). Weights "
                      f"alone (state_dict), pickled modules and TorchScript cannot be taken here: use convert() in the "
                      f"script that has the class, see models/convert/README.md") from error
    for node in program.graph.nodes:
        # Dropout and batch normalisation as they are in training; arguments as in native_functions.yaml.
        place = {torch.ops.aten.dropout.default: 2, torch.ops.aten.batch_norm.default: 5}.get(node.target)
        if place is not None and len(node.args) > place and node.args[place] is True:
            raise Refused(f"{node.name} is in training mode; call net.eval() before torch.export.export")
    names = program.graph_signature.user_inputs
    values = [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder" and node.name in names]
    if len(values) != 1 or values[0].ndim != 4:
        raise Refused(f"it has inputs of the shapes {[tuple(value.shape) for value in values]}; expected one of four "
                      f"dimensions")
    shape = tuple(size if isinstance(size, int) else 0 for size in values[0].shape)
    if shape[0] not in (0, 1):
        raise Refused(f"its input has the shape {shape}; expected a batch of 1, or an open one: export it with "
                      f"torch.zeros(1, ...)")
    return program.module(), shape


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=Path, help="a file of torch.export.save, .pt2")
    add_arguments(parser)
    args = parser.parse_args()
    try:
        module, shape = load_program(args.program)
        said = description(args)
        said["layout"] = said["layout"] or ("nhwc" if shape[3] in (1, 3) and shape[1] not in (1, 3) else "nchw")
        channels, height, width = (shape[i] for i in ((1, 2, 3) if said["layout"] == "nchw" else (3, 1, 2)))
        said["color"] = said["color"] or ("gray" if channels == 1 else "rgb")
        said["width"], said["height"] = said["width"] or width, said["height"] or height
        if not said["width"] or not said["height"]:
            raise Refused(f"its input shape {shape} leaves sides open (0); expected --width and --height")
        export(module, args.out, **said)
    except Refused as problem:
        raise SystemExit(f"{args.program}: {problem}") from None


if __name__ == "__main__":
    main()

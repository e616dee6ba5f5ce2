"""Makes a Giemsa model of a PyTorch module: export to ONNX, metadata, a comparison of the scores, and the proof.

In your own script, where the module's class is known:

    import sys; sys.path.append("models/convert")
    from from_pytorch import convert
    convert(net, "my-model.onnx", width=64, height=48, labels=["parasitized", "uninfected"], output="logits",
            resize="fit", pixels="0-1")

or, for a program saved by `torch.export.save`:

    python models/convert/from_pytorch.py net.pt2 --out my-model.onnx --labels parasitized uninfected \\
        --output logits --resize fit --pixels 0-1

It never changes your module, and never takes pickled modules: those need their code.
It keeps one invariant: a file that it writes gives the module's own scores, to 1e-4, on generated images.
"""

import argparse
import copy
import logging
import tempfile
import warnings
from pathlib import Path

from refusal import Refused, needs, reason, run

needs("requirements-pytorch.txt", "numpy", "onnx", "onnxruntime", "onnxscript")
try:
    import torch
except ImportError:
    raise SystemExit("PyTorch is not installed in this Python; expected the one that your network was trained with: "
                     "pip install torch (on Linux that brings CUDA, 5 GB; for a processor only: pytorch.org)") from None
import numpy as np
import onnx

import network
from giemsa_metadata import FOUR_CHANNELS, add_arguments, description

# The newest that the engine behind Giemsa is tested with.
OPSET = 18


def convert(module: torch.nn.Module, out, *, width: int, height: int, color: str = "rgb", outlier=False,
            **metadata) -> None:
    """Writes `module` as the Giemsa model `out`; raises `Refused` if it cannot, or if the scores differ.

    The module gets float32 [1, C, height, width] (or [1, height, width, C] with layout="nhwc") and gives scores
    [1, number of labels], or one score that is the second label's. With `outlier` it gives a pair: scores and an outlier
    score. Weights of 16 bits become those of 32 bits. `metadata`: labels, resize, pixels, output and so on, see
    `giemsa_metadata.complete`.
    """
    own = copy.deepcopy(module).cpu().float().eval()
    export(own, out, width=width, height=height, color=color, outlier=outlier, **metadata)


def export(module, out, *, width, height, color, layout="nchw", outlier=False, **metadata) -> None:
    """As `convert`, for a module that is on the CPU, in float32, and set to inference."""
    channels = 3 if color == "rgb" else 1
    shape = (1, channels, height, width) if layout == "nchw" else (1, height, width, channels)

    def framework(tensor: np.ndarray) -> list[np.ndarray]:
        with torch.no_grad():
            found = module(torch.from_numpy(tensor))
        found = list(found.values()) if isinstance(found, dict) else found
        return [np.asarray(value) for value in (found if isinstance(found, (tuple, list)) else [found])]

    try:
        outputs = framework(np.zeros(shape, np.float32))
    except Exception as error:
        raise Refused(f"the module cannot be run on an input of the shape {list(shape)}: {reason(error)}. Expected one "
                      f"input, float32, of this shape: are width, height, color and layout those of training?") from error
    names = network.output_names([f"output {number}" for number in range(len(outputs))], outlier)
    model = to_onnx(module, torch.zeros(shape), names)
    network.write(model, framework, f"torch {torch.__version__}", out, layout=layout, width=width, height=height,
                  color=color, **metadata)


def to_onnx(module, trial, names) -> onnx.ModelProto:
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
            raise Refused(f"PyTorch cannot export this network to ONNX: {reason(error)}") from error
        return onnx.load(path)


def load_program(path: Path) -> tuple[torch.nn.Module, tuple[int, ...]]:
    """The module of a `.pt2` file, and the shape of its input."""
    logging.getLogger("torch.export").setLevel(logging.CRITICAL)  # It prints a trace before it raises.
    if not path.is_file():
        raise Refused("it is not there; expected a file of torch.export.save")
    try:
        program = torch.export.load(path)
    except Exception as error:
        raise Refused(f"it is not a program of torch.export.save ({type(error).__name__}: {reason(error, 200)}). Weights "
                      f"alone (state_dict), pickled modules and TorchScript cannot be taken here: use convert() in the "
                      f"script that has the class, see models/README.md") from error
    for node in program.graph.nodes:
        # Dropout and batch normalisation as they are in training; arguments as in native_functions.yaml.
        place = {torch.ops.aten.dropout.default: 2, torch.ops.aten.batch_norm.default: 5}.get(node.target)
        if place is not None and len(node.args) > place and node.args[place] is True:
            raise Refused(f"{node.name} is in training mode; call net.eval() before torch.export.export")
    names = program.graph_signature.user_inputs
    values = [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder" and node.name in names]
    if len(values) != 1 or values[0].ndim != 4:
        raise Refused(f"it has inputs of the shapes {[tuple(value.shape) for value in values]}; expected one of four "
                      f"dimensions, the image")
    if values[0].dtype != torch.float32:
        raise Refused(f"its input is {values[0].dtype}; expected 32-bit floats: call net.float() before "
                      f"torch.export.export")
    shape = tuple(size if isinstance(size, int) else 0 for size in values[0].shape)
    if shape[0] not in (0, 1):
        raise Refused(f"its input has the shape {shape}; expected a batch of 1, or an open one: export it with "
                      f"torch.zeros(1, ...)")
    return program.module(), shape


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a file of torch.export.save, .pt2")
    network.add_outlier(parser)
    add_arguments(parser)
    run(parser, convert_program)


def convert_program(args) -> None:
    """Converts the `.pt2` file of the options."""
    module, shape = load_program(args.model)
    said = description(args)
    said["layout"] = said["layout"] or ("nhwc" if shape[3] in (1, 3) and shape[1] not in (1, 3) else "nchw")
    channels, height, width = (shape[i] for i in ((1, 2, 3) if said["layout"] == "nchw" else (3, 1, 2)))
    if channels not in (0, 1, 3):
        raise Refused(f"its input shape {shape} has {channels} channels; {FOUR_CHANNELS}")
    said["color"] = said["color"] or ("gray" if channels == 1 else "rgb")
    said["width"], said["height"] = said["width"] or width, said["height"] or height
    if not said["width"] or not said["height"]:
        raise Refused(f"its input shape {shape} leaves sides open (0); expected --width and --height")
    export(module, args.out, outlier=args.outlier, **said)


if __name__ == "__main__":
    main()

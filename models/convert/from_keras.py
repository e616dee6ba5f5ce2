"""Makes a Giemsa model of a Keras model: load, export to ONNX, metadata, a comparison of the scores, and the proof.

    python models/convert/from_keras.py model.keras --out my-model.onnx --labels parasitized uninfected --resize stretch \\
        --pixels 0-1
    python models/convert/from_keras.py architecture.json weights.h5 --out my-model.onnx --labels ... --resize ...

It reads files of Keras 3 (any backend) and of Keras 2, see `keras_files.py`; Keras runs on TensorFlow or PyTorch, whichever
is installed. For custom layers call `convert(model, ...)` in your own script. It never trains.
It keeps one invariant: a file that it writes gives Keras' own scores, to 1e-4, on generated images.
"""

import argparse
import importlib.util
import logging
import os
import sys
from pathlib import Path

from refusal import Refused, needs, reason, run

needs("requirements-keras.txt", "numpy", "onnx", "onnxruntime", "h5py", "keras")
BACKENDS = ("torch", "tensorflow")
INSTALL = "pip install -r models/convert/requirements-keras.txt, best in a new environment"

# A file of Keras is the same on all backends, but only these two can be exported. A script that has imported Keras chose.
if "keras" not in sys.modules and os.environ.get("KERAS_BACKEND") not in BACKENDS:
    found = next((name for name in BACKENDS if importlib.util.find_spec(name)), None)
    if found is None:
        raise SystemExit(f"neither TensorFlow nor PyTorch is installed in this Python, on one of which Keras has to run: "
                         f"{INSTALL}")
    os.environ["KERAS_BACKEND"] = found
os.environ.setdefault("KERAS_TORCH_DEVICE", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras

if not keras.__version__.startswith("3"):
    raise SystemExit(f"Keras {keras.__version__} is installed in this Python; expected Keras 3, which reads your files as "
                     f"well: {INSTALL}")

import numpy as np
import onnx
from onnx import numpy_helper

import graph
import network
from giemsa_metadata import FOUR_CHANNELS, add_arguments, description
from keras_files import load

# The newest that the engine behind Giemsa is tested with.
OPSET = 18


def convert(model: keras.Model, out, *, width=None, height=None, color=None, layout=None, output=None, outlier=False,
            **metadata) -> None:
    """Writes `model` as the Giemsa model `out`; raises `Refused` if it cannot, or if the scores differ.

    Size, layout and kind of scores are the model's own; they need to be said where it leaves them open. `outlier`: its
    second output is an outlier score. `metadata`: labels, resize, pixels and so on, see `giemsa_metadata.complete`.
    """
    inputs = getattr(model, "inputs", None) or []
    if len(inputs) != 1 or len(inputs[0].shape) != 4:
        raise Refused(f"the model has inputs of the shapes {[tuple(entry.shape) for entry in inputs]}; expected one of "
                      f"four dimensions, the image. A model of your own class has none until it is wrapped: "
                      f"entry = keras.Input((height, width, 3)); keras.Model(entry, model(entry))")
    shape = tuple(inputs[0].shape)
    layout = layout or ("nchw" if shape[1] in (1, 3) and shape[3] not in (1, 3) else "nhwc")
    channels, rows, columns = (shape[i] for i in ((1, 2, 3) if layout == "nchw" else (3, 1, 2)))
    if channels not in (None, 1, 3):
        raise Refused(f"the model's input shape {shape} has {channels} channels; {FOUR_CHANNELS}")
    width, height = width or columns, height or rows
    if not width or not height:
        raise Refused(f"the model's input shape {shape} leaves sides open; expected width and height (--width, "
                      f"--height)")
    color = color or ("gray" if channels == 1 else "rgb")
    channels = channels or (1 if color == "gray" else 3)
    shape = (1, channels, height, width) if layout == "nchw" else (1, height, width, channels)
    names = network.output_names([entry._keras_history.operation.name for entry in model.outputs], outlier)
    model = _in_32_bits(model)
    exporters = {"torch": _by_torch, "tensorflow": _by_tensorflow}
    backend = keras.backend.backend()
    if backend not in exporters:
        raise Refused(f"Keras runs on {backend}, whose networks cannot be exported to ONNX; expected torch or tensorflow: "
                      f"save the model, and convert the file with from_keras.py, or set KERAS_BACKEND")

    def framework(tensor: np.ndarray) -> list[np.ndarray]:
        return [keras.ops.convert_to_numpy(value) for value in keras.tree.flatten(model(tensor, training=False))]

    try:
        exported = exporters[backend](model, shape, names)
    except Refused:
        raise
    except Exception as error:
        raise Refused(f"Keras on {backend} cannot be exported to ONNX: {reason(error)}. Try the other backend: "
                      f"KERAS_BACKEND={next(name for name in BACKENDS if name != backend)}") from error
    by = f"keras {keras.__version__} on {backend} {sys.modules[backend].__version__}"
    network.write(exported, framework, by, out, layout=layout, width=width, height=height, color=color,
                  output=output or _output_kind(model), **metadata)


def _by_torch(model, shape, names) -> onnx.ModelProto:
    import torch

    from from_pytorch import to_onnx

    class Inference(torch.nn.Module):
        """The model as it is after training: no dropout, no augmentation, fixed normalisation."""

        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, image):
            found = keras.tree.flatten(self.model(image, training=False))
            return tuple(found) if len(found) > 1 else found[0]

    return to_onnx(Inference().eval(), torch.zeros(shape), names)


def _by_tensorflow(model, shape, names) -> onnx.ModelProto:
    import tensorflow

    try:
        import tf2onnx
    except ImportError:
        raise Refused(f"TensorFlow is installed, tf2onnx is not: {INSTALL}") from None
    image = tensorflow.TensorSpec(shape, tensorflow.float32, name="image")
    inference = tensorflow.function(lambda image: keras.tree.flatten(model(image, training=False)),
                                    input_signature=[image])
    logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)  # It prints traces of optimisations that it leaves out.
    exported, _ = tf2onnx.convert.from_function(inference, [image], opset=OPSET)
    # tf2onnx makes inputs of constants that layers hold as tensors.
    constants = {inner.name: outer for outer, inner in inference.get_concrete_function().graph.captures
                 if outer.dtype != tensorflow.resource}
    for entry in [entry for entry in exported.graph.input if entry.name in constants]:
        exported.graph.initializer.append(numpy_helper.from_array(constants[entry.name].numpy(), entry.name))
        exported.graph.input.remove(entry)
    found = [entry.name for entry in exported.graph.output]
    graph.rename(exported, dict(zip(found, names)) | {graph.image_input(exported).name: "image"})
    return exported


def _in_32_bits(model: keras.Model) -> keras.Model:
    """The same model without mixed precision, which is for training on other processors."""
    if all(getattr(layer, "compute_dtype", "float32") == "float32" for layer in model._flatten_layers()):
        return model

    def widened(layer):
        is_layer = isinstance(layer, keras.layers.Layer)
        return type(layer).from_config(layer.get_config() | ({"dtype": "float32"} if is_layer else {}))

    clone = keras.models.clone_model(model, clone_function=widened)
    clone.set_weights([np.asarray(weights, np.float32) for weights in model.get_weights()])
    return clone


def _output_kind(model) -> str | None:
    """What the last layer's activation says of the scores."""
    last = model
    while isinstance(last, keras.Model):
        last = last.outputs[0]._keras_history.operation
    if isinstance(last, keras.layers.Softmax):
        return "probabilities"
    activation = getattr(getattr(last, "activation", None), "__name__", None)
    return {"softmax": "probabilities", "sigmoid": "probabilities", "linear": "logits"}.get(activation)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help=".keras, a whole .h5, or an architecture's .json")
    parser.add_argument("weights", type=Path, nargs="?", help="with a .json: the weights, .h5")
    network.add_outlier(parser)
    add_arguments(parser)
    run(parser, lambda args: convert(load(args.model, args.weights), args.out, outlier=args.outlier, **description(args)))


if __name__ == "__main__":
    main()

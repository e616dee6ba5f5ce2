"""Makes a Giemsa model of a Keras model: load, export to ONNX, metadata, and a comparison of the scores.

    python models/convert/from_keras.py model.keras --out my-model.onnx --labels parasitized uninfected --resize stretch
    python models/convert/from_keras.py architecture.json weights.h5 --out my-model.onnx --labels ... --resize ...

It reads files of Keras 3 (any backend) and of Keras 2, without TensorFlow: `.keras`, a whole `.h5`, or the JSON of
`model.to_json()` with the file of `model.save_weights()`. For custom layers call `convert(model, ...)` in your own
script. It never runs code from a file (no Lambda layers), and never trains.
It keeps two invariants: every weight of the network came from the file, and a file that it writes gives Keras' own
scores, to 1e-4, on random images.
"""

import os

os.environ["KERAS_BACKEND"] = "torch"

import argparse
import json
import shutil
import tempfile
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np
import torch

# Keras 3 reads the layer configurations of Keras 2 for whole .h5 files only; what it uses there is not public.
from keras.src.legacy.saving import saving_options, saving_utils

from from_pytorch import export
from giemsa_metadata import Refused, add_arguments, description

OWN_SCRIPT = "call from_keras.convert(model, ...) in a script of your own that has their code"
# Keras 2 wrote these for separable convolutions, and never used them.
UNUSED = {"SeparableConv2D": ("groups", "kernel_initializer", "kernel_regularizer", "kernel_constraint")}


def convert(model: keras.Model, out, *, width=None, height=None, color=None, layout=None, output=None, scale=None,
            **metadata) -> None:
    """Writes `model` as the Giemsa model `out`; raises `Refused` if it cannot, or if the scores differ.

    Size, layout and kind of scores are the model's own; they need to be said where it leaves them open.
    A model with a Rescaling or Normalization layer gets pixels of 0 to 255 (scale 1), another one v / 255.
    `metadata`: labels, resize and so on, see `giemsa_metadata.complete`.
    """
    if keras.backend.backend() != "torch":
        raise Refused(f"Keras runs on {keras.backend.backend()}; expected torch: import from_keras before keras, or "
                      f"set KERAS_BACKEND=torch")
    if len(model.inputs) != 1 or len(model.inputs[0].shape) != 4:
        shapes = [tuple(entry.shape) for entry in model.inputs]
        raise Refused(f"the model has inputs of the shapes {shapes}; expected one of four dimensions, the image")
    shape = model.inputs[0].shape
    layout = layout or ("nchw" if shape[1] in (1, 3) and shape[3] not in (1, 3) else "nhwc")
    channels, rows, columns = (shape[i] for i in ((1, 2, 3) if layout == "nchw" else (3, 1, 2)))
    width, height = width or columns, height or rows
    if not width or not height:
        raise Refused(f"the model's input shape {shape} leaves sides open; expected width and height (--width, "
                      f"--height)")
    prepares = [layer.name for layer in model._flatten_layers() if isinstance(
        layer, (keras.layers.Rescaling, keras.layers.Normalization))]
    if scale is None:
        scale = 1.0 if prepares else 1 / 255
        why = f"the layer {prepares[0]} prepares them itself" if prepares else "no layer does; if wrong, --scale"
        print(f"pixels of 0 to 255 are multiplied by {scale:.4g}: {why}")
    export(_Inference(model).eval(), out, width=width, height=height, layout=layout, scale=scale,
           color=color or ("gray" if channels == 1 else "rgb"), output=output or _output_kind(model), **metadata)


class _Inference(torch.nn.Module):
    """The model as it is after training: no dropout, no augmentation, fixed normalisation."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, image):
        return self.model(image, training=False)


def _output_kind(model) -> str | None:
    """What the last layer's activation says of the scores."""
    last = model
    while isinstance(last, keras.Model):
        last = last.outputs[0]._keras_history.operation
    if isinstance(last, keras.layers.Softmax):
        return "probabilities"
    activation = getattr(getattr(last, "activation", None), "__name__", None)
    return {"softmax": "probabilities", "sigmoid": "probabilities", "linear": "logits"}.get(activation)


def load(path: Path, weights: Path | None = None) -> keras.Model:
    """The model of a `.keras` or whole `.h5` file, or of an architecture's JSON and its weights."""
    for file in filter(None, (path, weights)):
        if file.is_dir():
            raise Refused(f"{file} is a folder; expected a file. A SavedModel can be read by TensorFlow only: there, "
                          f"model.save_weights() and model.to_json(), or model.save('model.keras')")
        if not file.is_file():
            raise Refused(f"{file} is not there; expected a model of Keras")
    with tempfile.TemporaryDirectory() as folder:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                config = json.loads(archive.read("config.json"))
                version = json.loads(archive.read("metadata.json")).get("keras_version", "")
                weights = weights or Path(archive.extract("model.weights.h5", folder))
        elif h5py.is_hdf5(path):
            with h5py.File(path) as file:
                if "model_config" not in file.attrs:
                    raise Refused(f"{path} holds weights only; expected the architecture before it: the file that "
                                  f"model.to_json() gives")
                config, version = json.loads(file.attrs["model_config"]), file.attrs.get("keras_version", "")
                # Such files are in the form of Keras 2, whoever wrote them.
                config.setdefault("keras_version", version)
                weights = weights or path
        else:
            try:
                config = json.loads(path.read_text(encoding="utf-8"))
            except (UnicodeDecodeError, json.JSONDecodeError) as error:
                raise Refused(f"{path} is neither .keras, nor .h5, nor JSON; expected one of them ({error})") from error
            version = config.get("keras_version", "") if isinstance(config, dict) else ""
            if weights is None:
                raise Refused(f"{path} is an architecture only; expected its weights after it: the file that "
                              f"model.save_weights() gives")
        if not isinstance(config, dict) or "config" not in config:
            raise Refused(f"{path} does not hold a model's architecture; expected what model.to_json() gives")
        # Keras 3 names the module of each class; before 2.13 nothing did, and 2.x says its version.
        is_old = str(version).startswith(("1", "2")) or "module" not in config
        model = _build(config, is_old)
        _load_weights(model, weights, Path(folder))
    return model


def _build(config: dict, is_old: bool) -> keras.Model:
    config = _plain(config)
    config.pop("compile_config", None)  # Losses and metrics may be custom, and nothing is trained here.
    try:
        if is_old:
            with saving_options.keras_option_scope(use_legacy_config=True):
                return saving_utils.model_from_config(_without_keras_2(config))
        return keras.saving.deserialize_keras_object(config)
    except Exception as error:
        raise Refused(f"Keras {keras.__version__} cannot build the architecture: {str(error)[:1500]}\n"
                      f"If it has custom or Lambda layers, {OWN_SCRIPT}") from error


def _plain(config: dict) -> dict:
    """The same network in 32-bit floats, its names without what PyTorch cannot have in them."""
    names = set()

    def collect(node):
        if isinstance(node, dict):
            if isinstance(node.get("name"), str):
                names.add(node["name"])
            for value in node.values():
                collect(value)
        elif isinstance(node, list):
            for value in node:
                collect(value)

    def changed(node):
        if isinstance(node, dict):
            # Of all weights and inputs; mixed precision is for training on other processors.
            return {key: "float32" if key == "dtype" and value else changed(value) for key, value in node.items()}
        if isinstance(node, list):
            return [changed(value) for value in node]
        return renamed.get(node, node) if isinstance(node, str) else node

    collect(config)
    renamed = {}
    for name in sorted(name for name in names if "." in name or "/" in name):
        new = name.replace(".", "_").replace("/", "_")
        while new in names:
            new += "_"
        names.add(new)
        renamed[name] = new
    return changed(config)


def _without_keras_2(node):
    """The configuration without what only Keras 2 knew."""
    if isinstance(node, list):
        return [_without_keras_2(value) for value in node]
    if not isinstance(node, dict):
        return node
    node = {key: _without_keras_2(value) for key, value in node.items()}
    # From 2.13 on classes are named with their module, by which Keras 3 would take a layer for one of its own.
    if "class_name" in node:
        node = {key: value for key, value in node.items() if key not in ("module", "registered_name", "build_config")}
    config = node.get("config")
    if node.get("class_name") == "Sequential":
        config = {"layers": config} if isinstance(config, list) else config
        first = config["layers"][0]
        if first["class_name"] != "InputLayer" and "batch_input_shape" in first["config"]:
            entry = {"class_name": "InputLayer", "config": {"batch_input_shape": first["config"]["batch_input_shape"]}}
            config["layers"].insert(0, entry)
        for layer in config["layers"]:
            if layer["class_name"] != "InputLayer":
                layer["config"].pop("batch_input_shape", None)
        node["config"] = config
    for key in UNUSED.get(node.get("class_name"), ()):
        config.pop(key, None)
    return node


def _load_weights(model: keras.Model, path: Path, folder: Path) -> None:
    if not h5py.is_hdf5(path):
        raise Refused(f"{path} is not HDF5; expected the file that model.save_weights() gives (.h5). A TensorFlow "
                      f"checkpoint can be read by TensorFlow only: there, model.save_weights('model.weights.h5')")
    with h5py.File(path) as file:
        is_old = "layer_names" in file.attrs or "model_weights" in file
    # Keras chooses by the file's name how to read it; names in a bucket say nothing.
    named = folder / ("old.h5" if is_old else "new.weights.h5")
    shutil.copyfile(path, named)
    floats = [variable for variable in model.weights if np.issubdtype(np.dtype(variable.dtype), np.floating)]
    for variable in floats:
        variable.assign(np.full(variable.shape, np.nan, "float32"))
    try:
        model.load_weights(named)
    except Exception as error:
        raise Refused(f"the weights of {path} do not fit the architecture: {str(error)[:1500]}") from error
    unset = [v.path for v in floats if not np.isfinite(keras.ops.convert_to_numpy(v.value)).all()]
    if unset:
        raise Refused(f"{path} gives no finite weights for {unset[:5]}; expected all {len(floats)} of the architecture")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help=".keras, a whole .h5, or an architecture's .json")
    parser.add_argument("weights", type=Path, nargs="?", help="with a .json: the weights, .h5")
    add_arguments(parser)
    args = parser.parse_args()
    try:
        convert(load(args.model, args.weights), args.out, **description(args))
    except Refused as problem:
        raise SystemExit(f"{args.model}: {problem}") from None


if __name__ == "__main__":
    main()

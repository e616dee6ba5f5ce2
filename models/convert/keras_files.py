"""Reads models of Keras from files: `.keras`, a whole `.h5`, or `model.to_json()` with `model.save_weights()`.

It never runs code from a file (no Lambda layers), and needs TensorFlow for none of them, those of Keras 2 included.
It keeps one invariant: every weight of the network came from the file.
"""

import json
import shutil
import tempfile
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np

# Keras 3 reads the layer configurations of Keras 2 for whole .h5 files only; what it uses there is not public.
from keras.src.legacy.saving import saving_options, saving_utils

from refusal import Refused, reason

OWN_SCRIPT = "call from_keras.convert(model, ...) in a script of your own that has their code"
# Keras 2 wrote these, and never used them.
UNUSED = {"SeparableConv2D": ("groups", "kernel_initializer", "kernel_regularizer", "kernel_constraint"),
          "DepthwiseConv2D": ("groups",), "Conv2DTranspose": ("groups",)}


class Operation(keras.layers.Layer):
    """What Keras 2 made of an operator between layers, as `x / 127.5 - 1` and `preprocess_input(x)` use them."""

    KNOWN = {"math.add": keras.ops.add, "__operators__.add": keras.ops.add, "nn.bias_add": keras.ops.add,
             "math.subtract": keras.ops.subtract, "math.multiply": keras.ops.multiply,
             "math.truediv": keras.ops.true_divide, "math.divide": keras.ops.true_divide,
             "math.negative": keras.ops.negative, "cast": keras.ops.cast}

    def __init__(self, function, operands=(), slices=None, **kwargs):
        """`operands`: constants, and None where a tensor is."""
        super().__init__(**kwargs)
        if function not in self.KNOWN and slices is None:
            raise ValueError(f"the operator tf.{function} between layers is not known here")
        self.function, self.operands, self.slices = function, list(operands), slices

    def call(self, *values):
        if self.slices is None:
            tensors = iter(values)
            values = [next(tensors) if value is None else value for value in self.operands]
            return self.KNOWN[self.function](*[
                np.asarray(value, np.float32) if isinstance(value, (int, float, list)) else value for value in values])
        # Backends differ in steps below 0: `x[..., ::-1]`.
        flipped = [axis - len(self.slices) for axis, part in enumerate(self.slices)
                   if isinstance(part, dict) and part.get("step") == -1]
        index = tuple(Ellipsis if part == "..." or (isinstance(part, dict) and "class_name" in part) else
                      slice(part["start"], part["stop"], None if part["step"] == -1 else part["step"])
                      if isinstance(part, dict) else part for part in self.slices)
        found = values[0][index]
        for axis in flipped:
            found = keras.ops.concatenate(keras.ops.split(found, found.shape[axis], axis=axis)[::-1], axis=axis)
        return found


def _operation_of_keras_3(node: dict) -> dict:
    """A TFOpLambda or SlicingOpLambda of a configuration, its calls in the form of Keras 3."""
    calls, config = [], dict(node["config"])
    for name, layer, tensor, named in node["inbound_nodes"]:
        if "slice_spec" in named:
            config["slices"] = named["slice_spec"]
            named = {}
        operands = [tensor if name == "_CONSTANT_VALUE" else [name, layer, tensor]]
        operands += [value for key, value in named.items() if value is not None and key not in ("name", "data_format")]
        are_tensors = [isinstance(value, list) and len(value) == 3 and isinstance(value[0], str) for value in operands]
        config["operands"] = [None if is_tensor else value for value, is_tensor in zip(operands, are_tensors)]
        calls.append({"kwargs": {}, "args": [
            {"class_name": "__keras_tensor__", "config": {"shape": [], "dtype": "float32", "keras_history": value}}
            for value, is_tensor in zip(operands, are_tensors) if is_tensor]})
    return node | {"config": config, "inbound_nodes": calls}


def load(path: Path, weights: Path | None = None) -> keras.Model:
    """The model of a `.keras` or whole `.h5` file, or of an architecture's JSON and its weights."""
    for file in filter(None, (path, weights)):
        if file.is_dir():
            raise Refused(f"{file} is a folder; expected a file. A SavedModel can be read by TensorFlow only: there, "
                          f"model.save_weights() and model.to_json(), or model.save('model.keras')")
        if not file.is_file():
            raise Refused(f"{file} is not there; expected a file of Keras")
    with tempfile.TemporaryDirectory() as folder:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                config = json.loads(archive.read("config.json"))
                version = json.loads(archive.read("metadata.json")).get("keras_version", "")
                weights = weights or Path(archive.extract("model.weights.h5", folder))
        elif h5py.is_hdf5(path):
            with h5py.File(path) as file:
                if "model_config" not in file.attrs:
                    raise Refused(f"it holds weights only; expected the architecture before it: the file that "
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
                return saving_utils.model_from_config(
                    _without_keras_2(config), {"TFOpLambda": Operation, "SlicingOpLambda": Operation})
        return keras.saving.deserialize_keras_object(config)
    except Exception as error:
        why = "it has a Lambda layer, and code from a file is not run" if "Lambda` layer" in str(error) else reason(error)
        raise Refused(f"Keras {keras.__version__} cannot build the architecture: {why}. If it has custom or Lambda "
                      f"layers, {OWN_SCRIPT}") from error


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
        # Up to 2.2.2 it was the list of layers alone.
        config = {"name": node.get("name", "sequential"), "layers": config} if isinstance(config, list) else config
        first = config["layers"][0]
        if first["class_name"] != "InputLayer" and "batch_input_shape" in first["config"]:
            entry = {"class_name": "InputLayer", "config": {"batch_input_shape": first["config"]["batch_input_shape"]}}
            config["layers"].insert(0, entry)
        for layer in config["layers"]:
            if layer["class_name"] != "InputLayer":
                layer["config"].pop("batch_input_shape", None)
        node["config"] = config
    if node.get("class_name") in ("TFOpLambda", "SlicingOpLambda") and node.get("inbound_nodes"):
        node = _operation_of_keras_3(node)
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
        raise Refused(f"the weights of {path} do not fit the architecture: {reason(error)}") from error
    unset = [v.path for v in floats if not np.isfinite(keras.ops.convert_to_numpy(v.value)).all()]
    if unset:
        raise Refused(f"{path} gives no finite weights for {unset[:5]}; expected all {len(floats)} of the architecture")



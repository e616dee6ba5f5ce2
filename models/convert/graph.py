"""The graph of an ONNX file: what kind of network it is, what it does to pixels first, and small repairs.

It never changes what a network computes.
"""

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from refusal import Refused

INTEGERS = (TensorProto.INT32, TensorProto.INT64, TensorProto.INT8, TensorProto.INT16)
SHORT_FLOATS = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
# Operators that only move values, and those that also compute with single values.
MOVES = {"Identity", "Transpose", "Slice", "Gather", "Concat", "Split", "Reshape", "Squeeze", "Unsqueeze", "Cast", "Pad"}
ARITHMETIC = {"Add", "Sub", "Mul", "Div", "Neg", "Clip", "Min", "Max", "Pow", "Sqrt", "Abs", "Reciprocal",
              "BatchNormalization"}
# What a network that has been trained can make of light and dark pixels in its first operations: values whose spread is
# neither lost (a second division by 255) nor huge (none), and is not drowned by what they have in common (a mean of
# pixels of 0 to 255 taken from pixels of 0 to 1).
SPREADS = (0.1, 200.0)
LARGEST_CENTER = 4.0


def opset(model: onnx.ModelProto) -> int:
    return next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)


def image_input(model: onnx.ModelProto) -> onnx.ValueInfoProto:
    """The one input of the graph."""
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [entry for entry in model.graph.input if entry.name not in weights]
    if len(inputs) == 1:
        return inputs[0]
    shown = [f"{entry.name} {shape_of(entry)}" for entry in inputs]
    strays = [entry.name for entry in inputs if len(entry.type.tensor_type.shape.dim) < 2]
    if inputs and len(strays) == len(inputs) - 1:
        raise Refused(f"the graph has the inputs {shown}; of these {strays} are constants of the network, which tf2onnx "
                      f"exported without their values. Convert the Keras model itself: from_keras.py")
    raise Refused(f"the graph has the inputs {shown}; expected one, the image: a network that takes several images or "
                  f"numbers besides the image is not supported")


def shape_of(entry: onnx.ValueInfoProto) -> list:
    return [dim.dim_value or "?" for dim in entry.type.tensor_type.shape.dim]


def check_kind(model: onnx.ModelProto, outputs: list[np.ndarray], labels: list[str]) -> None:
    """Refuses what is not a classifier by its name. `outputs`: what the graph gave for one image."""
    shapes = [list(entry.shape) for entry in outputs]
    crop = "Giemsa answers for one image of one cell: cut the cells out, and train a network that gives each a label"
    if any(node.op_type in ("NonMaxSuppression", "NonZero") for node in model.graph.node):
        raise Refused(f"the network is a detector (its graph selects boxes, and gives {shapes}). {crop}")
    if any(len(shape) >= 4 and min(shape[2:]) > 1 for shape in shapes):
        raise Refused(f"the network is a segmenter: it gives {shapes}, a score for each pixel. {crop}")
    if any(len(shape) == 3 and min(shape[1:]) > 1 for shape in shapes):
        raise Refused(f"the network is a detector or works on sequences: it gives {shapes}, rows of boxes. {crop}")
    if outputs[0].dtype.kind not in "f":
        raise Refused(f"the network gives {outputs[0].dtype} of the shape {shapes[0]}, the number of a label; expected a "
                      f"score for each label: export it without ArgMax")
    count = outputs[0].size
    if count != len(labels) and not (count == 1 and len(labels) == 2):
        raise Refused(f"{len(labels)} labels are given, {labels}, but the network gives {count} scores for an image; "
                      f"expected one label for each score, in their order")


def set_batch_of_one(model: onnx.ModelProto) -> None:
    """Fixes the batch of input and outputs, where a larger one was exported."""
    entry = image_input(model)
    dims = entry.type.tensor_type.shape.dim
    if dims and dims[0].dim_value > 1:
        for value in [entry, *model.graph.output]:
            if value.type.tensor_type.shape.dim:
                value.type.tensor_type.shape.dim[0].dim_value = 1
        del model.graph.value_info[:]


def widen(model: onnx.ModelProto) -> bool:
    """Makes 32-bit floats of all 16-bit floats; says whether there were any."""
    changed = False

    def tensor(value: TensorProto):
        nonlocal changed
        if value.data_type in SHORT_FLOATS:
            wide = numpy_helper.from_array(numpy_helper.to_array(value).astype(np.float32), value.name)
            value.CopyFrom(wide)
            changed = True

    def graph(of: onnx.GraphProto):
        nonlocal changed
        for value in of.initializer:
            tensor(value)
        for entry in [*of.input, *of.output, *of.value_info]:
            if entry.type.tensor_type.elem_type in SHORT_FLOATS:
                entry.type.tensor_type.elem_type = TensorProto.FLOAT
                changed = True
        for node in of.node:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    tensor(attribute.t)
                if attribute.HasField("g"):
                    graph(attribute.g)
                # The type that these operators make.
                if attribute.name in ("to", "dtype", "output_dtype") and attribute.i in SHORT_FLOATS:
                    attribute.i = TensorProto.FLOAT
                    changed = True

    graph(model.graph)
    return changed


def mend_integer_constants(model: onnx.ModelProto) -> None:
    """Makes floats of integer constants that a float is computed with, as `x - 1` of Keras is exported by PyTorch."""
    graph = model.graph
    kinds = {entry.name: entry.type.tensor_type.elem_type for entry in [*graph.input, *graph.value_info, *graph.output]}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    constants |= {node.output[0]: node.attribute[0].t for node in graph.node
                  if node.op_type == "Constant" and node.attribute[0].HasField("t")}
    added = {}
    for node in graph.node:
        if node.op_type not in ("Add", "Sub", "Mul", "Div", "Pow", "Min", "Max"):
            continue
        if not any(kinds.get(name) == TensorProto.FLOAT for name in node.input if name not in constants):
            continue
        for at, name in enumerate(node.input):
            if name in constants and constants[name].data_type in INTEGERS:
                value = numpy_helper.to_array(constants[name]).astype(np.float32)
                added[name] = numpy_helper.from_array(value, f"{name}_float")
                node.input[at] = f"{name}_float"
    graph.initializer.extend(added.values())


def rename(model: onnx.ModelProto, names: dict[str, str]) -> None:
    """Renames tensors."""
    for node in model.graph.node:
        for place in (node.input, node.output):
            for at, name in enumerate(place):
                place[at] = names.get(name, name)
    for entry in [*model.graph.input, *model.graph.output, *model.graph.value_info, *model.graph.initializer]:
        entry.name = names.get(entry.name, entry.name)


class Front:
    """What a graph does with single pixel values before its first layer that has weights.

    `operators`: the names of those that compute. `ends`: the tensors that the first layers read.
    """

    def __init__(self, model: onnx.ModelProto):
        graph = model.graph
        fixed = {tensor.name for tensor in graph.initializer} | {""}
        own, nodes, self.operators, self.ends = {image_input(model).name}, [], [], []
        for node in graph.node:
            if all(name in fixed for name in node.input):
                fixed.update(node.output)
                nodes.append(node)
            elif node.op_type in MOVES | ARITHMETIC and all(name in fixed | own for name in node.input):
                own.update(node.output)
                nodes.append(node)
                if node.op_type in ARITHMETIC:
                    self.operators.append(node.op_type)
            else:
                self.ends += [name for name in node.input if name in own and name not in self.ends]
        self.nodes, self.model = nodes, model

    def spread(self, runner, dark: np.ndarray, light: np.ndarray) -> tuple[float, float] | None:
        """The least and the greatest value that a black and a white image become; `None` if there is nothing to say.

        `runner` makes a function of a model's bytes, `dark` and `light` are the graph's inputs for these images.
        """
        ends = [name for name in self.ends if name != image_input(self.model).name]
        if not self.operators or not ends:
            return None
        part = onnx.ModelProto()
        part.CopyFrom(self.model)
        del part.graph.node[:], part.graph.output[:], part.graph.value_info[:]
        part.graph.node.extend(self.nodes)
        part.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in ends)
        run = runner(part.SerializeToString())
        low, high = (np.concatenate([np.ravel(value) for value in run(image)]).astype(np.float64)
                     for image in (dark, light))
        follows = low != high  # The rest is padding.
        if not follows.any():
            return None
        return float(np.median(low[follows])), float(np.median(high[follows]))


def is_plausible(low: float, high: float) -> bool:
    """Whether a trained network can be meant for values from `low` to `high`."""
    half = abs(high - low) / 2
    return SPREADS[0] <= half <= SPREADS[1] and abs(high + low) / 2 <= LARGEST_CENTER * half

"""The network: a small residual network in Keras, and the same network as ONNX with batch normalisation folded in.

It never uses depthwise convolutions: plain 3x3 and 1x1 ones are what the engine behind Giemsa runs best.
It keeps one invariant: the ONNX file gives the logits of the Keras network (checked in train.py).
"""

import keras
import numpy as np
import onnx
from keras import layers
from onnx import TensorProto, helper, numpy_helper

from data import SIDE_PX

STEM = 16
STAGES = [(24, 2), (48, 2), (96, 1)]  # width, residual blocks; each stage halves the picture
WEIGHT_DECAY = 1e-3


def build() -> keras.Model:
    """Normalised pixels [n, SIDE_PX, SIDE_PX, 3] to logits [n, 2]."""
    entry = keras.Input((SIDE_PX, SIDE_PX, 3))
    x = layers.ReLU()(_convolution(entry, "stem", STEM, 3, 1))
    for stage, (width, blocks) in enumerate(STAGES):
        for block in range(blocks):
            name, stride = f"s{stage}b{block}", 2 if block == 0 else 1
            y = layers.ReLU()(_convolution(x, f"{name}.a", width, 3, stride))
            y = _convolution(y, f"{name}.b", width, 3, 1)
            shortcut = _convolution(x, f"{name}.shortcut", width, 1, stride) if stride == 2 else x
            x = layers.ReLU()(layers.Add()([y, shortcut]))
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dropout(0.2)(x)
    return keras.Model(entry, layers.Dense(2, name="head")(x))


def _convolution(x, name, width, size, stride):
    x = layers.Conv2D(width, size, strides=stride, padding="same", use_bias=False, name=f"{name}.conv")(x)
    return layers.BatchNormalization(momentum=0.95, name=f"{name}.norm")(x)


class _Graph:
    def __init__(self):
        self.nodes, self.weights = [], []

    def add(self, kind, inputs, output, **attributes):
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def weight(self, name, values):
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(values, dtype=np.float32), name))
        return name

    def convolution(self, model, x, name, side_px):
        """Adds a convolution with its normalisation folded in; gives its output and the side after it."""
        conv, norm = model.get_layer(f"{name}.conv"), model.get_layer(f"{name}.norm")
        gamma, beta, mean, variance = (w.astype("float64") for w in norm.get_weights())
        factor = gamma / np.sqrt(variance + norm.epsilon)
        kernel = conv.get_weights()[0].astype("float64") * factor
        size, stride = conv.kernel_size[0], conv.strides[0]
        out_px = -(-side_px // stride)
        # Keras' "same": what is missing is added, the odd pixel at the right and the bottom.
        total = max((out_px - 1) * stride + size - side_px, 0)
        before, after = total // 2, total - total // 2
        inputs = [
            x,
            self.weight(f"{name}.weight", kernel.transpose(3, 2, 0, 1)),
            self.weight(f"{name}.bias", beta - mean * factor),
        ]
        y = self.add("Conv", inputs, name, kernel_shape=[size, size], strides=[stride, stride],
                     pads=[before, before, after, after])
        return y, out_px


def to_onnx(model: keras.Model, metadata: dict[str, str]) -> onnx.ModelProto:
    """The network as ONNX: `image` [N, 3, SIDE_PX, SIDE_PX] to `logits` [N, 2], float32, opset 17."""
    graph = _Graph()
    x, side = graph.convolution(model, "image", "stem", SIDE_PX)
    x = graph.add("Relu", [x], "stem.relu")
    for stage, (_, blocks) in enumerate(STAGES):
        for block in range(blocks):
            name = f"s{stage}b{block}"
            y, out_side = graph.convolution(model, x, f"{name}.a", side)
            y = graph.add("Relu", [y], f"{name}.a.relu")
            y, _ = graph.convolution(model, y, f"{name}.b", out_side)
            shortcut = graph.convolution(model, x, f"{name}.shortcut", side)[0] if block == 0 else x
            x = graph.add("Relu", [graph.add("Add", [y, shortcut], f"{name}.sum")], f"{name}.relu")
            side = out_side
    x = graph.add("GlobalAveragePool", [x], "pool")
    x = graph.add("Flatten", [x], "flat", axis=1)
    kernel, bias = model.get_layer("head").get_weights()
    graph.add("Gemm", [x, graph.weight("head.weight", kernel.T), graph.weight("head.bias", bias)], "logits", transB=1)
    entry = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, SIDE_PX, SIDE_PX])
    output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 2])
    body = helper.make_graph(graph.nodes, "thin-smear", [entry], [output], graph.weights)
    onnx_model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=8,
                                   producer_name="giemsa models/train")
    helper.set_model_props(onnx_model, metadata)
    onnx.checker.check_model(onnx_model, full_check=True)
    return onnx_model

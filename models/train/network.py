"""The network in PyTorch, and the same network as ONNX with batch normalisation folded in.

It is shaped for the engine behind Giemsa, which runs a wide plain 3x3 convolution best: few layers of many channels, no
depthwise layer, no strided shortcut, one activation (`candidates.py` measures the alternatives). It keeps one invariant: the
ONNX file gives the outputs of the PyTorch network (checked in `train.py`).
"""

from dataclasses import dataclass

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from data import SIDE_PX

# The formula of the Rust side: (v * SCALE - MEAN) / STD for v of 0 to 255.
SCALE, MEAN, STD = 1 / 255, 0.5, 0.25


@dataclass(frozen=True)
class Shape:
    """Channels, kernel and stride of the first convolution; then for each halving its channels and residual blocks."""

    stem: tuple[int, int, int]
    stages: tuple[tuple[int, int], ...]


SHIPPED = Shape(stem=(16, 3, 2), stages=((80, 1), (96, 0)))


class Unit(nn.Sequential):
    """A convolution that keeps the size (but for its stride), and its normalisation."""

    def __init__(self, channels_in, channels_out, kernel=3, stride=1):
        super().__init__(nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2, bias=False),
                         nn.BatchNorm2d(channels_out, momentum=0.05))


class Block(nn.Module):
    """Two units around which the input is added."""

    def __init__(self, channels):
        super().__init__()
        self.first, self.second = Unit(channels, channels), Unit(channels, channels)

    def forward(self, x):
        return F.relu(self.second(F.relu(self.first(x))) + x)


class Network(nn.Module):
    """Normalised pixels [n, 3, SIDE_PX, SIDE_PX] to label logits [n, 2] and the logit of being no cell [n]."""

    def __init__(self, shape: Shape = SHIPPED):
        super().__init__()
        channels, kernel, stride = shape.stem
        layers = [Unit(3, channels, kernel, stride), nn.ReLU()]
        for wider, blocks in shape.stages:
            layers += [Unit(channels, wider, stride=2), nn.ReLU()]
            layers += [Block(wider) for _ in range(blocks)]
            channels = wider
        self.body = nn.Sequential(*layers)
        self.dropout = nn.Dropout(0.2)
        self.label_head, self.outlier_head = nn.Linear(channels, 2), nn.Linear(channels, 1)

    def forward(self, x):
        features = self.dropout(self.body(x).mean((2, 3)))
        return self.label_head(features), self.outlier_head(features)[:, 0]


def normalise(pixels: torch.Tensor) -> torch.Tensor:
    """Pixels of 0 to 1 as the network takes them."""
    return (pixels - MEAN) / STD


class _Graph:
    def __init__(self):
        self.nodes, self.weights = [], []

    def add(self, kind, inputs, output, **attributes):
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def weight(self, name, values):
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(values, dtype=np.float32), name))
        return name

    def unit(self, x, name, unit: Unit):
        convolution, norm = unit
        factor = (norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)).detach().numpy()
        kernel = convolution.weight.detach().double().numpy() * factor[:, None, None, None]
        bias = norm.bias.detach().double().numpy() - norm.running_mean.double().numpy() * factor
        pad = convolution.padding[0]
        return self.add("Conv", [x, self.weight(f"{name}.weight", kernel), self.weight(f"{name}.bias", bias)], name,
                        kernel_shape=list(convolution.kernel_size), strides=list(convolution.stride), pads=[pad] * 4)

    def linear(self, x, name, layer: nn.Linear):
        kernel, bias = (self.weight(f"{name}.{part}", values.detach().numpy())
                        for part, values in (("weight", layer.weight), ("bias", layer.bias)))
        return self.add("Gemm", [x, kernel, bias], name, transB=1)


def to_onnx(network: Network, metadata: dict[str, str]) -> onnx.ModelProto:
    """The network as ONNX: `image` [N, 3, SIDE_PX, SIDE_PX] to `logits` [N, 2] and `outlier` [N, 1], float32, opset 17."""
    graph, x = _Graph(), "image"
    for index, layer in enumerate(network.body):
        name = f"layer{index}"
        if isinstance(layer, Unit):
            x = graph.unit(x, name, layer)
        elif isinstance(layer, Block):
            y = graph.add("Relu", [graph.unit(x, f"{name}.first", layer.first)], f"{name}.first.relu")
            y = graph.add("Add", [graph.unit(y, f"{name}.second", layer.second), x], f"{name}.sum")
            x = graph.add("Relu", [y], f"{name}.relu")
        else:
            x = graph.add("Relu", [x], name)
    x = graph.add("GlobalAveragePool", [x], "pool")
    x = graph.add("Flatten", [x], "features", axis=1)
    graph.linear(x, "logits", network.label_head)
    graph.add("Sigmoid", [graph.linear(x, "outlier.logit", network.outlier_head)], "outlier")
    entry = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, SIDE_PX, SIDE_PX])
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", width])
               for name, width in (("logits", 2), ("outlier", 1))]
    body = helper.make_graph(graph.nodes, "thin-smear", [entry], outputs, graph.weights)
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=8,
                              producer_name="giemsa models/train")
    helper.set_model_props(model, metadata)
    onnx.checker.check_model(model, full_check=True)
    return model

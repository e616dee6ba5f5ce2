"""Writes a network of the shape of ResNet-34 with random weights, to measure how long a large model takes.

    python benches/make_resnet34.py /tmp/resnet34.onnx

21 million parameters, 224 px, two classes, 85 MB: too large for the repository. It needs numpy and onnx only
(models/requirements.txt). It never claims to recognise anything. It keeps one invariant: the same numpy
version writes the same weights.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

STAGES = [(64, 3), (128, 4), (256, 6), (512, 3)]  # width, residual blocks
LABELS = ["parasitized", "uninfected"]
SIDE_PX = 224


class Network:
    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        self.nodes, self.weights, self.parameters = [], [], 0

    def add(self, kind, inputs, output, **attributes):
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def weight(self, name, shape, spread):
        values = self.rng.standard_normal(shape, dtype=np.float32) * np.float32(spread)
        self.weights.append(numpy_helper.from_array(values, name))
        self.parameters += values.size
        return name

    def convolution(self, x, name, channels, size, stride, gain=1.0):
        """A convolution with a bias: what remains of batch normalisation once it is folded in."""
        inside, outside = channels
        spread = gain * np.sqrt(2 / (inside * size * size))
        weight = self.weight(f"{name}.weight", (outside, inside, size, size), spread)
        bias = self.weight(f"{name}.bias", (outside,), 0.01)
        return self.add("Conv", [x, weight, bias], name, kernel_shape=[size] * 2, strides=[stride] * 2,
                        pads=[size // 2] * 4)

    def block(self, x, name, inside, outside, stride):
        y = self.add("Relu", [self.convolution(x, f"{name}.a", (inside, outside), 3, stride)], f"{name}.a.relu")
        # A small gain keeps sixteen sums in a row from growing without bound.
        y = self.convolution(y, f"{name}.b", (outside, outside), 3, 1, gain=0.25)
        if stride != 1 or inside != outside:
            x = self.convolution(x, f"{name}.shortcut", (inside, outside), 1, stride, gain=np.sqrt(0.5))
        return self.add("Relu", [self.add("Add", [y, x], f"{name}.sum")], f"{name}.relu")


def build() -> onnx.ModelProto:
    network = Network(seed=34)
    x = network.add("Relu", [network.convolution("image", "stem", (3, 64), 7, 2)], "stem.relu")
    x = network.add("MaxPool", [x], "stem.pool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    inside = 64
    for stage, (width, blocks) in enumerate(STAGES):
        for block in range(blocks):
            stride = 2 if stage > 0 and block == 0 else 1
            x = network.block(x, f"s{stage}b{block}", inside, width, stride)
            inside = width
    x = network.add("Flatten", [network.add("GlobalAveragePool", [x], "pool")], "flat", axis=1)
    head = network.weight("head.weight", (len(LABELS), inside), np.sqrt(1 / inside))
    bias = network.weight("head.bias", (len(LABELS),), 0.01)
    network.add("Gemm", [x, head, bias], "logits", transB=1)

    entry = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, SIDE_PX, SIDE_PX])
    output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", len(LABELS)])
    graph = helper.make_graph(network.nodes, "resnet34-shaped", [entry], [output], network.weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8,
                              producer_name="giemsa benches")
    reading = {"layout": "nchw", "width": SIDE_PX, "height": SIDE_PX, "color": "rgb", "resize": "fit",
               "pad": [0, 0, 0], "scale": 1 / 255, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    helper.set_model_props(model, {
        "giemsa.name": "resnet34-shaped",
        "giemsa.version": "1",
        "giemsa.labels": json.dumps(LABELS),
        "giemsa.input": json.dumps(reading),
        "giemsa.output": "logits",
        "giemsa.temperature": "1.0",
        "giemsa.review": json.dumps({"confidence_below": 0.8, "label_above": {"parasitized": 0.1}}),
        "giemsa.positive": json.dumps(["parasitized"]),
    })
    onnx.checker.check_model(model)
    print(f"{network.parameters:,} parameters")
    return model


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python benches/make_resnet34.py OUT.onnx")
    path = Path(sys.argv[1])
    path.write_bytes(build().SerializeToString())
    print(f"{path}: {path.stat().st_size / 1e6:.0f} MB")

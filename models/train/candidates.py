"""Measures networks of several shapes in the engine of Giemsa and in onnxruntime: which shape suits the engine.

    cargo build --release --package engine-timer
    python models/train/candidates.py --timer target/release/engine-timer --out models/report/candidates.json

The weights are random: time does not depend on them. It never says how accurate a shape is. It keeps one invariant: both
engines run the same files on one core, in turn in the same run, and the median of the rounds counts.
"""

import argparse
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

import network

SIDE_PX = 64
ROUNDS, RUNS = 15, 40  # the median of ROUNDS, each the mean of RUNS


class Drawing:
    """A network under construction, with random weights."""

    def __init__(self):
        self.rng = np.random.default_rng(1)
        self.nodes, self.weights, self.macs, self.parameters = [], [], 0, 0
        self.x, self.channels, self.side = "image", 3, SIDE_PX

    def _add(self, kind, inputs, **attributes):
        name = f"{kind.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def _weight(self, *shape):
        values = self.rng.normal(0, 1 / np.sqrt(max(1, np.prod(shape[1:]))), shape).astype(np.float32)
        name = f"weight{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(values, name))
        self.parameters += values.size
        return name

    def convolve(self, channels, kernel=3, stride=1, groups=1, relu=True):
        """One convolution with bias, and a ReLU after it unless told otherwise."""
        weights = [self._weight(channels, self.channels // groups, kernel, kernel), self._weight(channels)]
        pad = kernel // 2
        self.x = self._add("Conv", [self.x, *weights], kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pad] * 4,
                           group=groups)
        self.side = (self.side + 2 * pad - kernel) // stride + 1
        self.macs += self.side**2 * channels * (self.channels // groups) * kernel**2
        self.channels = channels
        if relu:
            self.x = self._add("Relu", [self.x])

    def block(self, channels, stride=1, narrow=None):
        """Two 3x3 convolutions, or 1x1, 3x3, 1x1 if `narrow`, around which the input is added (by a strided 1x1 if need be)."""
        entry, before = self.x, (self.channels, self.side)
        if narrow:
            self.convolve(narrow, 1)
            self.convolve(narrow, 3, stride)
            self.convolve(channels, 1, relu=False)
        else:
            self.convolve(channels, 3, stride)
            self.convolve(channels, 3, relu=False)
        main, after = self.x, (self.channels, self.side)
        self.x, (self.channels, self.side) = entry, before
        if before != after:
            self.convolve(channels, 1, stride, relu=False)
        self.x = self._add("Relu", [self._add("Add", [main, self.x])])
        self.channels, self.side = after

    def write(self, path: Path):
        """Ends in a mean over the picture and two scores, and writes the file."""
        self.x = self._add("Flatten", [self._add("GlobalAveragePool", [self.x])], axis=1)
        self.nodes.append(helper.make_node("Gemm", [self.x, self._weight(2, self.channels), self._weight(2)], ["logits"],
                                           name="logits", transB=1))
        entry = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, SIDE_PX, SIDE_PX])
        output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 2])
        graph = helper.make_graph(self.nodes, path.stem, [entry], [output], self.weights)
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def shipped(shape: network.Shape) -> Drawing:
    """The shape of network.py."""
    drawing = Drawing()
    drawing.convolve(*shape.stem)
    for channels, blocks in shape.stages:
        drawing.convolve(channels, stride=2)
        for _ in range(blocks):
            drawing.block(channels)
    return drawing


def residual(stem: int, stages: list[tuple[int, int]], narrow=False) -> Drawing:
    """A classic residual network at full resolution whose first block of a stage halves the picture."""
    drawing = Drawing()
    drawing.convolve(stem)
    for channels, blocks in stages:
        for block in range(blocks):
            drawing.block(channels, stride=2 if block == 0 else 1, narrow=channels // 2 if narrow else None)
    return drawing


def plain(layers: list[tuple[int, int, int]]) -> Drawing:
    """Convolutions one after another: channels, kernel, stride."""
    drawing = Drawing()
    for layer in layers:
        drawing.convolve(*layer)
    return drawing


def depthwise(stem: int, stages: list[tuple[int, int]]) -> Drawing:
    """Depthwise 3x3, then 1x1, as in MobileNet."""
    drawing = Drawing()
    drawing.convolve(stem, stride=2)
    for channels, layers in stages:
        for layer in range(layers):
            drawing.convolve(drawing.channels, 3, 2 if layer == 0 else 1, groups=drawing.channels)
            drawing.convolve(channels, 1)
    return drawing


CANDIDATES = {
    "shipped: 3x3/2 16, 3x3/2 80, one block, 3x3/2 96": lambda: shipped(network.SHIPPED),
    "shipped, blocks of 64 and 96 channels": lambda: shipped(network.Shape((16, 3, 2), ((64, 1), (96, 1)))),
    "shipped, wider first layer of 5x5 32": lambda: shipped(network.Shape((32, 5, 2), ((80, 1), (80, 0)))),
    "shipped, first layer at full resolution": lambda: shipped(network.Shape((16, 3, 1), ((32, 1), (80, 1), (96, 0)))),
    "shipped, half the channels": lambda: shipped(network.Shape((16, 3, 2), ((40, 2), (48, 1)))),
    "residual 16, 24-24, 48-48, 96 (version 1)": lambda: residual(16, [(24, 2), (48, 2), (96, 1)]),
    "residual with bottlenecks 1x1, 3x3, 1x1": lambda: residual(16, [(48, 2), (96, 2), (128, 2)], narrow=True),
    "plain 32-32, 64-64-64, 96-96": lambda: plain([(32, 5, 2), (32, 3, 1), (64, 3, 2), (64, 3, 1), (64, 3, 1), (96, 3, 2),
                                                  (96, 3, 1)]),
    "depthwise 32, 64-64, 128-128-128, 192": lambda: depthwise(32, [(64, 2), (128, 3), (192, 1)]),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--timer", type=Path, required=True, help="the program engine-timer, built in release")
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    args = parser.parse_args()
    core = min(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})  # inherited by the timer: both run on the same core, in turn

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for index, (name, draw) in enumerate(CANDIDATES.items()):
            drawing, path = draw(), Path(folder) / f"{index}.onnx"
            drawing.write(path)
            files.append(path)
            rows.append({"name": name, "parameters": drawing.parameters, "mmac": round(drawing.macs / 1e6, 1)})
        engine, onnx_times = [[] for _ in files], [[] for _ in files]
        sessions = [session(path) for path in files]
        timer = subprocess.Popen([args.timer, *map(str, files)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(ROUNDS):
            for index, one in enumerate(sessions):
                timer.stdin.write(f"{index} {RUNS}\n")
                timer.stdin.flush()
                engine[index].append(float(timer.stdout.readline()))
                onnx_times[index].append(milliseconds(one))
        timer.stdin.close()
        timer.wait()
    for row, own, other in zip(rows, engine, onnx_times):
        row |= {"engine_ms": round(float(np.median(own)), 3), "onnxruntime_ms": round(float(np.median(other)), 3)}
        print(f"{row['name']:55} {row['mmac']:6.1f} MMAC  engine {row['engine_ms']:.3f} ms  onnxruntime "
              f"{row['onnxruntime_ms']:.3f} ms  ratio {row['engine_ms'] / row['onnxruntime_ms']:.2f}")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])


def milliseconds(one: onnxruntime.InferenceSession) -> float:
    """Mean of RUNS runs."""
    image = {"image": np.random.default_rng(1).normal(size=(1, 3, SIDE_PX, SIDE_PX)).astype(np.float32)}
    begun = time.perf_counter()
    for _ in range(RUNS):
        one.run(None, image)
    return (time.perf_counter() - begun) / RUNS * 1000


if __name__ == "__main__":
    main()

"""Small networks of the shapes that classifiers have, as exporters write them; also in 16 bits and quantised."""

import numpy as np
from onnx import TensorProto

from engine_networks import case

SHAPE = (1, 3, 32, 32)


def convolve(g, x, inputs, outputs, size=3, stride=1, group=1, bias=False):
    weight = g.noise(outputs, inputs // group, size, size, scale=(2 / (inputs // group * size * size)) ** 0.5)
    pad = size // 2
    return g.op("Conv", x, weight, *([g.noise(outputs, scale=0.1)] if bias else []), kernel_shape=[size, size], group=group,
                strides=[stride, stride], pads=[pad] * 4)


def normalise(g, x, channels):
    positive = np.abs(g.random.standard_normal(channels)).astype(np.float32)
    return g.op("BatchNormalization", x, g.weight(positive + np.float32(0.5)), g.noise(channels, scale=0.1), g.noise(channels, scale=0.1),
                g.weight(positive + np.float32(0.7)))


def relu6(g, x):
    if g.opset < 11:
        return g.op("Clip", x, min=0.0, max=6.0)
    return g.op("Clip", x, g.weight(np.float32(0)), g.weight(np.float32(6)))


def silu(g, x):
    return g.op("Mul", x, g.op("Sigmoid", x))


def gelu(g, x):
    bent = g.op("Erf", g.op("Div", x, g.weight(np.float32(2**0.5))))
    return g.op("Mul", g.op("Mul", x, g.op("Add", bent, g.weight(np.float32(1)))), g.weight(np.float32(0.5)))


def head(g, x, channels, labels=4):
    flat = g.op("Flatten", g.op("GlobalAveragePool", x))
    return g.op("Gemm", flat, g.noise(labels, channels, scale=channels**-0.5), g.noise(labels), transB=1)


def resnet(g, x):
    x = g.op("Relu", normalise(g, convolve(g, x, 3, 16, 7, 2), 16))
    x = g.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    for inputs, outputs, stride in [(16, 16, 1), (16, 32, 2)]:
        y = g.op("Relu", normalise(g, convolve(g, x, inputs, outputs, 3, stride), outputs))
        y = normalise(g, convolve(g, y, outputs, outputs), outputs)
        short = x if stride == 1 else normalise(g, convolve(g, x, inputs, outputs, 1, stride), outputs)
        x = g.op("Relu", g.op("Add", y, short))
    return head(g, x, 32)


def squeeze(g, x, channels):
    gate = g.op("GlobalAveragePool", x)
    gate = g.op("Relu", convolve(g, gate, channels, 4, 1, bias=True))
    return g.op("Mul", x, g.op("HardSigmoid", convolve(g, gate, 4, channels, 1, bias=True), alpha=1 / 6, beta=0.5))


def hard_swish(g, x):
    if g.opset >= 14:
        return g.op("HardSwish", x)
    return g.op("Mul", x, g.op("HardSigmoid", x, alpha=1 / 6, beta=0.5))


def mobilenet(g, x):
    x = hard_swish(g, normalise(g, convolve(g, x, 3, 16, 3, 2), 16))
    for bend in (relu6, hard_swish):
        y = bend(g, normalise(g, convolve(g, x, 16, 48, 1), 48))
        y = bend(g, normalise(g, convolve(g, y, 48, 48, 5, 1, group=48), 48))
        y = normalise(g, convolve(g, squeeze(g, y, 48), 48, 16, 1), 16)
        x = g.op("Add", x, y)
    return head(g, x, 16)


def efficientnet(g, x):
    x = silu(g, convolve(g, x, 3, 16, 3, 2, bias=True))
    y = silu(g, convolve(g, x, 16, 64, 1, bias=True))
    y = silu(g, convolve(g, y, 64, 64, 3, 2, group=64, bias=True))
    gate = g.op("ReduceMean", y, axes=[2, 3], keepdims=1) if g.opset < 18 else g.op("ReduceMean", y, g.ints(2, 3), keepdims=1)
    gate = g.op("Sigmoid", convolve(g, silu(g, convolve(g, gate, 64, 4, 1, bias=True)), 4, 64, 1, bias=True))
    return head(g, convolve(g, g.op("Mul", y, gate), 64, 24, 1, bias=True), 24)


def layer_norm(g, x, size):
    if g.opset >= 17:
        return g.op("LayerNormalization", x, g.noise(size), g.noise(size), axis=-1, epsilon=1e-6)
    mean = g.op("ReduceMean", x, axes=[-1])
    centred = g.op("Sub", x, mean)
    variance = g.op("ReduceMean", g.op("Pow", centred, g.weight(np.float32(2))), axes=[-1])
    spread = g.op("Sqrt", g.op("Add", variance, g.weight(np.float32(1e-6))))
    return g.op("Add", g.op("Mul", g.op("Div", centred, spread), g.noise(size)), g.noise(size))


def convnext(g, x):
    x = g.op("Conv", x, g.noise(24, 3, 4, 4, scale=0.2), g.noise(24), strides=[4, 4])
    for _ in range(2):
        y = g.op("Transpose", convolve(g, x, 24, 24, 7, group=24, bias=True), perm=[0, 2, 3, 1])
        y = g.op("Add", g.op("MatMul", layer_norm(g, y, 24), g.noise(24, 96, scale=0.2)), g.noise(96))
        y = g.op("Add", g.op("MatMul", gelu(g, y), g.noise(96, 24, scale=0.1)), g.noise(24))
        y = g.op("Transpose", g.op("Mul", y, g.noise(24)), perm=[0, 3, 1, 2])
        x = g.op("Add", x, y)
    return head(g, x, 24)


def attention(g, x, tokens, size, heads, mask=None):
    each = size // heads
    qkv = g.op("Add", g.op("MatMul", x, g.noise(size, 3 * size, scale=0.3)), g.noise(3 * size))
    qkv = g.op("Transpose", g.reshape(qkv, 1, tokens, 3, heads, each), perm=[2, 0, 3, 1, 4])
    q, k, v = (g.op("Gather", qkv, g.weight(i, np.int64), axis=0) for i in range(3))
    score = g.op("Mul", g.op("MatMul", q, g.op("Transpose", k, perm=[0, 1, 3, 2])), g.weight(np.float32(each**-0.5)))
    if mask is not None:
        score = g.op("Add", score, mask)
    y = g.op("Transpose", g.op("MatMul", g.op("Softmax", score, axis=-1), v), perm=[0, 2, 1, 3])
    y = g.reshape(y, 1, tokens, size)
    return g.op("Add", g.op("MatMul", y, g.noise(size, size, scale=0.3)), g.noise(size))


def vision_transformer(g, x, masked=False):
    x = g.op("Conv", x, g.noise(24, 3, 8, 8, scale=0.1), g.noise(24), strides=[8, 8])
    x = g.op("Transpose", g.reshape(x, 1, 24, 16), perm=[0, 2, 1])
    token = g.op("Expand", g.noise(1, 1, 24), g.ints(1, 1, 24))
    x = g.op("Add", g.op("Concat", token, x, axis=1), g.noise(1, 17, 24))
    mask = g.weight(np.triu(np.full((17, 17), -np.inf, np.float32), 1)) if masked else None
    for _ in range(2):
        x = g.op("Add", x, attention(g, layer_norm(g, x, 24), 17, 24, 3, mask))
        y = g.op("Add", g.op("MatMul", layer_norm(g, x, 24), g.noise(24, 48, scale=0.2)), g.noise(48))
        x = g.op("Add", x, g.op("MatMul", gelu(g, y), g.noise(48, 24, scale=0.2)))
    x = g.op("Gather", layer_norm(g, x, 24), g.weight(-1 if masked else 0, np.int64), axis=1)
    return g.op("Gemm", x, g.noise(4, 24), g.noise(4), transB=1)


def densenet(g, x):
    x = convolve(g, x, 3, 12, 3, 2)
    channels = 12
    for _ in range(3):
        y = convolve(g, g.op("Relu", normalise(g, x, channels)), channels, 8)
        x, channels = g.op("Concat", x, y, axis=1), channels + 8
    x = g.op("AveragePool", convolve(g, x, channels, 16, 1), kernel_shape=[2, 2], strides=[2, 2])
    return head(g, g.op("Relu", normalise(g, x, 16)), 16)


def inception(g, x):
    x = g.op("Relu", convolve(g, x, 3, 16, 3, 2, bias=True))
    pooled = g.op("AveragePool", x, kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1], count_include_pad=1)
    tall = g.op("Conv", x, g.noise(8, 16, 7, 1, scale=0.2), pads=[3, 0, 3, 0])
    branches = [convolve(g, x, 16, 8, 1), convolve(g, x, 16, 8, 5), convolve(g, pooled, 16, 8, 1), tall]
    x = g.op("Relu", g.op("Concat", *branches, axis=1))
    most = g.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1) if g.opset >= 10 else g.op(
        "MaxPool", x, kernel_shape=[3, 3], strides=[2, 2])
    return head(g, most, 32)


def shufflenet(g, x):
    x = g.op("Relu", convolve(g, x, 3, 16, 3, 2, bias=True))
    left, right = g.op("Split", x, *([g.ints(8, 8)] if g.opset >= 13 else []), outputs=2, axis=1,
                       split=None if g.opset >= 13 else [8, 8])
    right = g.op("Relu", convolve(g, convolve(g, right, 8, 8, 3, group=8, bias=True), 8, 8, 1, bias=True))
    x = g.reshape(g.op("Concat", left, right, axis=1), 1, 2, 8, 16, 16)
    x = g.reshape(g.op("Transpose", x, perm=[0, 2, 1, 3, 4]), 1, 16, 16, 16)
    return head(g, x, 16)


def keras(g, x):
    """As tf2onnx and Keras write it: padding like SAME, channels last at the input, a dense head."""
    x = g.op("Conv", x, g.noise(8, 3, 3, 3, scale=0.3), g.noise(8), strides=[2, 2], auto_pad="SAME_UPPER")
    x = g.op("LeakyRelu", normalise(g, x, 8), alpha=0.3)
    x = g.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2], auto_pad="VALID")
    x = g.reshape(g.op("Transpose", x, perm=[0, 2, 3, 1]), 1, 512)
    return g.op("Softmax", g.op("Add", g.op("MatMul", x, g.noise(512, 4, scale=0.1)), g.noise(4)), axis=1)


def unet_head(g, x):
    """Up and down again, with a skip, as autoencoders for outliers are."""
    small = g.op("Relu", convolve(g, x, 3, 12, 3, 2, bias=True))
    up = g.op("ConvTranspose", small, g.noise(12, 8, 2, 2, scale=0.3), g.noise(8), strides=[2, 2])
    larger = g.op("Resize", small, g.weight(np.zeros(0, np.float32)), g.weight(np.float32([1, 1, 2, 2])), mode="linear",
                  coordinate_transformation_mode="half_pixel") if g.opset >= 11 else up
    return head(g, g.op("Concat", up, larger, axis=1), 8 + (12 if g.opset >= 11 else 8))


ARCHITECTURES = [resnet, mobilenet, efficientnet, convnext, vision_transformer, densenet, inception, shufflenet, keras, unet_head]
for build in ARCHITECTURES:
    case("(architecture)", build.__name__, opsets=[9, 11, 12, 13, 14, 17, 18, 20, 21, 24], shape=SHAPE)(build)
case("(architecture)", "causal_transformer", opsets=[13, 17, 20], shape=SHAPE)(lambda g, x: vision_transformer(g, x, masked=True))


class Half:
    """A graph whose floats have 16 bits, as onnxconverter-common makes them."""

    def __init__(self, graph, kind):
        self.graph, self.kind = graph, kind

    def __getattr__(self, name):
        return getattr(self.graph, name)

    def weight(self, array, dtype=None):
        array = np.array(array, dtype)
        return self.graph.weight(array.astype(self.kind) if array.dtype == np.float32 else array)

    def noise(self, *shape, scale=0.5):
        return self.weight((self.random.standard_normal(shape) * scale).astype(np.float32))


def halved(build):
    def with_casts(g, x):
        return g.cast(build(Half(g, np.float16), g.cast(x, TensorProto.FLOAT16)))

    return with_casts


for build in (resnet, mobilenet, efficientnet, convnext, vision_transformer, densenet, keras):
    # Onnxruntime rounds each step to 16 bits; the engine computes with 32.
    case("(16 bits)", f"{build.__name__}-inside", opsets=[13, 17, 20], shape=SHAPE, tolerance=2e-2)(halved(build))
    case("(16 bits)", f"{build.__name__}-throughout", opsets=[13, 17, 20], shape=SHAPE, tolerance=2e-2, dtype=np.float16)(
        lambda g, x, build=build: build(Half(g, np.float16), x))

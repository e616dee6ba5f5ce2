"""Single operators; what they are compared on, and how, is said in `engine_networks.py` and `engine.py`."""

import itertools

import numpy as np
from onnx import TensorProto

from engine_networks import case

AXES_INPUT = {"ReduceSum": 13}


def positive(g, x):
    return g.op("Add", g.op("Abs", x), g.weight(np.float32(0.3)))


def unit(g, x):
    return g.op("Mul", g.op("Tanh", x), g.weight(np.float32(0.9)))


def above_one(g, x):
    return g.op("Add", g.op("Abs", x), g.weight(np.float32(1.1)))


def whole(g, x, scale=5.0, to=TensorProto.INT32):
    return g.cast(g.op("Mul", x, g.weight(np.float32(scale))), to)


def plain(operator, domain=None, **attributes):
    return lambda g, x: g.op(operator, domain(g, x) if domain else x, **attributes)


# Functions of one number.
for name in ("Abs Atan Ceil Cos Erf Exp Floor Identity Neg Relu Sigmoid Sin Softplus Softsign Tanh Asinh Cosh Sign Sinh "
             "Round Mish HardSwish Gelu Swish Elu Selu LeakyRelu HardSigmoid Celu ThresholdedRelu Shrink").split():
    case(name, "default", fixed=name in ("Round", "HardSwish", "Gelu", "Mish"))(plain(name))
for name, domain in [("Acos", unit), ("Asin", unit), ("Tan", unit), ("Atanh", unit), ("Acosh", above_one), ("Log", positive),
                     ("Sqrt", positive), ("Reciprocal", positive)]:
    case(name, "default")(plain(name, domain))
for alpha in (0.3, 2.0, -0.5):
    for name in ("Elu", "LeakyRelu", "Celu", "Swish", "ThresholdedRelu"):
        case(name, f"alpha{alpha}", fixed=name in ("Celu", "Swish") and alpha == 2.0)(plain(name, alpha=alpha))
case("HardSigmoid", "alpha-beta", fixed=True)(plain("HardSigmoid", alpha=0.4, beta=0.3))
case("Selu", "alpha-gamma", fixed=True)(plain("Selu", alpha=1.3, gamma=0.8))
case("Shrink", "lambd-bias")(plain("Shrink", lambd=0.7, bias=0.2))
case("Gelu", "tanh", fixed=True)(plain("Gelu", approximate="tanh"))
case("Gelu", "none")(plain("Gelu", approximate="none"))
case("Not", "of-greater")(lambda g, x: g.cast(g.op("Not", g.op("Greater", x, g.weight(np.float32(0))))))
case("IsNaN", "none-is")(lambda g, x: g.cast(g.op("IsNaN", x)))
for positive_too, negative_too in itertools.product((0, 1), (0, 1)):
    case("IsInf", f"{positive_too}{negative_too}")(
        lambda g, x, p=positive_too, n=negative_too: g.cast(
            g.op("IsInf", g.op("Div", x, g.op("Floor", g.op("Abs", x))), detect_positive=p, detect_negative=n)))

# Functions of two numbers, broadcast.
SHAPES = [(1, 3, 8, 8), (), (1,), (3, 1, 1), (8,), (1, 3, 1, 1), (2, 1, 1, 8, 1), (8, 1)]
for name in "Add Sub Mul Div Max Min Pow Mean Sum PRelu Mod".split():
    for shape in SHAPES:
        if name == "PRelu" and len(shape) > 4:
            continue

        def build(g, x, name=name, shape=shape):
            w = g.noise(*shape, scale=1.0)
            if name == "Pow":
                x = positive(g, x)
            if name == "Div":
                w = g.weight(np.abs(g.random.standard_normal(shape)).astype(np.float32) + np.float32(0.5))
            if name == "Mod":
                w = g.weight(np.abs(g.random.standard_normal(shape)).astype(np.float32) + np.float32(0.5))
                return g.op(name, x, w, fmod=1)
            return g.op(name, x, w)

        case(name, f"weight{'x'.join(map(str, shape)) or 'scalar'}", fixed=name == "PRelu" and shape == (3, 1, 1))(build)
        if name not in ("PRelu", "Mod", "Pow", "Div") and len(shape) <= 4:
            case(name, f"weight-first{'x'.join(map(str, shape)) or 'scalar'}")(
                lambda g, x, name=name, shape=shape: g.op(name, g.noise(*shape, scale=1.0), x))
for name in ("Max", "Min", "Mean", "Sum"):
    case(name, "one")(lambda g, x, name=name: g.op(name, x))
    case(name, "three")(lambda g, x, name=name: g.op(name, x, g.noise(3, 1, 1), g.noise(8)))
case("Pow", "square")(lambda g, x: g.op("Pow", x, g.weight(np.float32(2))))
case("Pow", "cube")(lambda g, x: g.op("Pow", x, g.weight(np.float32(3))))
case("Pow", "root")(lambda g, x: g.op("Pow", positive(g, x), g.weight(np.float32(0.5))))
case("Pow", "whole-exponent", since=12)(lambda g, x: g.op("Pow", x, g.weight(np.int64(2))))
for name in ("Div", "Mod", "Add", "Mul", "Sub", "Max", "Min"):
    since = {"Max": 14, "Min": 14, "Mod": 10}.get(name, 7)
    for kind, divisor in itertools.product((TensorProto.INT32, TensorProto.INT64), (3, -3)):
        numbers = np.int32 if kind == TensorProto.INT32 else np.int64
        case(name, f"whole{kind}-{divisor}", since=since, fixed=name in ("Div", "Mod") and kind == TensorProto.INT64)(
            lambda g, x, name=name, kind=kind, divisor=divisor, numbers=numbers: g.cast(g.op(
                name, whole(g, x, to=kind), g.weight(divisor, numbers))))
case("Mod", "whole-fmod")(lambda g, x: g.cast(g.op("Mod", whole(g, x), g.weight(3, np.int32), fmod=1)))

for name in "Equal Greater GreaterOrEqual Less LessOrEqual".split():
    for shape in [(1, 3, 8, 8), (), (3, 1, 1)]:
        case(name, f"weight{len(shape)}", since=11 if name == "Equal" else 7)(lambda g, x, name=name, shape=shape: g.cast(g.op(
            name, g.op("Floor", g.op("Mul", x, g.weight(np.float32(3)))),
            g.weight(np.floor(g.random.standard_normal(shape) * 3).astype(np.float32)))))
for name in "And Or Xor".split():
    case(name, "two")(lambda g, x, name=name: g.cast(g.op(
        name, g.op("Greater", x, g.weight(np.float32(0.2))), g.op("Less", x, g.noise(3, 1, 1)))))
for shapes in [((), ()), ((3, 1, 1), (8,)), ((1, 3, 8, 8), ())]:
    case("Where", f"{len(shapes[0])}-{len(shapes[1])}")(lambda g, x, shapes=shapes: g.op(
        "Where", g.op("Greater", x, g.weight(np.float32(0))), g.noise(*shapes[0]), g.noise(*shapes[1])))
case("Where", "minus-infinity", fixed=True)(lambda g, x: g.op("Softmax", g.op(
    "Where", g.weight(np.arange(64).reshape(8, 8) % 3 > 0), x, g.weight(np.float32(-np.inf))), axis=3))

# Bounds and casts.
for low, high in [(-0.5, 0.5), (None, 0.3), (0.1, None), (0.0, 6.0), (None, None)]:
    def clip(g, x, low=low, high=high):
        if g.opset < 11:
            return g.op("Clip", x, min=low, max=high)
        inputs = [x, "" if low is None else g.weight(np.float32(low)), "" if high is None else g.weight(np.float32(high))]
        while inputs[-1] == "":
            inputs.pop()
        return g.op("Clip", *inputs)

    case("Clip", f"{low}-{high}", fixed=(low, high) == (0.1, None))(clip)
case("Clip", "infinite", since=11)(lambda g, x: g.op("Clip", x, g.weight(np.float32(0)), g.weight(np.float32(np.inf))))
for kind in (TensorProto.INT32, TensorProto.INT64, TensorProto.UINT8, TensorProto.INT8, TensorProto.BOOL, TensorProto.DOUBLE,
             TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.BFLOAT16):
    kinds = {TensorProto.FLOAT16: 2e-3, TensorProto.BFLOAT16: 2e-2}

    def cast(g, x, kind=kind):
        if kind == TensorProto.UINT8:
            x = g.op("Abs", x)
        return g.cast(g.cast(g.op("Mul", x, g.weight(np.float32(5))), kind))

    case("Cast", f"to{kind}", since=13 if kind == TensorProto.BFLOAT16 else 7, tolerance=kinds.get(kind))(cast)

# Reductions.
for name in ("ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum "
             "ReduceSumSquare").split():
    for axes in (None, [1], [2, 3], [-1], [0, 2], [-2, -1]):
        for keepdims in (None, 0, 1):
            if axes and min(axes) < 0:
                start = 11
            else:
                start = 7

            def reduce(g, x, name=name, axes=axes, keepdims=keepdims):
                x = positive(g, x) if name == "ReduceLogSum" else x
                return g.axes(name, x, axes, AXES_INPUT.get(name, 18), keepdims=keepdims)

            case(name, f"axes{axes}-keep{keepdims}", since=start,
                 fixed=name in ("ReduceLogSumExp", "ReduceL2") and axes == [2, 3] and keepdims == 0)(reduce)
    case(name, "noop", since=AXES_INPUT.get(name, 18))(
        lambda g, x, name=name: g.op(name, positive(g, x), g.weight(np.zeros(0), np.int64), noop_with_empty_axes=1))
for name in ("ArgMax", "ArgMin"):
    for axis, keepdims, last in itertools.product((None, 1, 3, -1), (None, 0), (None, 1)):
        since = 12 if last else 11 if axis == -1 else 7
        case(name, f"axis{axis}-keep{keepdims}-last{last}", since=since)(
            lambda g, x, name=name, axis=axis, keepdims=keepdims, last=last: g.cast(g.op(
                name, g.op("Floor", g.op("Mul", x, g.weight(np.float32(2)))), axis=axis, keepdims=keepdims,
                select_last_index=last)))

# Softmax and its kin, which changed their meaning in opset 13.
for name in ("Softmax", "LogSoftmax", "Hardmax"):
    for axis in (None, 0, 1, 2, 3, -1, -2):
        case(name, f"axis{axis}", since=11 if axis and axis < 0 else 7, fixed=name == "Softmax" and axis in (1, None))(
            plain(name, axis=axis))
    case(name, "large")(lambda g, x, name=name: g.op(name, g.op("Mul", x, g.weight(np.float32(60)))))

# Pooling.
WINDOWS = {
    "k2": dict(kernel_shape=[2, 2]), "k3s2": dict(kernel_shape=[3, 3], strides=[2, 2]),
    "k3s2p1": dict(kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    "asymmetric": dict(kernel_shape=[3, 2], strides=[2, 1], pads=[0, 1, 2, 0]),
    "upper": dict(kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER"),
    "lower": dict(kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_LOWER"),
    "upper-even": dict(kernel_shape=[2, 2], strides=[3, 3], auto_pad="SAME_UPPER"),
    "lower-even": dict(kernel_shape=[4, 4], strides=[3, 3], auto_pad="SAME_LOWER"),
    "valid": dict(kernel_shape=[3, 3], strides=[2, 2], auto_pad="VALID"),
    "notset": dict(kernel_shape=[3, 3], pads=[1, 1, 1, 1], auto_pad="NOTSET"),
    "tall": dict(kernel_shape=[5, 1], pads=[2, 0, 2, 0]),
}
for name in ("MaxPool", "AveragePool"):
    for label, window in WINDOWS.items():
        case(name, label, fixed=name == "AveragePool" and label == "lower")(plain(name, **window))
        case(name, f"{label}-ceil", since=10, fixed=label in ("k3s2p1", "valid"))(plain(name, ceil_mode=1, **window))
        if name == "AveragePool":
            case(name, f"{label}-include")(plain(name, count_include_pad=1, **window))
            case(name, f"{label}-ceil-include", since=10)(plain(name, count_include_pad=1, ceil_mode=1, **window))
    case(name, "dilated", since=10 if name == "MaxPool" else 19)(
        plain(name, kernel_shape=[2, 2], dilations=[2, 3], strides=[1, 2]))
    case(name, "dilated-padded", since=10 if name == "MaxPool" else 19)(
        plain(name, kernel_shape=[3, 3], dilations=[2, 2], pads=[2, 2, 2, 2]))
    case(name, "line")(lambda g, x, name=name: g.op(name, g.reshape(x, 1, 3, 64), kernel_shape=[3], strides=[2]))
    case(name, "cube")(lambda g, x, name=name: g.op(name, g.reshape(x, 1, 3, 4, 4, 4), kernel_shape=[2, 3, 2]))
case("MaxPool", "indices", since=8)(lambda g, x: [
    g.cast(part) if i else part for i, part in enumerate(g.op("MaxPool", x, outputs=2, kernel_shape=[2, 2], strides=[2, 2]))])
case("MaxPool", "storage-order", since=8)(plain("MaxPool", kernel_shape=[2, 2], storage_order=1))
for name in ("GlobalAveragePool", "GlobalMaxPool"):
    case(name, "default")(plain(name))
    case(name, "line")(lambda g, x, name=name: g.op(name, g.reshape(x, 1, 3, 64)))
for p in (None, 1, 3):
    case("GlobalLpPool", f"p{p}")(plain("GlobalLpPool", p=p))

# Convolutions.
FILTERS = {
    "1x1": ((4, 3, 1, 1), {}), "3x3": ((4, 3, 3, 3), {}), "3x3p1": ((4, 3, 3, 3), dict(pads=[1, 1, 1, 1])),
    "5x3": ((5, 3, 5, 3), dict(pads=[2, 1, 2, 1])), "stride": ((4, 3, 3, 3), dict(strides=[2, 3])),
    "asymmetric": ((4, 3, 3, 2), dict(pads=[1, 0, 2, 1], strides=[2, 1])),
    "dilated": ((4, 3, 3, 3), dict(dilations=[2, 2], pads=[2, 2, 2, 2])),
    "depthwise": ((3, 1, 3, 3), dict(group=3, pads=[1, 1, 1, 1])), "depthwise2": ((6, 1, 3, 3), dict(group=3)),
    "depthwise-stride": ((3, 1, 5, 5), dict(group=3, pads=[2, 2, 2, 2], strides=[2, 2])),
    "depthwise-dilated": ((3, 1, 3, 3), dict(group=3, pads=[2, 2, 2, 2], dilations=[2, 2])),
    "upper": ((4, 3, 3, 3), dict(auto_pad="SAME_UPPER", strides=[2, 2])),
    "lower": ((4, 3, 3, 3), dict(auto_pad="SAME_LOWER", strides=[2, 2])),
    "lower-even": ((4, 3, 4, 4), dict(auto_pad="SAME_LOWER", strides=[1, 3])),
    "valid": ((4, 3, 3, 3), dict(auto_pad="VALID")), "16": ((16, 3, 3, 3), dict(pads=[1, 1, 1, 1])),
    "notset": ((4, 3, 3, 3), dict(auto_pad="NOTSET", pads=[0, 1, 0, 1])),
}
for label, (shape, attributes) in FILTERS.items():
    for bias in (False, True):
        case("Conv", label + "-bias" * bias, fixed=label == "lower" and bias)(
            lambda g, x, shape=shape, attributes=attributes, bias=bias: g.op(
                "Conv", x, g.noise(*shape), *([g.noise(shape[0])] if bias else []), **attributes))
    case("Conv", label + "-kernel-shape")(
        lambda g, x, shape=shape, attributes=attributes: g.op(
            "Conv", x, g.noise(*shape), kernel_shape=list(shape[2:]), **attributes))
case("Conv", "groups2")(lambda g, x: g.op("Conv", g.reshape(x, 1, 6, 4, 8), g.noise(4, 3, 3, 3), group=2))
case("Conv", "line")(lambda g, x: g.op("Conv", g.reshape(x, 1, 3, 64), g.noise(2, 3, 5), strides=[3], pads=[1, 2]))
case("Conv", "cube")(lambda g, x: g.op("Conv", g.reshape(x, 1, 3, 4, 4, 4), g.noise(2, 3, 2, 2, 2)))
case("Conv", "no-bias-named")(lambda g, x: g.op("Conv", x, g.noise(2, 3, 3, 3), ""))
TRANSPOSED = {
    "plain": ((3, 2, 3, 3), {}), "stride": ((3, 2, 3, 3), dict(strides=[2, 2])),
    "padded": ((3, 2, 3, 3), dict(strides=[2, 2], pads=[1, 1, 1, 1])),
    "asymmetric": ((3, 2, 3, 2), dict(strides=[2, 1], pads=[0, 1, 1, 0])),
    "output-padding": ((3, 2, 3, 3), dict(strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1])),
    "dilated": ((3, 2, 3, 3), dict(dilations=[2, 2])), "groups": ((3, 2, 3, 3), dict(group=3)),
    "upper": ((3, 2, 3, 3), dict(strides=[2, 2], auto_pad="SAME_UPPER")),
    "lower": ((3, 2, 3, 3), dict(strides=[2, 2], auto_pad="SAME_LOWER")),
    "upper-even": ((3, 2, 4, 4), dict(strides=[3, 3], auto_pad="SAME_UPPER")),
    "valid": ((3, 2, 3, 3), dict(strides=[2, 2], auto_pad="VALID")),
    "output-shape": ((3, 2, 3, 3), dict(strides=[2, 2], output_shape=[16, 16])),
    "output-shape-lower": ((3, 2, 3, 3), dict(strides=[2, 2], output_shape=[16, 16], auto_pad="SAME_LOWER")),
}
for label, (shape, attributes) in TRANSPOSED.items():
    for bias in (False, True):
        case("ConvTranspose", label + "-bias" * bias, fixed=label == "output-padding" and bias)(
            lambda g, x, shape=shape, attributes=attributes, bias=bias: g.op(
                "ConvTranspose", x, g.noise(*shape), *([g.noise(shape[1] * attributes.get("group", 1))] if bias else []),
                **attributes))

# Normalisation.
for epsilon in (None, 0.1):
    case("BatchNormalization", f"epsilon{epsilon}", fixed=epsilon == 0.1)(lambda g, x, epsilon=epsilon: g.op(
        "BatchNormalization", x, g.noise(3), g.noise(3), g.noise(3),
        g.weight(np.abs(g.random.standard_normal(3)).astype(np.float32) + np.float32(0.1)), epsilon=epsilon, momentum=0.5))
    case("InstanceNormalization", f"epsilon{epsilon}")(lambda g, x, epsilon=epsilon: g.op(
        "InstanceNormalization", x, g.noise(3), g.noise(3), epsilon=epsilon))
    for axis in (None, 1, 2, -1, -2):
        shape = {None: (8,), 1: (3, 8, 8), 2: (8, 8), -1: (8,), -2: (8, 8)}[axis]
        for bias in (False, True):
            case("LayerNormalization", f"axis{axis}-epsilon{epsilon}" + "-bias" * bias,
                 fixed=axis == -2 and bias and epsilon)(
                lambda g, x, epsilon=epsilon, axis=axis, shape=shape, bias=bias: g.op(
                    "LayerNormalization", x, g.noise(*shape), *([g.noise(*shape)] if bias else []), axis=axis,
                    epsilon=epsilon))
    for groups in (1, 2, 6):
        case("GroupNormalization", f"groups{groups}-epsilon{epsilon}", fixed=groups == 2 and epsilon)(
            lambda g, x, groups=groups, epsilon=epsilon: g.op(
                "GroupNormalization", g.reshape(x, 1, 6, 4, 8), *(g.noise(groups if g.opset < 21 else 6) for _ in "sb"),
                num_groups=groups, epsilon=epsilon))
case("BatchNormalization", "line")(lambda g, x: g.op(
    "BatchNormalization", g.reshape(x, 1, 12, 16), *(g.weight(np.abs(g.random.standard_normal(12)) + 0.1) for _ in range(4))))
case("BatchNormalization", "flat")(lambda g, x: g.op(
    "BatchNormalization", g.reshape(x, 1, 192), *(g.weight(np.abs(g.random.standard_normal(192)) + 0.1) for _ in range(4))))
for size, alpha, beta, bias in [(1, None, None, None), (3, None, None, None), (3, 0.5, 0.6, 2.0), (2, 0.5, 0.75, 1.0), (5, 1.0, 0.5, 1.5)]:
    case("LRN", f"size{size}-{alpha}-{beta}")(plain("LRN", size=size, alpha=alpha, beta=beta, bias=bias))
for axis, p in itertools.product((None, 1, 2, -1), (None, 1, 2)):
    case("LpNormalization", f"axis{axis}-p{p}")(plain("LpNormalization", axis=axis, p=p))
for axes in (None, [1], [2, 3], [0, 1, 2, 3]):
    case("MeanVarianceNormalization", f"axes{axes}")(plain("MeanVarianceNormalization", axes=axes))
case("Dropout", "plain")(lambda g, x: g.op("Dropout", x))
case("Dropout", "ratio-input", since=12)(lambda g, x: g.op("Dropout", x, g.weight(np.float32(0.4))))
case("Dropout", "not-training", since=12)(lambda g, x: g.op("Dropout", x, g.weight(np.float32(0.4)), g.weight(np.bool_(False))))
case("Dropout", "training", since=12)(lambda g, x: g.op("Dropout", x, g.weight(np.float32(0.0)), g.weight(np.bool_(True))))

# Products.
for alpha, beta, a, b in [(None, None, None, None), (0.5, 2.0, None, None), (None, None, 1, None), (None, None, None, 1), (2.0, 0.5, 1, 1)]:
    for c in (None, (), (1,), (5,), (1, 5), (12, 1), (12, 5)):
        def gemm(g, x, alpha=alpha, beta=beta, a=a, b=b, c=c):
            left = g.reshape(x, *((16, 12) if a else (12, 16)))
            right = g.noise(*((5, 16) if b else (16, 5)))
            return g.op("Gemm", left, right, *([] if c is None else [g.noise(*c)]), alpha=alpha, beta=beta, transA=a, transB=b)

        case("Gemm", f"{alpha}-{beta}-{a}-{b}-c{c}", since=11 if c is None else 7, fixed=c == (12, 1) and alpha == 2.0)(gemm)
for label, left, right in [("2d", (12, 16), (16, 5)), ("3d", (3, 8, 8), (8, 4)), ("broadcast", (3, 8, 8), (2, 1, 8, 4)),
                           ("4d", (1, 3, 8, 8), (1, 3, 8, 2)), ("vector", (24, 8), (8,)), ("vectors", (192,), (192,)),
                           ("wide", (1, 192), (192, 33))]:
    case("MatMul", label)(lambda g, x, left=left, right=right: g.op("MatMul", g.reshape(x, *left), g.noise(*right)))
    case("MatMul", f"{label}-first")(lambda g, x, left=left, right=right: g.op(
        "MatMul", g.noise(*([7, left[0]] if len(left) == 1 else [*left[:-2], 7, left[-2]])), g.reshape(x, *left)))
case("MatMul", "both")(lambda g, x: g.op("MatMul", x, g.op("Transpose", x, perm=[0, 1, 3, 2])))
for label, kind in (("whole", TensorProto.INT32), ("whole-long", TensorProto.INT64)):
    case("MatMul", label, since=9)(lambda g, x, kind=kind: g.cast(g.op(
        "MatMul", whole(g, g.reshape(x, 12, 16), to=kind), g.weight(np.arange(80).reshape(16, 5) % 7,
                                                                    np.int32 if kind == TensorProto.INT32 else np.int64))))
for equation, left, right in [("ij,jk->ik", (12, 16), (16, 5)), ("bij,bjk->bik", (3, 8, 8), (3, 8, 4)), ("bhwc,hkc->bhwk", (1, 3, 8, 8), (3, 5, 8)),
                              ("ij->ji", (12, 16), None), ("ij->i", (12, 16), None), ("...ij,jk->...ik", (3, 8, 8), (8, 4)),
                              ("ij,kj->ik", (12, 16), (5, 16)), ("bhwc,hkc", (1, 3, 8, 8), (3, 5, 8)), ("ij,ij->", (12, 16), (12, 16)),
                              ("ij,ij->ij", (12, 16), (12, 16)), ("i,j->ij", (192,), (3,))]:
    case("Einsum", equation.replace(">", "").replace(".", "~"), since=12)(
        lambda g, x, equation=equation, left=left, right=right: g.op(
            "Einsum", g.reshape(x, *left), *([g.noise(*right)] if right else []), equation=equation))
for name in ("ConvInteger", "MatMulInteger"):
    def integer(g, x, name=name):
        x = g.cast(g.op("Abs", g.op("Mul", x, g.weight(np.float32(20)))), TensorProto.UINT8)
        x = g.reshape(x, 12, 16) if name == "MatMulInteger" else x
        shape = (16, 5) if name == "MatMulInteger" else (4, 3, 3, 3)
        return g.cast(g.op(name, x, g.weight(g.random.integers(0, 255, shape), np.uint8)))

    case(name, "default", since=10)(integer)
case("DynamicQuantizeLinear", "default", since=11)(lambda g, x: g.cast(g.op("DynamicQuantizeLinear", x, outputs=3)[0]))
import engine_shapes  # noqa: E402,F401  the operators that move numbers about

"""Operators that move, cut, repeat and resize; part of `engine_operators.py`."""

import itertools

import numpy as np
from engine_networks import case


def simple(operator, *weights, since_kind=np.int64, **attributes):
    """An operator whose further inputs are constants of whole numbers."""
    return lambda g, x: g.op(operator, x, *(g.weight(np.array(w), since_kind) for w in weights), **attributes)


for shape in ([1, -1], [0, 24, -1], [8, 3, 8], [0, 0, 64], [2, 2, 3, 16]):
    case("Reshape", "x".join(map(str, shape)))(simple("Reshape", shape))
case("Reshape", "allowzero", since=14)(simple("Reshape", [1, 3, 64], allowzero=1))
for axis in (None, 0, 2, 4, -1, -2):
    case("Flatten", f"axis{axis}", since=11 if axis and axis < 0 else 7)(
        lambda g, x, axis=axis: g.op("Flatten", x, axis=axis))
for perm in (None, [0, 2, 3, 1], [3, 1, 0, 2], [0, 1, 3, 2]):
    case("Transpose", f"perm{perm}")(lambda g, x, perm=perm: g.op("Transpose", x, perm=perm))
for axes in ([0], [1, 2], [-1], [-1, 0]):
    case("Unsqueeze", f"axes{axes}", since=11 if min(axes) < 0 else 7)(
        lambda g, x, axes=axes: g.axes("Unsqueeze", x, axes, 13))
for axes in (None, [0], [-3], [0, 2]):
    case("Squeeze", f"axes{axes}", since=11 if axes and min(axes) < 0 else 7)(
        lambda g, x, axes=axes: g.axes("Squeeze", g.reshape(x, 1, 24, 1, 8) if axes != [-3] else g.reshape(x, 24, 1, 4, 2), axes, 13))
for axis in (0, 1, 2, 3, -1, -3):
    case("Concat", f"axis{axis}", since=11 if axis < 0 else 7)(
        lambda g, x, axis=axis: g.op("Concat", x, g.noise(1, 3, 8, 8), x, axis=axis))
case("Concat", "one")(lambda g, x: g.op("Concat", x, axis=1))
for axis, parts in [(1, [1, 2]), (2, [3, 5]), (-1, [2, 2, 4]), (None, [1])]:
    def split(g, x, axis=axis, parts=parts):
        inputs = [g.ints(*parts)] if g.opset >= 13 else []
        return g.op("Split", x, *inputs, outputs=len(parts) if len(parts) > 1 else 1, axis=axis,
                    split=None if inputs else parts)

    case("Split", f"axis{axis}", since=11 if axis and axis < 0 else 7, fixed=axis == 2)(split)
case("Split", "equal")(lambda g, x: g.op("Split", x, outputs=2, axis=2, num_outputs=2 if g.opset >= 18 else None))
case("Split", "uneven", since=18)(lambda g, x: g.op("Split", x, outputs=3, axis=2, num_outputs=3))
CUTS = {
    "middle": ([2, 1], [6, 7], [2, 3], None), "negative": ([-5], [-1], [3], None), "far": ([3], [1 << 40], [2], None),
    "step": ([0, 1], [8, 8], [2, 3], [2, 3]), "back": ([7], [-(1 << 40)], [3], [-1]), "back2": ([-2], [1], [2], [-2]),
    "no-axes": ([0, 1, 2, 3], [1, 3, 7, 8], None, None), "negative-axes": ([1], [5], [-2], None),
}
for label, (starts, ends, axes, steps) in CUTS.items():
    def cut(g, x, starts=starts, ends=ends, axes=axes, steps=steps):
        if g.opset < 10:
            return g.op("Slice", x, starts=starts, ends=ends, axes=axes)
        inputs = [x, g.ints(*starts), g.ints(*ends), g.ints(*axes) if axes else "", g.ints(*steps) if steps else ""]
        while inputs[-1] == "":
            inputs.pop()
        return g.op("Slice", *inputs)

    case("Slice", label, since=10 if steps or label.startswith("negative-a") else 7, fixed=label == "back2")(cut)
for axis, indices in [(0, [0, 0]), (1, [2, 0]), (3, [[7, 1], [2, 2]]), (-1, [3]), (2, 5), (1, [-1, -3])]:
    since = 11 if axis < 0 or np.min(indices) < 0 else 7
    case("Gather", f"axis{axis}-{np.ravel(indices)[0]}", since=since, fixed=np.min(indices) < 0)(simple("Gather", indices, axis=axis))
for axis in (1, 3, -2):
    case("GatherElements", f"axis{axis}", since=11)(
        lambda g, x, axis=axis: g.op("GatherElements", x, g.weight(g.random.integers(-2, 2, (1, 3, 4, 8)), np.int64), axis=axis))
for batch, indices in [(0, [[0, 1], [0, 2]]), (1, [[[1, 2], [0, 7]]]), (0, [[0, -1, 3, -2]])]:
    case("GatherND", f"batch{batch}-{np.ravel(indices)[1]}", since=12 if batch else 11)(
        simple("GatherND", indices, **({"batch_dims": batch} if batch else {})))
for reduction in (None, "add", "mul", "max", "min"):
    since = {None: 11, "add": 16, "mul": 16}.get(reduction, 18)
    case("ScatterElements", f"{reduction}", since=since, fixed=reduction == "add")(lambda g, x, reduction=reduction: g.op(
        "ScatterElements", x, g.weight(g.random.permutation(8)[:3].reshape(1, 1, 1, 3), np.int64), g.noise(1, 1, 1, 3), axis=3,
        reduction=reduction))
    case("ScatterND", f"{reduction}", since=since)(lambda g, x, reduction=reduction: g.op(
        "ScatterND", x, g.weight([[0, 1, 2], [0, 2, 5]], np.int64), g.noise(2, 8), reduction=reduction))
case("ScatterElements", "negative", since=11)(lambda g, x: g.op(
    "ScatterElements", x, g.weight([[[[-1, -3]]]], np.int64), g.noise(1, 1, 1, 2), axis=-1))
for shape in ([1, 3, 8, 8], [2, 1, 3, 8, 8], [1]):
    case("Expand", f"to{len(shape)}")(lambda g, x, shape=shape: g.op("Expand", x, g.ints(*shape)))
case("Expand", "grow")(lambda g, x: g.op("Expand", g.op("GlobalAveragePool", x), g.ints(1, 3, 4, 5)))
for repeats in ([1, 2, 1, 3], [2, 1, 1, 1]):
    case("Tile", f"{repeats}")(simple("Tile", repeats))

# Frames.
FRAMES = {"one": [0, 0, 1, 1, 0, 0, 1, 1], "asymmetric": [0, 0, 1, 2, 0, 0, 3, 0], "channel": [0, 1, 0, 0, 0, 2, 0, 0],
          "cut": [0, 0, -1, 0, 0, 0, 0, -2], "cut-and-grow": [0, 0, -1, 2, 0, 0, 1, -2], "none": [0] * 8}
for mode, (label, frame), value in itertools.product((None, "constant", "reflect", "edge", "wrap"), FRAMES.items(), (None, 0.7, "empty")):
    if mode in ("reflect", "edge", "wrap") and label == "channel" and mode != "edge":
        continue

    def pad(g, x, mode=mode, frame=frame, value=value):
        if g.opset < 11:
            return g.op("Pad", x, mode=mode, pads=frame, value=None if value == "empty" else value)
        filling = [] if value is None else [""] if value == "empty" else [g.weight(np.float32(value))]
        axes = [g.ints(0, 1, 2, 3)] if value == "empty" and g.opset >= 18 else []
        return g.op("Pad", x, g.ints(*frame), *(filling if axes or value != "empty" else []), *axes, mode=mode)

    case("Pad", f"{mode}-{label}-{value}", since=19 if mode == "wrap" else 7,
         fixed=label == "asymmetric" and value == 0.7 and mode != "wrap")(pad)
for mode in ("constant", "reflect", "edge"):
    case("Pad", f"{mode}-axes", since=18, fixed=mode == "edge")(lambda g, x, mode=mode: g.op(
        "Pad", x, g.ints(2, 1, 0, 3), g.weight(np.float32(0.4)), g.ints(3, -2), mode=mode))
    case("Pad", f"{mode}-infinite", since=11)(lambda g, x, mode=mode: g.op("MaxPool", g.op(
        "Pad", x, g.ints(0, 0, 1, 1, 0, 0, 1, 1), g.weight(np.float32(-np.inf)), mode=mode), kernel_shape=[2, 2]))

for mode in ("DCR", "CRD"):
    case("DepthToSpace", mode, since=11, fixed=mode == "CRD")(
        lambda g, x, mode=mode: g.op("DepthToSpace", g.reshape(x, 1, 12, 4, 4), blocksize=2, mode=mode))
case("DepthToSpace", "default")(lambda g, x: g.op("DepthToSpace", g.reshape(x, 1, 12, 4, 4), blocksize=2))
for size in (2, 4):
    case("SpaceToDepth", f"block{size}")(lambda g, x, size=size: g.op("SpaceToDepth", x, blocksize=size))

# Resizing.
def resize(g, x, *inputs, **attributes):
    """Resize, whose region and scales were no optional inputs before opset 13."""
    inputs = [g.weight(np.zeros(0, np.float32)) if name == "" and g.opset < 13 else name for name in inputs]
    return g.op("Resize", x, *inputs, **attributes)


MOVES = ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric", None)
NEAREST = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil", None)
for mode, move, factor in itertools.product(("nearest", "linear", "cubic"), MOVES, (2.0, 1.5, 0.5, 0.4)):
    since = 19 if move == "half_pixel_symmetric" else 11
    for nearest in NEAREST if mode == "nearest" else (None,):
        case("Resize", f"{mode}-{move}-{nearest}-{factor}", since=since,
             fixed=factor == 2.0 and move == "align_corners" and nearest in (None, "ceil"))(
            lambda g, x, mode=mode, move=move, factor=factor, nearest=nearest: resize(
        g, x, "", g.weight(np.float32([1, 1, factor, factor])), mode=mode,
                coordinate_transformation_mode=move, nearest_mode=nearest))
    case("Resize", f"{mode}-{move}-to-size{factor}", since=since)(
        lambda g, x, mode=mode, move=move, factor=factor: resize(
        g, x, "", "", g.ints(1, 3, int(8 * factor), int(6 * factor)), mode=mode, coordinate_transformation_mode=move))
for mode, factor in itertools.product(("nearest", "linear"), (2.0, 0.5, 1.5)):
    case("Resize", f"{mode}-10-{factor}", opsets=[10])(
        lambda g, x, mode=mode, factor=factor: g.op("Resize", x, g.weight(np.float32([1, 1, factor, factor])), mode=mode))
for mode, factor in itertools.product(("linear", "cubic"), (0.5, 0.3, 2.0)):
    case("Resize", f"{mode}-antialias-{factor}", since=18)(lambda g, x, mode=mode, factor=factor: resize(
        g, x, "", g.weight(np.float32([1, 1, factor, factor])), mode=mode, antialias=1))
case("Resize", "cubic-coefficient", since=11)(lambda g, x: resize(
        g, x, "", g.weight(np.float32([1, 1, 2, 2])), mode="cubic", cubic_coeff_a=-0.5))
case("Resize", "cubic-outside", since=11)(lambda g, x: resize(
        g, x, "", g.weight(np.float32([1, 1, 2, 2])), mode="cubic", exclude_outside=1))
case("Resize", "axes", since=18)(lambda g, x: resize(
        g, x, "", g.weight(np.float32([2, 1.5])), mode="linear", axes=[2, 3]))
for policy in ("not_larger", "not_smaller"):
    case("Resize", policy, since=18)(lambda g, x, policy=policy: resize(
        g, x, "", "", g.ints(12, 20), mode="linear", axes=[2, 3], keep_aspect_ratio_policy=policy))
case("Resize", "crop", since=11)(lambda g, x: g.op(
    "Resize", x, g.weight(np.float32([0, 0, 0.2, 0.1, 1, 1, 0.8, 0.9])), g.weight(np.float32([1, 1, 1.5, 1.5])), mode="linear",
    coordinate_transformation_mode="tf_crop_and_resize", extrapolation_value=0.3))

# Whole numbers made of the picture, and constants.
for largest, axis in itertools.product((1, 0), (-1, 1)):
    case("TopK", f"largest{largest}-axis{axis}", since=11)(lambda g, x, largest=largest, axis=axis: [
        g.cast(part) if i else part for i, part in enumerate(g.op("TopK", x, g.ints(2), outputs=2, largest=largest, axis=axis))])
case("TopK", "values")(lambda g, x: g.op(
    "TopK", x, *([g.ints(3)] if g.opset >= 10 else []), outputs=2, k=None if g.opset >= 10 else 3)[0])
for axis in (-1, 0, 1):
    case("OneHot", f"axis{axis}", since=9)(lambda g, x, axis=axis: g.op(
        "OneHot", g.op("ArgMax", x, axis=3), g.weight(8, np.int64), g.weight(np.float32([0.2, 1.5])), axis=axis))
for upper, k in itertools.product((1, 0), (None, 1, -2)):
    case("Trilu", f"upper{upper}-k{k}", since=14)(lambda g, x, upper=upper, k=k: g.op(
        "Trilu", x, *([] if k is None else [g.weight(k, np.int64)]), upper=upper))
for exclusive, reverse, axis in itertools.product((0, 1), (0, 1), (2, -1)):
    case("CumSum", f"{exclusive}{reverse}-axis{axis}", since=11, fixed=exclusive and reverse and axis == 2)(
        lambda g, x, exclusive=exclusive, reverse=reverse, axis=axis: g.op(
            "CumSum", x, g.weight(axis, np.int64), exclusive=exclusive, reverse=reverse))
for start, end, step in [(0.0, 8.0, 1.0), (5.0, -3.0, -1.0), (0.0, 4.0, 0.5)]:
    case("Range", f"{step}", since=11)(lambda g, x, start=start, end=end, step=step: g.op(
        "Add", x, g.op("Range", *(g.weight(np.float32(v)) for v in (start, end, step)))))
case("Shape", "whole")(lambda g, x: g.cast(g.op("Shape", x)))
for start, end in [(1, None), (None, -1), (-2, 4), (-100, 100)]:
    case("Shape", f"{start}-{end}", since=15)(lambda g, x, start=start, end=end: g.cast(g.op("Shape", x, start=start, end=end)))
case("Size", "whole")(lambda g, x: g.cast(g.op("Size", x)))


def filled(g, x, value=None):
    from onnx import numpy_helper

    value = None if value is None else numpy_helper.from_array(value)
    return g.op("Add", x, g.cast(g.op("ConstantOfShape", g.ints(3, 1, 8), value=value)))


case("ConstantOfShape", "default", since=9)(filled)
case("ConstantOfShape", "float", since=9)(lambda g, x: filled(g, x, np.float32([1.5])))
case("ConstantOfShape", "whole", since=9)(lambda g, x: filled(g, x, np.int64([3])))


def constant(g, x, **attributes):
    return g.op("Add", x, g.cast(g.op("Constant", **attributes)))


for label, array in [("float", np.float32([1, 2, 3, 4, 5, 6, 7, 8])), ("whole", np.int64([[2]])), ("double", np.float64([0.25])),
                     ("bool", np.bool_([[True], [False], [True]]).reshape(3, 1, 1)), ("byte", np.uint8([200]))]:
    def of_tensor(g, x, array=array):
        from onnx import numpy_helper

        return constant(g, x, value=numpy_helper.from_array(array))

    case("Constant", label)(of_tensor)
for label, attributes in [("value-float", {"value_float": 0.7}), ("value-floats", {"value_floats": [0.1] * 8}),
                          ("value-int", {"value_int": 3}), ("value-ints", {"value_ints": [1, 2, 3, 4, 5, 6, 7, 8]})]:
    case("Constant", label, since=12)(lambda g, x, attributes=attributes: constant(g, x, **attributes))

# Quantised and back, as static quantisation writes it.
for kind, zero in itertools.product((np.uint8, np.int8), (0, 3, None)):
    if kind is np.int8 and zero is None:
        continue

    def quantised(g, x, kind=kind, zero=zero):
        point = None if zero is None else g.weight(zero, kind)
        scale = g.weight(np.float32(0.037))
        inputs = [x, scale] if point is None else [x, scale, point]
        return g.op("DequantizeLinear", g.op("QuantizeLinear", *inputs), *inputs[1:])

    def quantised_relu(g, x, kind=kind, zero=zero):
        return quantised(g, g.op("Sigmoid", quantised(g, x, kind, zero)), kind, zero)

    label = f"{np.dtype(kind).name}-{zero}"
    case("QuantizeLinear", label, since=10, fixed=zero == 3)(quantised)
    case("DequantizeLinear", f"chain-{label}", since=10, fixed=zero == 3)(quantised_relu)
case("DequantizeLinear", "mixed-types", since=10, fixed=True)(lambda g, x: g.op(
    "DequantizeLinear", g.op("QuantizeLinear", g.op("Tanh", g.op(
        "DequantizeLinear", g.op("QuantizeLinear", x, g.weight(np.float32(0.02)), g.weight(130, np.uint8)),
        g.weight(np.float32(0.02)), g.weight(130, np.uint8))), g.weight(np.float32(0.008)), g.weight(-3, np.int8)),
    g.weight(np.float32(0.008)), g.weight(-3, np.int8)))
for axis in (1, -3, 3):
    def per_axis(g, x, axis=axis):
        count = 3 if axis != 3 else 8
        scale = g.weight((np.abs(g.random.standard_normal(count)) * 0.02 + 0.01).astype(np.float32))
        zero = g.weight(g.random.integers(-5, 5, count), np.int8)
        return g.op("DequantizeLinear", g.op("QuantizeLinear", x, scale, zero, axis=axis), scale, zero, axis=axis)

    case("QuantizeLinear", f"axis{axis}", since=13, fixed=axis == 1)(per_axis)
case("DequantizeLinear", "weights", since=10)(lambda g, x: g.op("Conv", x, g.op(
    "DequantizeLinear", g.weight(g.random.integers(-128, 127, (4, 3, 3, 3)), np.int8), g.weight(np.float32(0.01)),
    g.weight(0, np.int8))))
case("DequantizeLinear", "weights-by-channel", since=13)(lambda g, x: g.op("Conv", x, g.op(
    "DequantizeLinear", g.weight(g.random.integers(-128, 127, (4, 3, 3, 3)), np.int8), g.weight(np.float32([0.01, 0.02, 0.03, 0.005])),
    g.weight([0, 0, 0, 0], np.int8), axis=0)))
case("DequantizeLinear", "bias", since=10)(lambda g, x: g.op(
    "Add", g.op("Transpose", x, perm=[0, 2, 3, 1]),
    g.op("DequantizeLinear", g.weight([1000, -2000, 300], np.int32), g.weight(np.float32(0.001)))))
case("QuantizeLinear", "sixteen-bits", since=21)(lambda g, x: g.op(
    "DequantizeLinear", g.op("QuantizeLinear", x, g.weight(np.float32(0.001)), g.weight(0, np.int16)),
    g.weight(np.float32(0.001)), g.weight(0, np.int16)))

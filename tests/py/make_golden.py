"""Computes the golden tensors and scores: Pillow and numpy for preprocessing, onnxruntime for toy networks.

    pip install -r tests/py/requirements-images.txt
    python tests/py/make_golden.py

Writes, beside itself:
  field.png, toy_nchw.onnx, toy_nhwc.onnx   inputs
  toy_outlier.onnx                          a network with an outlier score, which is high for a blank field
  toy_gaps.onnx                             a network that fails in three ways on three plain colours
  tensors.json + <case>.u8                  for each spec, the 8-bit samples after colour and size, in NHWC order;
                                            the tensor is (sample * scale - mean) / std in the spec's layout
  scores.json                               for each network but the last, its input spec, the raw output, the
                                            probabilities, and the outlier score or null

The image is not square, and neither are the inputs, so that exchanged sides cannot go unseen. Samples are stored
instead of floats: a quarter of the size, and a difference is read in levels.
"""

import json
import pathlib
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

OUT = pathlib.Path(__file__).parents[1] / "data" / "golden"
WIDTH, HEIGHT = 97, 61


def draw(width, height):
    """A stained field: pink ground, cells of several sizes, one of them with a dark ring; fine noise."""
    rng = np.random.default_rng(20)
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    picture = np.stack([232 - 0.2 * x, 205 - 0.4 * y, 214 - 0.1 * (x + y)], axis=-1)
    for cx, cy, radius in ((20, 15, 9), (48, 40, 12), (80, 20, 7), (70, 52, 10), (9, 47, 8)):
        distance = np.hypot(x - cx, y - cy)
        picture -= np.clip(radius - distance, 0, 3)[..., None] * np.array([12, 28, 14])
    ring = np.abs(np.hypot(x - 50, y - 38) - 4)
    picture -= np.clip(2 - ring, 0, 1.5)[..., None] * np.array([60, 70, 20])
    picture += rng.normal(0, 3, picture.shape)
    picture[2:6, 85:95] = [20, 40, 220]
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def half_up(side, numerator, denominator):
    return (2 * side * numerator + denominator) // (2 * denominator)


def samples(image, spec):
    """Steps 1 and 2 of crates/image/src/preprocess.rs."""
    w, h, (W, H) = spec["width"], spec["height"], image.size
    pad = tuple(spec.get("pad", [0, 0, 0]))
    if spec["color"] == "gray":
        image = image.convert("L")
        pad = Image.new("RGB", (1, 1), pad).convert("L").getpixel((0, 0))
    width_binds = w * H <= h * W
    if spec["resize"] == "stretch":
        image = image.resize((w, h), Image.BILINEAR)
    elif spec["resize"] == "fit":
        size = (w, max(1, half_up(H, w, W))) if width_binds else (max(1, half_up(W, h, H)), h)
        canvas = Image.new(image.mode, (w, h), pad)
        canvas.paste(image.resize(size, Image.BILINEAR), ((w - size[0]) // 2, (h - size[1]) // 2))
        image = canvas
    else:
        size = (half_up(W, h, H), h) if width_binds else (w, half_up(H, w, W))
        left, top = (size[0] - w) // 2, (size[1] - h) // 2
        image = image.resize(size, Image.BILINEAR).crop((left, top, left + w, top + h))
    array = np.asarray(image)
    return array if array.ndim == 3 else array[..., None]


def tensor(image, spec):
    """Steps 3 and 4."""
    array = samples(image, spec).astype(np.float32)
    channels = array.shape[-1]
    scale = np.float32(spec.get("scale", 1 / 255))
    mean = np.array(spec.get("mean", [0] * channels), dtype=np.float32)
    std = np.array(spec.get("std", [1] * channels), dtype=np.float32)
    array = (array * scale - mean) / std
    if spec["layout"] == "nchw":
        array = array.transpose(2, 0, 1)
    return np.ascontiguousarray(array[None])


def weights(rng, *shape):
    fan_in = int(np.prod(shape[1:]))
    return rng.normal(0, (2 / fan_in) ** 0.5, shape).astype(np.float32)


def save(name, nodes, inputs, outputs, constants, metadata):
    graph = helper.make_graph(
        nodes, name, inputs, outputs, [numpy_helper.from_array(value, key) for key, value in constants.items()]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, metadata)
    onnx.checker.check_model(model, full_check=True)
    (OUT / f"{name}.onnx").write_bytes(model.SerializeToString())


def metadata(name, labels, spec, output, temperature, review, positive):
    return {
        "giemsa.name": name,
        "giemsa.version": "1.0.0",
        "giemsa.labels": json.dumps(labels),
        "giemsa.input": json.dumps(spec),
        "giemsa.output": output,
        "giemsa.temperature": str(temperature),
        "giemsa.review": json.dumps(review),
        "giemsa.positive": json.dumps(positive),
    }


NCHW_SPEC = {
    "layout": "nchw",
    "width": 40,
    "height": 32,
    "color": "rgb",
    "resize": "fit",
    "pad": [114, 114, 114],
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
}
NHWC_SPEC = {"layout": "nhwc", "width": 36, "height": 28, "color": "gray", "resize": "crop"}


def make_nchw():
    """Convolutions, then Gemm to three logits: what PyTorch exports. The batch dimension is symbolic."""
    rng = np.random.default_rng(1)
    labels = ["uninfected", "infected", "artefact"]
    constants = {
        "w1": weights(rng, 8, 3, 3, 3),
        "b1": rng.normal(0, 0.1, 8).astype(np.float32),
        "w2": weights(rng, 12, 8, 3, 3),
        "b2": rng.normal(0, 0.1, 12).astype(np.float32),
        # Depthwise, as in the MobileNets.
        "w3": weights(rng, 12, 1, 3, 3),
        "b3": rng.normal(0, 0.1, 12).astype(np.float32),
        "w4": weights(rng, 3, 12) * 4,
        "b4": rng.normal(0, 0.1, 3).astype(np.float32),
    }
    conv = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["input", "w1", "b1"], ["c1"], **conv),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], **conv),
        helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("Conv", ["r2", "w3", "b3"], ["c3"], group=12, kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c3"], ["r3"]),
        helper.make_node("GlobalAveragePool", ["r3"], ["pool"]),
        helper.make_node("Flatten", ["pool"], ["flat"], axis=1),
        helper.make_node("Gemm", ["flat", "w4", "b4"], ["logits"], transB=1),
    ]
    inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, 32, 40])]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])]
    review = {"confidence_below": 0.8, "label_above": {"artefact": 0.3}}
    save("toy_nchw", nodes, inputs, outputs, constants, metadata("toy-nchw", labels, NCHW_SPEC, "logits", 1.5, review, ["infected"]))
    return labels


def make_nhwc():
    """A transposition first and a softmax last: what Keras exports. The batch dimension is fixed at 1."""
    rng = np.random.default_rng(2)
    labels = ["negative", "positive"]
    constants = {
        "w1": weights(rng, 6, 1, 5, 5),
        "b1": rng.normal(0, 0.1, 6).astype(np.float32),
        "w2": weights(rng, 16, 6 * 3 * 4).T.copy(),
        "b2": rng.normal(0, 0.1, 16).astype(np.float32),
        "w3": weights(rng, 2, 16).T.copy(),
        "b3": rng.normal(0, 0.1, 2).astype(np.float32),
        "shape": np.array([1, 6 * 3 * 4], dtype=np.int64),
    }
    nodes = [
        helper.make_node("Transpose", ["image"], ["t"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["t", "w1", "b1"], ["c1"], kernel_shape=[5, 5], strides=[3, 3]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("MaxPool", ["r1"], ["m1"], kernel_shape=[2, 2], strides=[2, 2], ceil_mode=0),
        helper.make_node("AveragePool", ["m1"], ["a1"], kernel_shape=[2, 2], strides=[1, 1]),
        helper.make_node("Reshape", ["a1", "shape"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w2"], ["d1"]),
        helper.make_node("Add", ["d1", "b2"], ["d2"]),
        helper.make_node("Sigmoid", ["d2"], ["s"]),
        helper.make_node("MatMul", ["s", "w3"], ["e1"]),
        helper.make_node("Add", ["e1", "b3"], ["e2"]),
        helper.make_node("Softmax", ["e2"], ["probabilities"], axis=-1),
    ]
    inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 28, 36, 1])]
    outputs = [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [1, 2])]
    review = {"confidence_below": 0.9}
    save("toy_nhwc", nodes, inputs, outputs, constants, metadata("toy-nhwc", labels, NHWC_SPEC, "probabilities", 1.0, review, ["positive"]))
    return labels


def make_outlier():
    """Two outputs: logits of a small convolution, and whether the picture is blank, from its contrast."""
    rng = np.random.default_rng(3)
    labels = ["negative", "positive"]
    spec = {"layout": "nchw", "width": 24, "height": 20, "color": "rgb", "resize": "stretch", "mean": [0.5] * 3, "std": [0.25] * 3}
    constants = {
        "w1": weights(rng, 6, 3, 3, 3),
        "b1": rng.normal(0, 0.1, 6).astype(np.float32),
        "w2": weights(rng, 2, 6) * 4,
        "b2": rng.normal(0, 0.1, 2).astype(np.float32),
        "steepness": np.array(-40, dtype=np.float32),
        "blank": np.array(4, dtype=np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["image", "w1", "b1"], ["c1"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("GlobalAveragePool", ["r1"], ["pool"]),
        helper.make_node("Flatten", ["pool"], ["flat"], axis=1),
        helper.make_node("Gemm", ["flat", "w2", "b2"], ["logits"], transB=1),
        # Variance over the picture: 0 for a blank one, whatever its colour.
        helper.make_node("ReduceMean", ["image"], ["mean"], axes=[2, 3], keepdims=1),
        helper.make_node("Sub", ["image", "mean"], ["difference"]),
        helper.make_node("Mul", ["difference", "difference"], ["square"]),
        helper.make_node("ReduceMean", ["square"], ["contrast"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Mul", ["contrast", "steepness"], ["scaled"]),
        helper.make_node("Add", ["scaled", "blank"], ["shifted"]),
        helper.make_node("Sigmoid", ["shifted"], ["outlier"]),
    ]
    inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 20, 24])]
    outputs = [
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 2]),
        helper.make_tensor_value_info("outlier", TensorProto.FLOAT, ["n"]),
    ]
    review = {"confidence_below": 0.6, "outlier_above": 0.5}
    save("toy_outlier", nodes, inputs, outputs, constants, metadata("toy-outlier", labels, spec, "logits", 1.0, review, ["positive"]))
    return labels, spec


def make_gaps():
    """Good on every probe; but dark red has no score, dark green no outlier score, and dark blue asks for an element
    that is not there."""
    labels = ["negative", "positive"]
    spec = {"layout": "nchw", "width": 8, "height": 8, "color": "rgb", "resize": "stretch"}
    constants = {
        "low": np.array(0.27, dtype=np.float32),
        "high": np.array(0.32, dtype=np.float32),
        "forty": np.array(40, dtype=np.float32),
        "one": np.array([1], dtype=np.float32),
    }
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["mean"], axes=[2, 3], keepdims=0),
        helper.make_node("Sub", ["mean", "low"], ["above_low"]),
        helper.make_node("Sub", ["mean", "high"], ["above_high"]),
        # Below 0 only between 0.27 and 0.32, where no probe's mean lies (crates/model/src/network/probe.rs), and the root is not a number.
        helper.make_node("Mul", ["above_low", "above_high"], ["gap"]),
        helper.make_node("Split", ["gap"], ["red", "green", "blue"], axis=1),
        helper.make_node("Sqrt", ["red"], ["score"]),
        helper.make_node("Sqrt", ["green"], ["outlier"]),
        helper.make_node("Neg", ["blue"], ["deep"]),
        helper.make_node("Relu", ["deep"], ["depth"]),
        helper.make_node("Mul", ["depth", "forty"], ["scaled"]),
        helper.make_node("Ceil", ["scaled"], ["rounded"]),
        helper.make_node("Cast", ["rounded"], ["index"], to=TensorProto.INT64),
        helper.make_node("Gather", ["one", "index"], ["other"], axis=0),
        helper.make_node("Concat", ["score", "other"], ["logits"], axis=1),
    ]
    inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 8, 8])]
    outputs = [
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 2]),
        helper.make_tensor_value_info("outlier", TensorProto.FLOAT, ["n", 1]),
    ]
    review = {"outlier_above": 100}
    save("toy_gaps", nodes, inputs, outputs, constants, metadata("toy-gaps", labels, spec, "logits", 1.0, review, ["positive"]))


def softmax(logits):
    shifted = np.exp(logits - logits.max())
    return shifted / shifted.sum()


def score(model, labels, spec, image):
    session = onnxruntime.InferenceSession(OUT / f"{model}.onnx", providers=["CPUExecutionProvider"])
    outputs = session.run(None, {session.get_inputs()[0].name: tensor(image, spec)})
    output = outputs[0][0].astype(np.float64)
    is_logits = session.get_modelmeta().custom_metadata_map["giemsa.output"] == "logits"
    temperature = float(session.get_modelmeta().custom_metadata_map["giemsa.temperature"])
    # Calibrated: logits are divided by the temperature; probabilities are turned into logits first.
    logits = output if is_logits else np.log(output)
    return {
        "model": f"{model}.onnx",
        "image": "field.png",
        "labels": labels,
        "spec": spec,
        "output": session.get_modelmeta().custom_metadata_map["giemsa.output"],
        "temperature": temperature,
        "raw": output.tolist(),
        "probabilities": softmax(logits / temperature).tolist(),
        "outlier": float(outputs[1].item()) if len(outputs) > 1 else None,
        "runtime": f"onnxruntime {onnxruntime.__version__}",
    }


def main():
    picture = draw(WIDTH, HEIGHT)
    Image.fromarray(picture).save(OUT / "field.png", optimize=True)
    image = Image.open(OUT / "field.png")

    cases = {}
    for resize in ("stretch", "fit", "crop"):
        for color in ("rgb", "gray"):
            # Smaller; both layouts by turns. Then larger; then the other way round (taller than wide).
            cases[f"{resize}_{color}_small"] = {"width": 40, "height": 32, "layout": "nchw" if color == "rgb" else "nhwc"}
            cases[f"{resize}_{color}_tall"] = {"width": 23, "height": 50, "layout": "nhwc" if color == "rgb" else "nchw"}
        cases[f"{resize}_rgb_large"] = {"width": 128, "height": 90, "layout": "nhwc"}
        for name, spec in cases.items():
            if name.startswith(resize):
                spec.update(resize=resize, color=name.split("_")[1])
    for name, spec in cases.items():
        channels = 3 if spec["color"] == "rgb" else 1
        if name.endswith("small"):
            spec["mean"] = [0.485, 0.456, 0.406][:channels]
            spec["std"] = [0.229, 0.224, 0.225][:channels]
        if name.endswith("tall"):
            spec.update(scale=1 / 127.5, mean=[1.0] * channels, pad=[250, 128, 3])
    cases["same_size"] = {"width": WIDTH, "height": HEIGHT, "layout": "nchw", "color": "rgb", "resize": "fit"}

    tensors = []
    for name, spec in cases.items():
        levels = samples(image, spec)
        (OUT / f"{name}.u8").write_bytes(np.ascontiguousarray(levels).tobytes())
        floats = tensor(image, spec)
        # Sums in double, to pin the arithmetic and the order of the axes of the reference itself.
        ramp = np.arange(floats.size, dtype=np.float64) / floats.size
        tensors.append(
            {
                "case": name,
                "image": "field.png",
                "spec": spec,
                "samples": f"{name}.u8",
                "shape": list(floats.shape),
                "first": floats.ravel()[:6].astype(np.float64).tolist(),
                "sum": float(floats.astype(np.float64).sum()),
                "weighted_sum": float((floats.astype(np.float64).ravel() * ramp).sum()),
            }
        )
    scores = [score("toy_nchw", make_nchw(), NCHW_SPEC, image), score("toy_nhwc", make_nhwc(), NHWC_SPEC, image)]
    scores.append(score("toy_outlier", *make_outlier(), image))
    make_gaps()
    for name, content in (("tensors", tensors), ("scores", scores)):
        (OUT / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
    print(json.dumps(scores, indent=1), file=sys.stderr)


if __name__ == "__main__":
    main()

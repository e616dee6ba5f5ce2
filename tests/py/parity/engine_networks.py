"""Networks of one operator each, over attributes and versions of the operator set, for `engine.py`.

A case is a whole Giemsa model: an image of 3 x 8 x 8, the operators under test, and as scores all numbers that they give,
followed by the mean of each colour, so that no network answers every image alike.
"""

import json
import pathlib
import re
import zlib

import numpy as np
import onnx
import onnx.shape_inference
from onnx import TensorProto, helper, numpy_helper

ROOT = pathlib.Path(__file__).resolve().parents[3]
OLDEST, NEWEST = 7, 24
OPSETS = f"{OLDEST} to {NEWEST}"
SHAPE = (1, 3, 8, 8)
MOST_SCORES = 1500


def allowed_operators():
    """The operators that Giemsa's engine takes, as its source lists them."""
    text = (ROOT / "crates/model/src/network/operators.rs").read_text()
    return re.findall(r'"(\w+)"', text.split("const OPERATORS: &[&str] = &[")[1].split("];")[0])


class Graph:
    """Nodes and weights, written one after the other."""

    def __init__(self, opset, seed=0):
        self.opset, self.nodes, self.weights = opset, [], []
        self.random = np.random.default_rng(seed)

    def name(self, stem):
        return f"{stem}_{len(self.nodes) + len(self.weights)}"

    def weight(self, array, dtype=None, name=None):
        array = np.array(array, dtype)
        if array.dtype == np.float64 and dtype is None:
            array = array.astype(np.float32)
        name = name or self.name("w")
        self.weights.append(numpy_helper.from_array(np.array(array, order="C"), name))
        return name

    def noise(self, *shape, scale=0.5):
        return self.weight((self.random.standard_normal(shape) * scale).astype(np.float32))

    def ints(self, *values):
        return self.weight(np.array(values, np.int64))

    def op(self, operator, *inputs, outputs=1, **attributes):
        names = [self.name(operator.lower()) + (f"_{i}" if outputs > 1 else "") for i in range(outputs)]
        attributes = {key: value for key, value in attributes.items() if value is not None}
        self.nodes.append(helper.make_node(operator, list(inputs), names, name=names[0] + "/node", **attributes))
        return names[0] if outputs == 1 else names

    def cast(self, x, to=TensorProto.FLOAT):
        return self.op("Cast", x, to=to)

    def axes(self, operator, x, axes, since, **attributes):
        """An operator whose axes became an input in the version `since`."""
        if axes is None or self.opset < since:
            return self.op(operator, x, axes=axes, **attributes)
        return self.op(operator, x, self.ints(*axes), **attributes)

    def reshape(self, x, *shape):
        return self.op("Reshape", x, self.ints(*shape))


class Case:
    """One network: `build(graph, image)` returns the name of the tensor under test."""

    def __init__(self, operator, label, opset, build, *, fixed=False, tolerance=None, shape=SHAPE, dtype=np.float32):
        self.operator, self.opset, self.fixed, self.tolerance, self.shape = operator, opset, fixed, tolerance, shape
        self.name = f"{operator}/{opset}/{label}"
        self.seed = zlib.crc32(f"{operator}/{label}".encode())
        graph = Graph(opset, self.seed)
        seen = build(graph, "image")
        parts = [graph.reshape(part, 1, -1) for part in (seen if isinstance(seen, list) else [seen])]
        colours = graph.reshape(graph.op("GlobalAveragePool", "image"), 1, shape[1])
        graph.nodes.append(helper.make_node("Concat", [*parts, colours], ["scores"], axis=1))
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        inputs = [helper.make_tensor_value_info("image", kind, shape)]
        outputs = [helper.make_tensor_value_info("scores", kind, None)]
        whole = helper.make_graph(graph.nodes, "case", inputs, outputs, graph.weights)
        self.model = helper.make_model(whole, opset_imports=[helper.make_opsetid("", opset)])
        self.model.ir_version = 8 if opset < 21 else 10
        self.describe(self.count())

    def count(self):
        """How many scores it gives, found out by running it."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        try:
            session = onnxruntime.InferenceSession(self.model.SerializeToString(), options)
            kind = np.float16 if "float16" in session.get_inputs()[0].type else np.float32
            return session.run(None, {"image": self.image().astype(kind)})[0].size
        except Exception:
            try:
                inferred = onnx.shape_inference.infer_shapes(self.model, data_prop=True)
                return inferred.graph.output[0].type.tensor_type.shape.dim[1].dim_value or 2
            except Exception:
                return 2

    def describe(self, scores):
        height, width = self.shape[2:]
        labels = [f"c{i}" for i in range(max(scores, 2))]
        spec = {"layout": "nchw", "width": width, "height": height, "resize": "stretch"}
        for key, value in [
            ("giemsa.labels", json.dumps(labels)),
            ("giemsa.input", json.dumps(spec)),
            ("giemsa.output", "logits"),
            ("giemsa.name", self.name),
            ("giemsa.version", "1"),
        ]:
            self.model.metadata_props.add(key=key, value=value)

    def image(self):
        return np.random.default_rng(self.seed).normal(0, 1.2, self.shape).astype(np.float32)

    def fixed_image(self):
        """A picture that a test in Rust can make as well."""
        index = np.arange(int(np.prod(self.shape)))
        # In 32 bits like the test, and beside every step at which a whole number is cut or rounded.
        values = (index * 7919 % 1000).astype(np.float32) / np.float32(500) - np.float32(0.9993)
        return values.reshape(self.shape)


def versions(operator):
    """The first opset of each version of an operator, and the newest of all."""
    found = {schema.since_version for schema in onnx.defs.get_all_schemas_with_history()
             if schema.name == operator and schema.domain == ""}
    first = min(found)
    return sorted({max(version, OLDEST) for version in found if version <= NEWEST} | {NEWEST} - ({NEWEST} if first > NEWEST else set()))


CASES = []


def case(operator, label="", since=OLDEST, until=NEWEST, fixed=None, tolerance=None, opsets=None, **more):
    """Registers `build(graph, image)` for each version of the operator; the newest of those marked is fixed."""

    def register(build):
        chosen = [v for v in (opsets or versions(operator)) if since <= v <= until]
        if since not in chosen and opsets is None and since > OLDEST:
            chosen.insert(0, since)
        for version in chosen:
            is_fixed = bool(fixed) and version == chosen[-1]
            CASES.append((operator, label or build.__name__, version, build, dict(fixed=is_fixed, tolerance=tolerance, **more)))
        return build

    return register


def all_cases():
    """Every case; none is left out silently."""
    import engine_architectures
    import engine_operators

    assert engine_operators and engine_architectures
    for operator, label, version, build, more in CASES:
        found = Case(operator, label, version, build, **more)
        yield found

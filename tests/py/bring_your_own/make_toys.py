"""Makes toy networks as users have them, pictures, and the probabilities that the frameworks give for these pictures.

    python tests/py/bring_your_own/make_toys.py OUT SAMPLE_IMAGE...

Writes OUT/<toy>/ with the files that the guide's lines name, OUT/images/, and OUT/expected.json:
{toy: {image: {"resampled": whether its size had to change, "probabilities": one for each label}}}.
It makes those of the frameworks that this Python has, Keras on PyTorch or else on TensorFlow, and OUT/refused/, which the
scripts must not take. It never uses Giemsa, nor the scripts that are tested.
It keeps one invariant: weights are random but seeded, and no network's answers are the same for all pictures.
"""

import importlib.util
import json
import os
import shutil
import sys
from pathlib import Path

HAS_TORCH = importlib.util.find_spec("torch") is not None
os.environ["KERAS_BACKEND"] = "torch" if HAS_TORCH else "tensorflow"

import keras
import numpy as np
import onnx
from keras import layers
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from pixels import colour_ramp, is_resampled, tensor

DATA = Path(__file__).parents[2] / "data" / "bring_your_own"
PLAIN = {"color": "rgb", "pad": [0, 0, 0], "scale": 1 / 255, "mean": [0, 0, 0], "std": [1, 1, 1]}
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


def softmax(logits):
    shifted = np.exp(logits - logits.max())
    return shifted / shifted.sum()


def shake(model, seed):
    """Random weights for everything, the statistics of batch normalisation too, which start as 0 and 1."""
    rng = np.random.default_rng(seed)
    model.set_weights([w + rng.uniform(0.05, 0.4, w.shape).astype("float32") for w in model.get_weights()])


def keras_functional(folder):
    """Scales pixels and augments by itself, ends in a softmax; wider than high."""
    entry = keras.Input((24, 36, 3))
    x = layers.RandomRotation(0.1)(layers.RandomFlip()(entry))
    x = layers.Rescaling(1 / 127.5, offset=-1)(x)
    x = layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False)(x)
    x = layers.BatchNormalization()(x)
    x = layers.Activation("silu")(x)
    y = layers.SeparableConv2D(8, 3, padding="same", activation="relu")(x)
    x = layers.MaxPooling2D()(layers.Add()([x, y]))
    x = layers.Dropout(0.3)(layers.GlobalAveragePooling2D()(x))
    model = keras.Model(entry, layers.Dense(3, activation="softmax")(x))
    rng = np.random.default_rng(1)
    shake(model, 1)
    model.layers[-1].set_weights([rng.normal(0, 1, (8, 3)), rng.normal(0, 0.1, 3)])
    model.save(folder / "model.keras")
    spec = PLAIN | {"width": 36, "height": 24, "resize": "fit", "scale": 1}
    return spec, lambda pixels: model.predict_on_batch(pixels)[0]


def keras_sequential(folder):
    """Architecture and weights apart; logits; a flattened picture, whose order of axes matters; dots in names."""
    model = keras.Sequential([
        keras.Input((26, 18, 3)),
        layers.Conv2D(6, 3, activation="relu", name="stem_conv"),
        layers.BatchNormalization(),
        layers.AveragePooling2D(2),
        layers.Flatten(),
        layers.Dense(2),
    ])
    rng = np.random.default_rng(2)
    shake(model, 2)
    model.layers[-1].set_weights([rng.normal(0, 0.05, (576, 2)), rng.normal(0, 0.1, 2)])
    # Only on TensorFlow can a layer have such a name.
    (folder / "architecture.json").write_text(model.to_json().replace("stem_conv", "stem.conv"))
    # A name that does not tell the form, as keys in buckets are.
    model.save_weights(folder / "w.weights.h5")
    (folder / "w.weights.h5").rename(folder / "weights.h5")
    spec = PLAIN | {"width": 18, "height": 26, "resize": "stretch"}
    return spec, lambda pixels: softmax(model.predict_on_batch(pixels)[0])


def keras_sigmoid(folder):
    """Grey pictures, one score for two labels; trained in 16 bits."""
    model = keras.Sequential([
        keras.Input((20, 28, 1)),
        layers.Conv2D(5, 3, padding="same", activation="relu"),
        layers.GlobalAveragePooling2D(),
        layers.Dense(1, activation="sigmoid"),
    ])
    rng = np.random.default_rng(3)
    model.set_weights([rng.normal(0, 1.6, w.shape) for w in model.get_weights()])
    config = json.loads(model.to_json())
    for layer in config["config"]["layers"]:
        layer["config"]["dtype"] = "mixed_float16"
    (folder / "architecture.json").write_text(json.dumps(config))
    model.save_weights(folder / "w.weights.h5")
    (folder / "w.weights.h5").rename(folder / "weights.h5")
    spec = PLAIN | {"width": 28, "height": 20, "resize": "crop", "color": "gray", "mean": [0], "std": [1]}

    def probabilities(pixels):
        second = float(model.predict_on_batch(pixels)[0, 0])
        return np.array([1 - second, second])

    return spec, probabilities


def of_keras_2(name, scale):
    """What make_keras2.py wrote; compared with Keras 2 itself, on its own four pictures."""
    def make(folder):
        for file in ("architecture.json", "weights.h5"):
            shutil.copyfile(DATA / name / file, folder / file)
        scores = iter(json.loads((DATA / name / "scores.json").read_text()))
        return PLAIN | {"width": 30, "height": 22, "resize": "fit", "scale": scale}, lambda pixels: next(scores)

    make.__name__ = name
    return make


def tutorial(name, application, prepare):
    """TensorFlow's own tutorial of transfer learning: `preprocess_input` inside of the network, augmentation before it."""
    def make(folder):
        base = application(weights=None, include_top=False, input_shape=(64, 64, 3))
        rng = np.random.default_rng(8)
        # Batch normalisation as after training: otherwise nothing of the image reaches the last layer.
        for layer in base.layers:
            if isinstance(layer, layers.BatchNormalization):
                layer.momentum = 0.0
        seen = np.stack([colour_ramp(64, 64, seed) for seed in range(8)] + [*rng.integers(0, 256, (8, 64, 64, 3))])
        base(prepare(seen.astype("float32")), training=True)
        entry = keras.Input((64, 64, 3))
        x = base(prepare(layers.RandomFlip("horizontal")(entry)), training=False)
        x = layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(x))
        model = keras.Model(entry, layers.Dense(2, activation="softmax")(x))
        kernel, bias = model.layers[-1].get_weights()
        model.layers[-1].set_weights([rng.normal(0, 3 / np.sqrt(kernel.shape[0]), kernel.shape), bias])
        model.save(folder / "model.keras")
        spec = PLAIN | {"width": 64, "height": 64, "resize": "stretch", "scale": 1}
        return spec, lambda pixels: model.predict_on_batch(pixels)[0]

    make.__name__ = f"tutorial_{name}"
    return make


def pytorch_module(folder):
    """A class of the user's own, in a script of his own."""
    (folder / "my_training.py").write_text('''
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, 12, 3, padding=1), nn.SiLU(), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Sequential(nn.Dropout(0.4), nn.Linear(12, 2))

    def forward(self, image):
        return self.head(self.body(image))


torch.manual_seed(4)
net = Net()
net.head[1].weight.data *= 8
net.body[1].running_mean.uniform_(-0.5, 0.5)
net.body[1].running_var.uniform_(0.5, 2)
''')
    sys.path.insert(0, str(folder))
    import my_training
    import torch

    net = my_training.net.eval()
    spec = PLAIN | IMAGENET | {"width": 64, "height": 48, "resize": "fit"}
    dynamic = {"image": {0: torch.export.Dim("batch")}}
    program = torch.export.export(net, (torch.zeros(2, 3, 48, 64),), dynamic_shapes=dynamic)
    torch.export.save(program, folder / "net.pt2")
    training = torch.export.export(my_training.Net().train(), (torch.zeros(1, 3, 48, 64),))
    torch.export.save(training, folder / "training.pt2")
    torch.save(net.state_dict(), folder / "weights_only.pt")

    def probabilities(pixels):
        with torch.no_grad():
            return softmax(net(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()))[0].numpy())

    return spec, probabilities


def any_onnx(folder):
    """From no framework: a network written by hand, whose scores are compared with arithmetic in numpy."""
    rng = np.random.default_rng(6)
    weights = {"k": rng.normal(0, 1, (3, 3, 1, 1)),
               "w": np.array([[3, -3], [-2, 2], [2, 1]]), "b": np.array([-0.5, 0.5])}
    weights = {name: value.astype(np.float32) for name, value in weights.items()}
    nodes = [
        helper.make_node("Conv", ["image", "k"], ["c"]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "w", "b"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes, "any", [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, None, None])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 2])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "any.onnx")
    spec = PLAIN | IMAGENET | {"width": 40, "height": 32, "resize": "crop"}

    def probabilities(pixels):
        mixed = np.maximum(pixels[0] @ weights["k"][:, :, 0, 0].T, 0).mean(axis=(0, 1))
        return softmax(mixed @ weights["w"] + weights["b"])

    return spec, probabilities


def refused(folder):
    """Files that the scripts refuse with a sentence, and some of other forms that they take."""
    entry = keras.Input((24, 36, 3))
    features = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(entry))
    heads = [layers.Dense(2, activation="softmax", name="kind")(features), layers.Dense(1, name="age")(features)]
    keras.Model(entry, heads).save(folder / "two_heads.keras")
    keras.Model(entry, heads[0]).save(folder / "plain.keras")
    scaled = layers.Rescaling(1 / 255)(entry)
    keras.Model(entry, layers.Dense(2, activation="softmax")(layers.Flatten()(scaled))).save(folder / "rescaling.keras")
    four = keras.Input((24, 36, 4))
    keras.Model(four, layers.Dense(2, activation="softmax")(layers.Flatten()(four))).save(folder / "four_channels.keras")
    code = keras.Sequential([entry, layers.Lambda(lambda x: x / 255), layers.Flatten(), layers.Dense(2)])
    code.save(folder / "lambda.keras")

    kinds = {"float": TensorProto.FLOAT, "half": TensorProto.FLOAT16, "uint8": TensorProto.UINT8}
    rng = np.random.default_rng(9)

    def graph(name, nodes, shapes, weights, kind="float", inputs=(), batch=1):
        tensors = [numpy_helper.from_array(value.astype(np.float16 if kind == "half" else np.float32), key)
                   for key, value in weights.items()]
        value = helper.make_tensor_value_info
        result = kinds["half" if kind == "half" else "float"]
        onnx.save(helper.make_model(helper.make_graph(
            nodes, name, [value("image", kinds[kind], [batch, 3, 8, 8]), *inputs],
            [value(key, result, shape) for key, shape in shapes.items()], tensors),
            opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / f"{name}.onnx")

    node = helper.make_node
    pool = [node("GlobalAveragePool", ["image"], ["p"]), node("Flatten", ["p"], ["f"])]
    gemm = node("Gemm", ["f", "w", "b"], ["scores"])
    head = {"w": rng.normal(0, 3, (3, 2)), "b": np.array([0.1, -0.1])}
    graph("batch_of_8", [*pool, gemm], {"scores": [8, 2]}, head, batch=8)
    graph("half", [*pool, gemm], {"scores": [1, 2]}, head, "half")
    graph("one_sigmoid", [*pool, node("Gemm", ["f", "w", "b"], ["z"]), node("Sigmoid", ["z"], ["scores"])],
          {"scores": [1, 1]}, {"w": head["w"][:, :1], "b": head["b"][:1]})
    graph("detector", [node("Reshape", ["image", "s"], ["r"]), node("MatMul", ["r", "m"], ["boxes"])],
          {"boxes": [1, 6, 5]}, {"m": rng.normal(0, 1, (32, 5))})
    model = onnx.load(folder / "detector.onnx")
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 6, 32]), "s"))
    onnx.save(model, folder / "detector.onnx")
    graph("segmenter", [node("Conv", ["image", "k"], ["mask"])], {"mask": [1, 2, 8, 8]}, {"k": rng.normal(0, 1, (2, 3, 1, 1))})
    graph("stray", [*pool, node("Add", ["f", "Sub/y:0"], ["g"]), node("Gemm", ["g", "w", "b"], ["scores"])],
          {"scores": [1, 2]}, head, inputs=[helper.make_tensor_value_info("Sub/y:0", TensorProto.FLOAT, [3])])
    graph("uint8", [node("Cast", ["image"], ["i"], to=TensorProto.FLOAT), node("Flatten", ["i"], ["f"]),
                    node("Gemm", ["f", "w"], ["scores"])], {"scores": [1, 2]}, {"w": rng.normal(0, 1, (192, 2))}, "uint8")
    graph("nan_outlier", [*pool, gemm, node("Gemm", ["f", "n"], ["outlier"])], {"scores": [1, 2], "outlier": [1, 1]},
          head | {"n": np.full((3, 1), np.nan)})
    graph("constant", [*pool, node("Gemm", ["f", "w", "b"], ["scores"])], {"scores": [1, 2]}, head | {"w": np.zeros((3, 2))})
    graph("divided", [node("Div", ["image", "d"], ["i"]), node("Conv", ["i", "k"], ["c"]),
                      node("GlobalAveragePool", ["c"], ["p"]), node("Flatten", ["p"], ["scores"])], {"scores": [1, 2]},
          {"d": np.array(255.0), "k": rng.normal(0, 1, (2, 3, 3, 3))})


# Compared on pixels that reach the network unchanged: Keras 2 saw no others, and deep networks with random weights make much
# of the one level by which resampling may differ.
OWN_ONLY = ("keras2", "tutorial")
APPLICATIONS = keras.applications
TOYS = [keras_functional, keras_sequential, keras_sigmoid, of_keras_2("keras2", 1 / 255),
        of_keras_2("keras2_sequential", 1 / 255), of_keras_2("keras2_preprocess", 1),
        tutorial("mobilenet", APPLICATIONS.MobileNetV2, APPLICATIONS.mobilenet_v2.preprocess_input), any_onnx]
if HAS_TORCH:
    TOYS.append(pytorch_module)
else:
    # Large, hence once only.
    TOYS += [tutorial("resnet", APPLICATIONS.ResNet50, APPLICATIONS.resnet50.preprocess_input),
             tutorial("densenet", APPLICATIONS.DenseNet121, APPLICATIONS.densenet.preprocess_input)]


def own_pictures(folder: Path, spec: dict) -> list[Path]:
    """Pictures whose pixels reach the network unchanged: of its size, or padded or cut only. Four of the size first."""
    width, height = spec["width"], spec["height"]
    sizes = [(width, height)] * 4
    if not folder.name.startswith("keras2"):
        sizes += {"stretch": [], "fit": [(width, height - 7), (width - 5, height)],
                  "crop": [(width + 9, height), (width, height + 7)]}[spec["resize"]]
    for seed, size in enumerate(sizes):
        Image.fromarray(colour_ramp(*size, seed)).save(folder / f"own-{seed}.png")
    return [folder / f"own-{seed}.png" for seed in range(len(sizes))]


def main():
    out, samples = Path(sys.argv[1]), [Path(path) for path in sys.argv[2:]]
    keras.utils.set_random_seed(7)
    common = out / "images"
    common.mkdir(parents=True)
    for seed, (width, height) in enumerate([(70, 41), (33, 90), (200, 150)]):
        Image.fromarray(colour_ramp(width, height, seed)).save(common / f"ramp-{seed}.png")
    for number, path in enumerate(samples):
        shutil.copyfile(path, common / f"cell-{number}{path.suffix}")
    expected = {}
    for make in TOYS:
        folder = out / make.__name__
        folder.mkdir()
        spec, probabilities = make(folder)
        paths = own_pictures(folder, spec) + ([] if make.__name__.startswith(OWN_ONLY) else sorted(common.iterdir()))
        rows = {}
        for path in paths:
            image = Image.open(path)
            scores = [float(p) for p in probabilities(tensor(image, spec))]
            rows[str(path.relative_to(out))] = {"resampled": is_resampled(image, spec), "probabilities": scores}
        spread = float(np.ptp([row["probabilities"] for row in rows.values()], axis=0).max())
        if not spread > 0.05:
            raise SystemExit(f"{make.__name__}: its probabilities differ by {spread:.3f} only: a weak test")
        expected[make.__name__] = rows
    (out / "refused").mkdir()
    refused(out / "refused")
    (out / "expected.json").write_text(json.dumps(expected, indent=1))


if __name__ == "__main__":
    main()

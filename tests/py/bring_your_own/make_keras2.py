"""Writes `keras2*/`: models as Keras 2 stored them, architecture and weights apart, and the scores that Keras 2 gave.

    pip install tensorflow-cpu==2.21.0 tf_keras==2.21.0
    python tests/py/bring_your_own/make_keras2.py

Run once; what it wrote is kept in the repository, because Keras 2 needs TensorFlow and its own package.
It keeps one invariant: `scores.json` is what Keras 2 itself computed from `colour_ramp` of pixels.py.
"""

import json
import sys
from pathlib import Path

import numpy as np
import tf_keras as keras
from tf_keras import layers

HERE = Path(__file__).parent
DATA = HERE.parents[1] / "data" / "bring_your_own"
WIDTH, HEIGHT = 30, 22


def functional():
    """What users' networks of that time have, and what Keras 3 or PyTorch stumbles over.

    Names with a dot, separable convolutions, batch normalisation with its axis as a list, leaky ReLUs, 16-bit training.
    """
    keras.mixed_precision.set_global_policy("mixed_float16")
    entry = layers.Input((HEIGHT, WIDTH, 3), name="cell.image")
    x = layers.Conv2D(6, 3, strides=2, padding="same", use_bias=False, name="stem.conv")(entry)
    x = layers.LeakyReLU(0.2)(layers.BatchNormalization()(x))
    y = layers.SeparableConv2D(6, 3, padding="same", name="s1.separable")(x)
    y = layers.BatchNormalization()(y)
    x = layers.Activation("relu")(layers.Add(name="s1.sum")([x, y]))
    x = layers.Flatten()(layers.MaxPooling2D()(x))
    x = layers.Dropout(0.5)(x)
    model = keras.Model(entry, layers.Dense(3, activation="softmax", dtype="float32")(x))
    keras.mixed_precision.set_global_policy("float32")
    return model


def sequential():
    return keras.Sequential([
        layers.Conv2D(6, 3, padding="same", input_shape=(HEIGHT, WIDTH, 3)), layers.BatchNormalization(),
        layers.Activation("relu"), layers.MaxPooling2D(), layers.Dropout(0.25), layers.Flatten(),
        layers.Dense(8, activation="relu"), layers.Dropout(0.5), layers.Dense(3, activation="softmax")])


def preprocess():
    """Operators between layers, as TensorFlow's tutorial of transfer learning has them."""
    entry = layers.Input((HEIGHT, WIDTH, 3))
    x = keras.applications.mobilenet_v2.preprocess_input(entry)
    y = keras.applications.resnet50.preprocess_input(entry) / 127.5
    x = layers.DepthwiseConv2D(3, activation="relu")(x + 0.5 * y)
    x = layers.Flatten()(layers.MaxPooling2D(4)(x))
    return keras.Model(entry, layers.Dense(3, activation="softmax")(x))


def as_in_2_0(text):
    """The list of layers that a Sequential was up to 2.2.2, without an entry for the input."""
    config = json.loads(text)
    shape = config["config"]["layers"][0]["config"]["batch_input_shape"]
    config["config"] = [{"class_name": layer["class_name"], "config": layer["config"]}
                        for layer in config["config"]["layers"] if layer["class_name"] != "InputLayer"]
    config["config"][0]["config"]["batch_input_shape"] = shape
    config["keras_version"] = "2.0.6"
    return json.dumps(config)


def write(name, make, scale, stored=str, span=(0.01, 0.3)):
    """`scale` of the pixels of 0 to 255; `stored` makes the file's text of to_json(); `span` of what weights gain."""
    trained = make()
    rng = np.random.default_rng(5)
    trained.set_weights([w + rng.uniform(*span, w.shape).astype("float32") for w in trained.get_weights()])
    out = DATA / name
    out.mkdir(exist_ok=True)
    (out / "architecture.json").write_text(stored(trained.to_json()) + "\n")
    trained.save_weights(out / "weights.h5")

    # The scores in 32-bit floats, as they are when it serves.
    exact = keras.models.model_from_json(trained.to_json().replace("mixed_float16", "float32"))
    exact.load_weights(out / "weights.h5")
    images = np.stack([colour_ramp(WIDTH, HEIGHT, seed) for seed in range(4)]).astype("float32") * np.float32(scale)
    scores = exact.predict(images, verbose=0).astype(float)
    print(name, scores)
    assert np.ptp(scores, axis=0).max() > 0.05, "scores hardly depend on the image: a weak test"
    (out / "scores.json").write_text(json.dumps(scores.tolist()) + "\n")


if __name__ == "__main__":
    sys.path.insert(0, str(HERE))
    from pixels import colour_ramp

    keras.utils.set_random_seed(3)
    write("keras2", functional, 1 / 255)
    write("keras2_sequential", sequential, 1 / 255, as_in_2_0, (0, 0.05))
    write("keras2_preprocess", preprocess, 1, span=(-0.1, 0.1))

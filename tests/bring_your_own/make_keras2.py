"""Writes `keras2/`: a model as Keras 2 stored it, architecture and weights apart, and the scores that Keras 2 gave.

    pip install tensorflow-cpu==2.21.0 tf_keras==2.21.0
    python tests/bring_your_own/make_keras2.py

Run once; what it wrote is kept in the repository, because Keras 2 needs TensorFlow and the tests do without.
It keeps one invariant: `scores.json` is what Keras 2 itself computed from `colour_ramp` of pixels.py.
"""

import json
import sys
from pathlib import Path

import numpy as np
import tf_keras as keras
from tf_keras import layers

OUT = Path(__file__).parent / "keras2"
WIDTH, HEIGHT = 30, 22


def main():
    sys.path.insert(0, str(OUT.parent))
    from pixels import colour_ramp

    keras.utils.set_random_seed(3)
    # What users' networks of that time have, and what Keras 3 or PyTorch stumbles over: names with a dot, separable
    # convolutions, batch normalisation with its axis as a list, leaky ReLUs, 16-bit training.
    keras.mixed_precision.set_global_policy("mixed_float16")
    entry = layers.Input((HEIGHT, WIDTH, 3), name="cell.image")
    x = layers.Conv2D(6, 3, strides=2, padding="same", use_bias=False, name="stem.conv")(entry)
    x = layers.LeakyReLU(0.2)(layers.BatchNormalization()(x))
    y = layers.SeparableConv2D(6, 3, padding="same", name="s1.separable")(x)
    y = layers.BatchNormalization()(y)
    x = layers.Activation("relu")(layers.Add(name="s1.sum")([x, y]))
    x = layers.Flatten()(layers.MaxPooling2D()(x))
    x = layers.Dropout(0.5)(x)
    trained = keras.Model(entry, layers.Dense(3, activation="softmax", dtype="float32")(x))
    rng = np.random.default_rng(5)
    trained.set_weights([w + rng.uniform(0.01, 0.3, w.shape).astype("float32") for w in trained.get_weights()])
    OUT.mkdir(exist_ok=True)
    (OUT / "architecture.json").write_text(trained.to_json() + "\n")
    trained.save_weights(OUT / "weights.h5")

    # The scores in 32-bit floats, as they are when it serves.
    plain = json.loads(trained.to_json())
    exact = keras.models.model_from_json(json.dumps(plain).replace("mixed_float16", "float32"))
    exact.load_weights(OUT / "weights.h5")
    images = np.stack([colour_ramp(WIDTH, HEIGHT, seed) for seed in range(4)]).astype("float32") / 255
    scores = exact.predict(images, verbose=0).astype(float)
    print(scores)
    assert np.ptp(scores, axis=0).max() > 0.05, "scores hardly depend on the image: a weak test"
    (OUT / "scores.json").write_text(json.dumps(scores.tolist()) + "\n")


if __name__ == "__main__":
    main()

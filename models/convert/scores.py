"""Runs networks on pictures: whether scores are what they are said to be, and whether two programs give the same ones.

It never repairs scores. It keeps one invariant: every tensor that a network is asked is one that an image can give.
"""

import numpy as np
import onnx
import onnxruntime

import proof
from refusal import Refused, reason

# Of a probability, or of logits in parts of the largest.
TOLERANCE = 1e-4
# As crates/model/src/network/probe.rs: far above rounding of 32-bit floats, far below what a missing softmax makes.
SUM_TOLERANCE = 1e-3
SAME = 1e-6
PROOF_PICTURES = 4
# Operators that move or round scores, behind which the one stands that makes them.
PASSES = {"Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Cast", "QuantizeLinear",
          "DequantizeLinear"}


class Runner:
    """Runs an ONNX model on one image at a time; gives its outputs in their order."""

    def __init__(self, content: bytes):
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # What it prints of errors it also raises.
        try:
            self.session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise Refused(f"onnxruntime cannot load the graph: {reason(error)}") from error

    def __call__(self, tensor: np.ndarray) -> list[np.ndarray]:
        try:
            found = self.session.run(None, {self.session.get_inputs()[0].name: tensor})
        except Exception as error:
            raise Refused(f"the graph cannot be run on an input of the shape {list(tensor.shape)}: {reason(error)}. Was "
                          f"it exported for another size, or for a batch of more than one?") from error
        return [np.asarray(value) for value in found]


def pictures(spec: dict) -> list[np.ndarray]:
    """Pictures of the input's size, uint8 [height, width, channels]: cells, their faded copies, blocks, noise, uniform."""
    width, height, is_gray = spec["width"], spec["height"], spec["color"] == "gray"
    channels = 1 if is_gray else 3
    rng = np.random.default_rng(7)
    cells = proof.pictures(width, height, is_gray, PROOF_PICTURES)
    blocks = rng.integers(0, 256, (2, 4, 4, channels)).astype(np.uint8)
    rows, columns = np.arange(height) * 4 // height, np.arange(width) * 4 // width
    made = cells + [_faded(picture, 8) for picture in cells]
    made += [block[rows][:, columns] for block in blocks]
    made.append(rng.integers(0, 256, (height, width, channels)).astype(np.uint8))
    made += [np.full((height, width, channels), level, np.uint8) for level in (0, 128, 255)]
    return made


def _faded(picture: np.ndarray, times: int) -> np.ndarray:
    """The same picture with less contrast: networks that overflow with strong colours can be compared on it."""
    return (128 + (picture.astype(np.float64) - 128) / times).round().astype(np.uint8)


def check(model: onnx.ModelProto, rows: list[list[np.ndarray]], output: str) -> None:
    """Refuses scores that are not what `output` says; `rows`: what the graph gave for each of `pictures`."""
    scores = np.stack([row[0].ravel() for row in rows]).astype(np.float64)
    for name, values in [("scores", scores)] + [
            ("an outlier score", np.stack([row[1].ravel() for row in rows])) for _ in rows[0][1:2]]:
        if not np.isfinite(values).all():
            bad = values[~np.isfinite(values).all(axis=1)][0].tolist()
            raise Refused(f"the network gives {name} of {_shown(bad)} on a generated image; expected finite numbers. "
                          f"Are there NaN or infinite weights in it, or do scale, mean and std not fit it?")
        if name != "scores" and values.shape[1] != 1:
            raise Refused(f"the output outlier has {values.shape[1]} numbers for an image; expected one")
    count, last = scores.shape[1], ending(model)
    is_share = (scores > -SUM_TOLERANCE) & (scores < 1 + SUM_TOLERANCE)
    quantised = any("Quantize" in node.op_type for node in model.graph.node)
    allowed = min(max(count / 256, 0.01), 0.1) if quantised else SUM_TOLERANCE
    distances = np.abs(scores.sum(axis=1) - 1)
    furthest = int(distances.argmax())
    if output == "probabilities":
        if not is_share.all():
            row = scores[~is_share.all(axis=1)][0]
            raise Refused(f"output is probabilities, but the scores of a generated image are {_shown(row)}; expected "
                          f"numbers of 0 to 1. If they come before a softmax or sigmoid, say logits")
        if count > 1 and (np.abs(scores - 1) < SAME).all():
            raise Refused(f"each of the {count} scores is 1 for every image: the softmax runs over an axis of length 1; "
                          f"give it the axis of the labels, and export the network again")
        if count > 1 and distances[furthest] > allowed:
            raise Refused(f"output is probabilities, but the scores {_shown(scores[furthest])} of a generated image sum "
                          f"to {scores[furthest].sum():.4f}; expected numbers of 0 to 1 that sum to 1. If they come "
                          f"before a softmax, say logits; independent sigmoids are not supported: train with a softmax")
    else:
        if last in ("Softmax", "Sigmoid"):
            way_out = "say probabilities" if count == 1 or last == "Softmax" else \
                "independent sigmoids are not supported: train with a softmax"
            raise Refused(f"output is logits, but the graph ends in {last}, and a second softmax would flatten what it "
                          f"gives; {way_out}")
        if count > 1 and is_share.all() and distances[furthest] <= allowed:
            raise Refused(f"output is logits, but the scores of each generated image sum to 1, e.g. "
                          f"{_shown(scores[0])}: they are probabilities, and a second softmax would flatten them; say "
                          f"probabilities")
    saturated = (np.minimum(np.abs(scores), np.abs(scores - 1)) < SAME).all()
    if (np.ptp(scores, axis=0) <= SAME * np.abs(scores).max()).all():
        if output == "probabilities" and saturated:
            print(f"note: the scores of all generated images are {_shown(scores[0])}; do scale, mean and std fit the "
                  f"network?")
        else:
            raise Refused(f"the network gives the scores {_shown(scores[0])} whatever it sees. It was never trained, its "
                          f"weights are damaged, or scale, mean and std do not fit it")


def ending(model: onnx.ModelProto) -> str | None:
    """The operator that the scores come from."""
    makers = {name: node for node in model.graph.node for name in node.output}
    node = makers.get(model.graph.output[0].name)
    while node is not None and node.op_type in PASSES:
        node = makers.get(node.input[0])
    return node.op_type if node is not None else None


def compare(framework, run: Runner, tensors: list[np.ndarray], output: str) -> dict[int, list[np.ndarray]]:
    """Compares the framework's scores with the exported graph's; gives the framework's, by the tensor's number.

    `framework` gives a list of arrays for a tensor: scores, and maybe an outlier score. Some networks with weights of
    great size answer a change in the seventh digit of a pixel with another score; on such images nothing can be
    compared, as each program rounds in its own way.
    """
    worst, stable, moved = 0.0, {}, 0.0
    for number, tensor in enumerate(tensors):
        own = framework(tensor)
        if number == 0 and any((first != again).any() for first, again in zip(own, framework(tensor))):
            raise Refused(f"the framework gives other scores each time for generated image {number}: "
                          f"{_shown(own[0].ravel())} and then others. Something in it is random, or in training mode "
                          f"(dropout): switch it to inference, net.eval() or training=False")
        difference = _difference(own, run(tensor), output)
        if difference <= TOLERANCE:
            stable[number] = own
            worst = max(worst, difference)
            continue
        signs = np.where(np.arange(tensor.size).reshape(tensor.shape) % 2, 1, -1)
        rounding = _difference(own, framework((tensor * (1 + 1e-6 * signs)).astype(np.float32)), output)
        moved = max(moved, rounding)
        if not difference <= 20 * rounding:
            raise Refused(f"on generated image {number} the framework's scores are {_shown(own[0].ravel())}, those of "
                          f"the exported file {_shown(run(tensor)[0].ravel())}: they differ by {difference:.2g}, expected "
                          f"at most {TOLERANCE}. The export computes something else; try another version of the "
                          f"framework")
    if len(stable) < len(tensors) / 4:
        raise Refused(f"the network's own scores change by {moved:.2g} if pixels change in their seventh digit, so that "
                      f"rounding decides what it answers; its weights are damaged or it was never trained")
    print(f"scores of the framework and of the file differ by {worst:.1g} at most (allowed: {TOLERANCE})")
    if len(stable) < len(tensors):
        print(f"note: {len(tensors) - len(stable)} of {len(tensors)} generated images were left out, as the network's own "
              f"scores for them change by {moved:.2g} with the last digits of the pixels")
    return stable


def _difference(own: list[np.ndarray], other: list[np.ndarray], output: str) -> float:
    if [value.size for value in own] != [value.size for value in other]:
        return float("inf")
    pairs = [(a.ravel().astype(np.float64), b.ravel().astype(np.float64)) for a, b in zip(own, other)]
    if output == "probabilities" and pairs[0][0].size > 1:
        # A softmax that is sure of itself gives 1 and numbers near 0, whose logarithms still follow the network.
        seen = np.minimum(*pairs[0]) > 1e-30
        pairs.append(tuple(np.log(values[seen]) for values in pairs[0]))
    # Of large logits the last digits differ.
    return max(float(np.abs(a - b).max(initial=0) / max(1.0, np.abs(a).max(initial=0))) for a, b in pairs)


def make_proof(found: list[tuple[np.ndarray, list[np.ndarray]]], by: str) -> str:
    """`giemsa.proof` of pictures and what `by` gave for each of them."""
    for count in range(PROOF_PICTURES, 0, -1):
        chosen = found[:count]
        outliers = [row[1] for _, row in chosen] if len(found[0][1]) > 1 else None
        try:
            return proof.proof([picture for picture, _ in chosen], [row[0] for _, row in chosen], by, outliers)
        except ValueError as error:
            problem = error  # Pictures of a large input take more than a proof may: fewer of them.
    raise Refused(f"giemsa.proof cannot be made: {problem}")


def _shown(values) -> str:
    values = [round(float(value), 4) for value in values]
    return f"[{', '.join(map(str, values[:8]))}{f', … {len(values)} in all' if len(values) > 8 else ''}]"

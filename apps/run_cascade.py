"""Runs the files that `lite_cascade` wrote, image by image, and stops at the first sure exit.

    python run_cascade.py FOLDER images.npy

prints class, confidence and exit of each raw image of the array `(n, height, width, channels)`.
It needs NumPy and ai-edge-litert alone, neither TensorFlow nor sd_keras: copy it to where the
files go, or read it before writing the same in Kotlin, Swift or C++.
"""

import json
import math
import pathlib
import re
import sys

import numpy as np

RULES = ("max_probability", "entropy", "margin", "agreement")


class Cascade:
    """The sections of a folder and the policy by which an image leaves."""

    def __init__(self, folder, num_threads=1):
        from ai_edge_litert.interpreter import Interpreter

        folder = pathlib.Path(folder)
        self.content = content_of(folder / "cascade.json")
        self.runners = []
        for section in self.content["sections"]:
            interpreter = Interpreter(str(folder / section["file"]), num_threads=num_threads)
            runner = interpreter.get_signature_runner(section["signature"])
            if not {section["logits"], *section["handed_on"]} <= set(runner.get_output_details()):
                raise ValueError(f"{section['file']} is not the file that cascade.json describes")
            self.runners.append(runner)

    def classify(self, image):
        """Returns class number, confidence and exit (1 for exit_1) of one raw image."""
        policy, earlier = self.content["policy"], []
        tensors = {"image": image[None].astype(self.content["image"]["dtype"])}
        for index, section in enumerate(self.content["sections"]):
            outputs = self.runners[index](**tensors)
            logits = outputs[section["logits"]][0].astype("float64")
            if not np.isfinite(logits).all():  # no answer, and no rule is sure of it
                raise ValueError(f"{section['file']} answers logits that are not finite")
            sure = confidence(policy["rule"], logits / policy["temperatures"][index], earlier)
            earlier.append(int(logits.argmax()))
            if index + 1 == len(self.runners):  # the deepest exit takes all
                break
            threshold = policy["thresholds"][index]
            if threshold is not None and sure >= threshold:
                break
            tensors = {name: outputs[name] for name in section["handed_on"]}
        return earlier[-1], sure, index + 1


def confidence(rule, logits, earlier):
    """How sure an exit is, by a rule of `sd_keras.inference.RULES`."""
    if rule == "agreement":  # exits in a row, right before this one, that said the same
        others = [said != logits.argmax() for said in reversed(earlier)]
        return others.index(True) if True in others else len(others)
    p = np.exp(logits - logits.max())
    p /= p.sum()
    if rule == "entropy":
        nats = (p[p > 0] * np.log(p[p > 0])).sum()
        return min(max(1 + nats / math.log(len(p)), 0.0), 1.0)
    second, first = np.partition(p, -2)[-2:]
    return {"max_probability": first, "margin": first - second}[rule]


def content_of(path):
    """Returns what cascade.json says; raises ValueError if that cannot be run."""
    try:
        content = json.loads(path.read_text("utf-8"))
        policy, sections, names = (content[key] for key in ("policy", "sections", "class_names"))
        _check_numbers(len(sections), policy["thresholds"], policy["temperatures"])
        np.dtype(content["image"]["dtype"])
        texts = [policy["rule"], *(names or [])]
        for section in sections:
            texts += [section["signature"], section["logits"], *section["handed_on"]]
            # A path could name any file of the machine.
            if not re.fullmatch(r"\w[\w.-]*", section["file"]):
                raise ValueError(f"`file` must name a file of the folder: {section['file']!r}")
        if policy["rule"] not in RULES or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"`rule` must be one of {RULES}, and names must be texts")
        if not all(type(size) is int for size in content["image"]["shape"]):
            raise ValueError("`shape` must hold integers")
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is not what lite_cascade wrote: {error!r}") from None
    return content


def _check_numbers(exits, thresholds, temperatures):
    numbers = [value for value in thresholds if value is not None] + temperatures
    counts = [len(thresholds), len(temperatures)]
    if (
        counts != [exits - 1, exits]
        or not all(type(number) in (int, float) and 0 <= number < 1e300 for number in numbers)
        or 0 in temperatures
    ):
        raise ValueError(
            f"it must hold {exits - 1} `thresholds`, numbers or null, one for each exit but the "
            f"deepest, and {exits} `temperatures`. "
            f"Received: thresholds={thresholds}, temperatures={temperatures}"
        )


def images_of(path, wanted):
    """Returns the images of a file; raises ValueError unless they are as cascade.json wants."""
    try:
        images = np.load(path, allow_pickle=False)
        shape = images.shape
    except (ValueError, EOFError, AttributeError) as error:
        raise ValueError(f"{path} must be one array in a .npy file: {error}") from None
    if list(shape[1:]) != wanted["shape"] or images.dtype.kind not in "uif":
        raise ValueError(
            f"{path} must hold images (n, {', '.join(map(str, wanted['shape']))}) of raw pixels, "
            f"0…255. Received: shape {shape}, {images.dtype}"
        )
    if len(images) and not (images.min() >= 0 and images.max() <= 255):
        raise ValueError(
            f"{path} must hold raw pixels, 0…255. Received: {images.min()} to {images.max()}"
        )
    return images


def main(folder, images):
    """Prints one line per image."""
    cascade = Cascade(folder)
    names = cascade.content["class_names"]
    for image in images_of(images, cascade.content["image"]):
        winner, sure, exit_number = cascade.classify(image)
        name = names[winner] if names else str(winner)
        print(f"{printable(name)}\t{sure:.6f}\texit_{exit_number}")


def printable(text):
    """Returns a text with its control characters escaped."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


if __name__ == "__main__":
    if len(sys.argv) != 3 or {"-h", "--help"} & set(sys.argv):
        print(__doc__)
        sys.exit(0 if {"-h", "--help"} & set(sys.argv) else 1)
    try:
        main(*sys.argv[1:])
    except ImportError as error:
        sys.exit(f"error: {error}; pip install ai-edge-litert")
    except (ValueError, IndexError, OSError, RuntimeError) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")

"""A trained network as a chain of LiteRT files, so that a small machine can stop at any exit."""

import numpy as np

from sd_keras.checkpoints import write_json
from sd_keras.export.lite_conversion import Options, convert, try_out
from sd_keras.export.parts import (
    check_class_names,
    check_machine,
    check_policy,
    image_shape,
    inference_form,
    new_path,
    written_aside,
)
from sd_keras.inference import Policy
from sd_keras.models.exits import exit_names
from sd_keras.models.sections import sections


def lite_cascade(
    network,
    folder,
    precision="float32",
    policy=None,
    representative=None,
    class_names=None,
    batch=1,
):
    """Writes one LiteRT file per section, to be run one after the other until an exit is sure.

    `section_1.tflite` takes `image` and returns `logits` `(n, classes)` of exit 1 and tensors
    `handed_on_1`, …; each other section takes what the one before it handed on, float32.
    `cascade.json` tells files, tensors, shapes, policy and class names. `apps/run_cascade.py`
    runs the folder with NumPy and ai-edge-litert alone.

    Args:
        network, precision, representative: as `lite`.
        folder: folder to create; it appears whole or not at all.
        policy: a `sd_keras.inference.Policy`, when an image leaves; None for none before the
            deepest exit, till thresholds are written into `cascade.json`.
        class_names: one name per class; None for none.
        batch: number of images in a call, 1 for early exit; None for any, see `lite`.

    Raises:
        ValueError, FileExistsError: for an argument that does not fit; if `folder` exists.
        ImportError, RuntimeError: as `lite`.
    """
    check_machine("lite_cascade", "lite")
    folder = _new_folder(folder)
    options = Options(image_shape(network), precision, representative, batch)
    names = exit_names(network)
    check_policy(policy, len(names))
    if class_names is not None:
        class_names = check_class_names(class_names, network.output[names[-1]].shape[-1])
    policy = policy or Policy("max_probability", [None] * (len(names) - 1))
    content = {
        "image": {"shape": list(image_shape(network)), "dtype": options.image_type},
        "policy": policy.to_dict(),
        "class_names": class_names,
        "sections": [],
    }
    _write(folder, content, _files(network, options))


def _write(folder, content, files):
    """Writes cascade.json and the files of all sections, or nothing."""
    with written_aside(folder) as aside:
        aside.mkdir()
        for entry, data in files:
            content["sections"].append(entry)
            (aside / entry["file"]).write_bytes(data)
        write_json(aside / "cascade.json", content)


def _files(network, options):
    """Yields each section's entry in cascade.json and its LiteRT file."""
    given, samples = {"image": options.probe}, options.samples()
    specifications = options.specifications()
    for name, section in zip(exit_names(network), sections(inference_form(network))):
        endpoint = (_function(section), specifications)
        data = convert({name: endpoint}, options.precision, samples)
        try_out(data, {name: endpoint}, given, options.precision)
        handed_on = _handed_on(section, options.batch)
        yield _entry(name, specifications, handed_on), data
        given = _next_inputs(endpoint, given, handed_on)
        samples = [_next_inputs(endpoint, sample, handed_on) for sample in samples]
        specifications = handed_on


def _function(section):
    """Returns the function of a section: tensors in, a dict of named tensors out."""
    is_first = not isinstance(section.input, (list, tuple))

    def run(*tensors):
        outputs = section(tensors[0] if is_first else list(tensors), training=False)
        numbered = enumerate(outputs["handed_on"], start=1)
        return {"logits": outputs["logits"]} | {f"handed_on_{i}": t for i, t in numbered}

    return run


def _handed_on(section, batch):
    """Returns what the next section takes, as tensor specifications."""
    import tensorflow as tf

    return [
        tf.TensorSpec((batch, *tensor.shape[1:]), tensor.dtype, name=f"handed_on_{index}")
        for index, tensor in enumerate(section.output["handed_on"], start=1)
    ]


def _next_inputs(endpoint, inputs, handed_on):
    function, specifications = endpoint
    outputs = function(*(inputs[spec.name] for spec in specifications))
    return {spec.name: np.asarray(outputs[spec.name]) for spec in handed_on}


def _entry(name, inputs, handed_on):
    """Returns what cascade.json says of a section; shapes without the batch."""
    return {
        "exit": name,
        "file": f"section_{name.removeprefix('exit_')}.tflite",
        "signature": name,
        "inputs": [{"name": spec.name, "shape": list(spec.shape[1:])} for spec in inputs],
        "logits": "logits",
        "handed_on": [spec.name for spec in handed_on],
    }


def _new_folder(folder):
    try:
        return new_path(folder)
    except FileExistsError:
        raise FileExistsError(
            f"`folder` must not exist yet. Received: folder={str(folder)!r}"
        ) from None

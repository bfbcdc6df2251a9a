"""Texts of the files with which servers are started on an export.

Nothing here runs a server; each function returns the text of one file.
"""

import json
import re
import shlex

# TF Serving's names of its fields, in the order in which they are written.
BATCHING = ("max_batch_size", "batch_timeout_micros", "max_enqueued_batches", "num_batch_threads")


def models_config(model_name, base_path, versions=1, labels=None):
    """Returns a ModelServerConfig: `tensorflow_model_server --model_config_file=…`.

    Args:
        model_name: by which clients ask for it.
        base_path: folder of the numbered versions, absolute, as the server sees it.
        versions: serve the so many highest (int), or exactly these (list of ints).
        labels: version numbers by label, for instance `{"stable": 1}`. The server takes a
            label only for a version that is already loaded, unless it is started with
            `--allow_version_labels_for_unavailable_models`.

    Raises:
        ValueError: on a name that a REST address cannot hold, a relative path, no versions.
    """
    _check_name(model_name)
    if not re.match(r"/|\w+://", str(base_path)):
        raise ValueError(f"`base_path` must be absolute. Received: {str(base_path)!r}")
    if isinstance(versions, int):
        if versions < 1:
            raise ValueError(f"`versions` must be at least 1. Received: {versions}")
        policy = f"latest {{ num_versions: {versions} }}"
    elif versions:
        policy = f"specific {{ {' '.join(f'versions: {int(number)}' for number in versions)} }}"
    else:
        raise ValueError(f"`versions` must name at least one. Received: {versions!r}")
    label_lines = "".join(
        f"    version_labels {{ key: {_text(label)} value: {int(number)} }}\n"
        for label, number in (labels or {}).items()
    )
    return f"""model_config_list {{
  config {{
    name: {_text(model_name)}
    base_path: {_text(base_path)}
    model_platform: "tensorflow"
    model_version_policy {{ {policy} }}
{label_lines}  }}
}}
"""


def batching_config(
    max_batch_size=32,
    batch_timeout_micros=2000,
    max_enqueued_batches=128,
    num_batch_threads=4,
    allowed_batch_sizes=None,
):
    """Returns BatchingParameters: `--enable_batching --batching_parameters_file=…`.

    The server then joins requests of several clients, along the first dimension. Every
    signature's inputs and outputs have the images there, `thresholds` too, so each client
    keeps its own. A request waits at most `batch_timeout_micros` microseconds for others; one
    that finds `max_enqueued_batches` waiting is refused as UNAVAILABLE. With
    `allowed_batch_sizes` (ascending, the last equal to `max_batch_size`) batches are filled
    up to one of those, which keeps the number of shapes down on accelerators.

    Raises:
        ValueError: on a number below 1 (the time: below 0), or sizes that do not end so.
    """
    values = (max_batch_size, batch_timeout_micros, max_enqueued_batches, num_batch_threads)
    for name, value in zip(BATCHING, values):
        lowest = 0 if name == "batch_timeout_micros" else 1
        if not isinstance(value, int) or value < lowest:
            raise ValueError(f"`{name}` must be an integer from {lowest} on. Received: {value!r}")
    lines = [f"{name} {{ value: {value} }}" for name, value in zip(BATCHING, values)]
    if allowed_batch_sizes is not None:
        sizes = list(allowed_batch_sizes)
        if not sizes or sizes != sorted(set(sizes)) or sizes[-1] != max_batch_size or sizes[0] < 1:
            raise ValueError(
                "`allowed_batch_sizes` must ascend to `max_batch_size`. Received: "
                f"{sizes}, max_batch_size={max_batch_size}"
            )
        lines += [f"allowed_batch_sizes: {size}" for size in sizes]
    return "\n".join(lines) + "\n"


def kserve_manifest(model_name, storage_uri, cpu="2", memory="4Gi", runtime_version=None):
    """Returns an InferenceService manifest: `kubectl apply -f …`.

    Not run: no cluster was at hand. KServe starts TF Serving in its own runtime, which listens
    for REST on port 8080 (gRPC, on 9000, is not opened by this manifest).

    Args:
        model_name: of the service, and the name by which clients ask for the model.
        storage_uri: folder of the numbered versions, for instance `pvc://models/digits`.
        cpu: cores that are asked for and not exceeded, as Kubernetes writes them.
        memory: likewise.
        runtime_version: tag of the tensorflow/serving image; None for that of the cluster's
            runtime, which may be much older than the TensorFlow that wrote the export.

    Raises:
        ValueError: on a name that Kubernetes refuses, or a uri without a scheme.
    """
    if not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", model_name):
        raise ValueError(
            "`model_name` must be up to 63 lower-case letters, digits and inner hyphens. "
            f"Received: {model_name!r}"
        )
    if not re.match(r"\w+://.", storage_uri):
        raise ValueError(f"`storage_uri` must have a scheme. Received: {storage_uri!r}")
    version = f"\n      runtimeVersion: {_text(runtime_version)}" if runtime_version else ""
    return f"""apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: {_text(model_name)}
spec:
  predictor:
    model:
      modelFormat:
        name: tensorflow{version}
      storageUri: {_text(storage_uri)}
      resources:
        requests: {{cpu: {_text(cpu)}, memory: {_text(memory)}}}
        limits: {{cpu: {_text(cpu)}, memory: {_text(memory)}}}
"""


def docker_command(model_name, base_path, configs=None, image="tensorflow/serving"):
    """Returns the command that serves `base_path` by TF Serving in a container.

    Not run: no container could be started here. The ports are open to this machine only, as
    TF Serving asks nobody who they are.

    Args:
        model_name: by which clients ask for it.
        base_path: folder of the numbered versions on the host, absolute.
        configs: folder with `models.config` and `batching.config`, written with
            `base_path=/models/MODEL_NAME`, which is where the container sees the model.
        image: of the container; pin a version of TensorFlow 2.20 or newer.
    """
    _check_name(model_name)
    inside = f"/models/{model_name}"
    parts = [
        "docker run --rm -p 127.0.0.1:8500:8500 -p 127.0.0.1:8501:8501",
        f"--mount type=bind,source={_quoted(base_path)},target={inside},readonly",
    ]
    if configs is None:
        parts += [f"-e MODEL_NAME={model_name} {shlex.quote(image)}"]
    else:
        parts += [
            f"--mount type=bind,source={_quoted(configs)},target=/configs,readonly",
            f"{shlex.quote(image)} --model_config_file=/configs/models.config",
            "--enable_batching --batching_parameters_file=/configs/batching.config",
        ]
    return " \\\n  ".join(parts) + "\n"


def _check_name(model_name):
    if not re.fullmatch(r"[\w.-]+", model_name, re.ASCII):
        raise ValueError(
            f"`model_name` must be letters, digits, `_`, `.` and `-`. Received: {model_name!r}"
        )


def _text(value):
    """A quoted string that protocol buffer text and YAML both read."""
    return json.dumps(str(value), ensure_ascii=False)


def _quoted(path):
    """Refuses what the shell or --mount would take apart."""
    if not re.fullmatch(r"/[\w/.:@%+=-]*", str(path)):
        raise ValueError(
            "paths must be absolute, of letters, digits and _ . : @ % + = - only. "
            f"Received: {str(path)!r}"
        )
    return str(path)

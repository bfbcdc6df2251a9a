"""Training on several devices: strategies by name, who writes, synchronised normalisation."""

import json
import os

import keras

from sd_keras import keras_internals
from sd_keras.keras_internals import tensorflow as tf

STRATEGIES = ("none", "mirrored", "multi_worker", "tpu")


def strategy(name):
    """Makes a `tf.distribute` strategy; network, model and `compile` belong into its `scope()`.

    Args:
        name: `"none"` (TensorFlow's default strategy), `"mirrored"` (all devices of this
            machine), `"multi_worker"` (all workers that the environment variable TF_CONFIG
            lists; waits for them), or `"tpu"` (not tried by us).

    Raises:
        ValueError: for another name, another backend, or a TF_CONFIG that does not fit.
    """
    if name not in STRATEGIES:
        raise ValueError(f"`name` must be one of {STRATEGIES}. Received: name={name!r}")
    if name != "none" and keras.config.backend() != "tensorflow":
        raise ValueError(
            "`name` must be 'none' unless Keras runs on TensorFlow; on JAX use "
            "keras.distribution.set_distribution(keras.distribution.DataParallel()). "
            f"Received: name={name!r} and backend {keras.config.backend()!r}"
        )
    if name == "none":
        return tf.distribute.get_strategy()
    if name == "mirrored":
        return tf.distribute.MirroredStrategy(_devices(tf))
    if name == "multi_worker":
        _check_cluster()
        return tf.distribute.MultiWorkerMirroredStrategy()
    resolver = tf.distribute.cluster_resolver.TPUClusterResolver()
    tf.config.experimental_connect_to_cluster(resolver)
    tf.tpu.experimental.initialize_tpu_system(resolver)
    return tf.distribute.TPUStrategy(resolver)


def _devices(tf):
    """The GPUs, or where there is none the CPUs (several only if configured so)."""
    for kind in ("GPU", "CPU"):
        found = tf.config.list_logical_devices(kind)
        if found:
            return [device.name for device in found]
    return None


def _check_cluster():
    text = os.environ.get("TF_CONFIG", "")
    example = '{"cluster": {"worker": ["HOST:PORT", …]}, "task": {"type": "worker", "index": 0}}'
    try:
        config = json.loads(text)
        task = config["task"]
        known = task["index"] < len(config["cluster"][task["type"]])
    except (ValueError, KeyError, TypeError):
        known = False
    if not known:
        raise ValueError(
            "`name` can be 'multi_worker' only where the environment variable TF_CONFIG lists the "
            f"workers and this one among them, as {example}. Received: TF_CONFIG={text!r}"
        )


def is_chief(strategy):
    """Returns whether this process is the one that writes files: the only one, or the first."""
    resolver = getattr(strategy, "cluster_resolver", None)
    cluster = resolver.cluster_spec().as_dict() if resolver is not None else {}
    if not cluster or resolver.task_type is None:
        return True
    first = "chief" if "chief" in cluster else "worker"
    return resolver.task_type == first and resolver.task_id == 0


def is_multi_worker(strategy):
    """Returns whether several processes train together."""
    resolver = getattr(strategy, "cluster_resolver", None)
    return resolver is not None and getattr(strategy.extended, "_in_multi_worker_mode", bool)()


def wait_for_all(strategy):
    """Returns when every worker has called it, so that none ends while another still writes."""
    if is_multi_worker(strategy):

        @tf.function
        def meet():
            return strategy.reduce("SUM", strategy.run(lambda: tf.constant(1.0)), axis=None)

        meet()


def synchronize(network):
    """Makes every BatchNormalization of a network take its statistics of the global batch.

    Without it each replica normalises by its own part of the batch, as a smaller batch would.
    Call it before `fit`; without a strategy it changes nothing but that TensorFlow's fused
    kernel is not used.

    Returns:
        The network.
    """
    for layer in keras_internals.flatten_layers(network):
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.synchronized = True
    return network

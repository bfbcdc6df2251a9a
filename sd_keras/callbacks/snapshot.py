"""The state of a training run: copied, written to a file, found again and restored."""

import io
import itertools
import json
import re
import warnings
import zipfile
from dataclasses import dataclass

import keras
import numpy as np

from sd_keras import keras_internals, replica_state
from sd_keras.checkpoints import write_whole

FILE_NAME = re.compile(r"epoch_(\d+)_step_(\d+)\.npz")


@dataclass
class Snapshot:
    """All that a training step reads and writes.

    Attributes:
        variables: arrays of weights, moving statistics, step, random states and optimizer state.
        metrics: arrays (replicas, …) of the metrics' state.
        metadata: dict of what JSON holds: `epoch`, `step` and what else `take` was told, the
            learning rates, and path, shape and dtype of each variable.
    """

    variables: list
    metrics: list
    metadata: dict

    @classmethod
    def take(cls, model, **place):
        """Copies the state of a model; under several workers all must call it, at one step.

        Args:
            model: a built and compiled `SelfDistillModel`.
            **place: what else to keep, of types that JSON holds; `epoch` and `step` are needed.
        """
        variables, metrics = variables_of(model), model.metrics_variables
        rates = [learning_rate(optimizer) for optimizer in optimizers_of(model)]
        metadata = place | {"learning_rates": rates, "variables": _specs(variables)}
        metadata["num_metrics"] = len(metrics)
        arrays = [_to_numpy(variable) for variable in variables]
        return cls(arrays, replica_state.own_values(model, metrics), metadata)

    @property
    def place(self):
        """The epoch and the step after which it was taken."""
        return self.metadata["epoch"], self.metadata["step"]

    def is_finite(self):
        """Returns whether all weights and the optimizer's state are finite."""
        return all(np.isfinite(a).all() for a in self.variables if a.dtype.kind == "f")

    def write(self, path):
        """Writes it to a file atomically."""
        arrays = {f"variable_{i}": array for i, array in enumerate(self.variables)}
        arrays |= {f"metric_{i}": array for i, array in enumerate(self.metrics)}
        arrays["metadata"] = np.array(json.dumps(self.metadata))

        def save(path):
            with path.open("wb") as file:
                np.savez(file, **arrays)

        write_whole(path, save)

    @classmethod
    def read(cls, path):
        """Reads a file that `write` wrote.

        Raises:
            ValueError: if it does not hold exactly the arrays of its metadata, whatever a damage
                of the file makes zipfile, NumPy and json raise.
        """
        try:
            with zipfile.ZipFile(path) as file:

                def read(name):  # of the whole member, so that its CRC is checked
                    return np.load(io.BytesIO(file.read(f"{name}.npy")))

                metadata = json.loads(str(read("metadata")))
                specs, count = metadata["variables"], metadata["num_metrics"]
                names = [f"variable_{i}" for i in range(len(specs))]
                metric_names = [f"metric_{i}" for i in range(count)]
                expected = sorted(f"{name}.npy" for name in ["metadata", *names, *metric_names])
                if sorted(file.namelist()) != expected:
                    raise ValueError("arrays are missing")
                snapshot = cls(list(map(read, names)), list(map(read, metric_names)), metadata)
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(f"{path} is damaged: {reason}") from error
        return snapshot

    def check_fits(self, model, received):
        """Raises ValueError unless it was taken of a model and optimizer of the same form.

        Args:
            model: the model to restore.
            received: what the error shows.
        """
        saved, specs = self.metadata["variables"], _specs(variables_of(model))
        # Keras counts names up within a process ("conv2d_1"), so paths only help to read this.
        differing = [(s, o) for s, o in zip(saved, specs) if s[1:] != o[1:]]
        if len(saved) != len(specs) or differing:
            first = f"; the first that differs is {differing[0]}" if differing else ""
            raise ValueError(
                "`folder` must hold the state of this network, method and optimizer, "
                f"{len(specs)} variables; it holds {len(saved)}{first}. Received: {received}"
            )

    def restore(self, model, counters=True):
        """Restores all but the metrics.

        Args:
            model: a model that the snapshot fits.
            counters: whether the step, the optimizer's iterations and a learning rate that is a
                number, which a callback may follow a schedule with, are restored, too.
        """
        optimizers = optimizers_of(model)
        kept = (
            []
            if counters
            else [model.step, *(keras_internals.iterations(each) for each in optimizers)]
        )
        kept = {id(variable) for variable in kept}
        with replica_state.scope_of(model):
            for variable, value in zip(variables_of(model), self.variables):
                if id(variable) not in kept:
                    is_bfloat16 = _is_bfloat16(variable)
                    variable.assign(value.view(variable.dtype) if is_bfloat16 else value)
            for optimizer, rate in zip(optimizers, self.metadata["learning_rates"]):
                if counters and None not in (rate, learning_rate(optimizer)):
                    keras_internals.learning_rate(optimizer).assign(rate)
                # What was accumulated belongs to other weights and another count.
                if not counters:
                    for gradient in keras_internals.accumulated_gradients(optimizer):
                        gradient.assign(keras.ops.zeros_like(gradient))

    def restore_metrics(self, model):
        """Restores the metrics; returns whether it could.

        It cannot where the number of replicas has changed, or metrics are not built yet.
        """
        metrics = model.metrics_variables
        shapes = [(replica_state.count_of(model), *v.shape) for v in metrics]
        if [value.shape for value in self.metrics] != shapes:
            return False
        replica_state.assign_own_values(model, metrics, self.metrics)
        return True


def optimizers_of(model):
    """Returns the optimizer and those that it wraps."""
    inner = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    optimizers = [model.optimizer, inner, *getattr(inner, "optimizers", [])]  # a MultiOptimizer's
    return list({id(optimizer): optimizer for optimizer in optimizers}.values())


def learning_rate(optimizer):
    """Returns an optimizer's learning rate, None for a schedule."""
    rate = keras_internals.learning_rate(optimizer)
    return float(keras.ops.convert_to_numpy(rate)) if isinstance(rate, keras.Variable) else None


def variables_of(model):
    """Returns the variables of a model and its optimizers but the learning rates.

    A rate that is a number is a variable and a schedule is none: a run may change between them.
    """
    rates = {id(keras_internals.learning_rate(optimizer)) for optimizer in optimizers_of(model)}
    variables = itertools.chain(model.variables, model.optimizer.variables)
    return [variable for variable in variables if id(variable) not in rates]


def write(folder, snapshot, keep):
    """Writes a snapshot to a folder and deletes older ones.

    Args:
        folder: `pathlib.Path`.
        snapshot: a `Snapshot`.
        keep: how many of the newest files stay, None for all.

    Raises:
        OSError: if it cannot be written; it says that the files before are whole.
    """
    path = folder / "epoch_{:05d}_step_{:06d}.npz".format(*snapshot.place)
    try:
        snapshot.write(path)
    except OSError as error:
        before = "those before it are whole; rerun the same command to resume from them"
        raise OSError(
            f"the backup {path} could not be written: {error.strerror or error}; "
            f"{before if files(folder) else 'there is none before it'}"
        ) from error
    for _, old in files(folder)[: -keep if keep else 0]:
        old.unlink(missing_ok=True)


def files(folder):
    """Returns ((epoch, step), path) of each backup in a folder, oldest first."""
    matches = [(FILE_NAME.fullmatch(path.name), path) for path in folder.glob("*.npz")]
    return sorted(((int(m[1]), int(m[2])), path) for m, path in matches if m)


def latest_common(model, folder, move_damaged=False, before=None):
    """Returns path and content of the newest backup, once all workers agree on it.

    Args:
        model: the model under `fit`; all of its workers must call this at once.
        folder, move_damaged, before: of `latest_readable`.

    Raises:
        ValueError: if not all workers find the same backup, or as `latest_readable` does.
    """
    path, snapshot = latest_readable(folder, move_damaged, before)
    place = np.array([path is not None, *(snapshot.place if path else (0, 0))], "float32")
    if (replica_state.gather(model, place) != place).any():
        raise ValueError(
            "`folder` must be one that all workers see, with the same backups. Received: "
            f"folder={str(folder)!r}, where this worker finds {path or 'none'}"
        )
    return path, snapshot


def latest_readable(folder, move_damaged=False, before=None):
    """Returns path and content of the newest readable backup; (None, None) without any file.

    Args:
        folder: where the files are.
        move_damaged: whether damaged files are renamed, once an older one could be read.
        before: an (epoch, step) to find one older than; where none can be read, the oldest.

    Raises:
        ValueError: if there are backups but none can be read.
    """
    entries, damaged = files(folder), []
    older = [entry for entry in entries if before is None or entry[0] < before]
    for place, path in [*reversed(older), *entries[len(older) :]]:
        try:
            snapshot = Snapshot.read(path)
            if snapshot.place != place:
                raise ValueError(f"{path} holds epoch and step {snapshot.place}")
        except ValueError as error:
            damaged.append(path)
            warnings.warn(f"a backup is skipped: {error}", stacklevel=2)
            continue
        for old in damaged if move_damaged else ():
            old.rename(old.with_name(f"damaged_{old.name}"))
        return path, snapshot
    if entries:
        raise ValueError(
            "`folder` holds no readable backup; delete it to start again. "
            f"Received: folder={str(folder)!r} with {[path.name for _, path in entries]}"
        )
    return None, None


def _specs(variables):
    return [[variable.path, list(variable.shape), str(variable.dtype)] for variable in variables]


def _is_bfloat16(variable):
    """Returns whether NumPy's files do not know the type of a variable."""
    return keras.backend.standardize_dtype(variable.dtype) == "bfloat16"


def _to_numpy(variable):
    value = np.asarray(keras.ops.convert_to_numpy(variable))
    return value.view("uint16") if _is_bfloat16(variable) else np.array(value)

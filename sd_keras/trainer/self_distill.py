"""SelfDistillModel: a network, a method and a distortion under `fit`."""

import keras
from keras import ops

from sd_keras import keras_internals, methods, processor
from sd_keras.distortions.chain import apply
from sd_keras.inference import ensemble_logits
from sd_keras.models.exits import exit_names
from sd_keras.trainer import balance, checks, labels
from sd_keras.trainer.companions import Companions, copy_of
from sd_keras.trainer.fitting import Fitting, Position
from sd_keras.trainer.metrics import SEEN, give_to_each, in_form
from sd_keras.trainer.terms import Terms

if keras.config.backend() == "jax":
    from sd_keras.trainer.jax import BackendTrainer
elif keras.config.backend() == "tensorflow":
    from sd_keras.trainer.tensorflow import BackendTrainer
else:
    from sd_keras.trainer.stateful import BackendTrainer


@keras.saving.register_keras_serializable(package="sd_keras")
class SelfDistillModel(Fitting, Terms, BackendTrainer, keras.Model):
    """Trains a multi-exit network by self-distillation with the ordinary `fit`.

    Each training step draws the method's views of the batch on the device, runs the network
    once on their concatenation (BatchNormalization sees all views together) and adds up the
    label loss of each exit and the method's objectives. `evaluate` and `predict` see one
    undistorted view. `compile` is Keras's own: without `loss`, exits learn by cross entropy
    from logits; a `loss` replaces it at every exit; `metrics` are kept for every exit and
    for the ensemble, as `exit_1_accuracy … ensemble_accuracy`, on the first view.

    Logs hold `loss` (the total), the label loss per trained exit (`exit_1_loss …`) and each
    objective by name, these two unweighted and averaged over the views.

    Args:
        network: made by `attach_exits`. It is what to save, measure and export.
        method: a `sd_keras.methods.Method`; the plain baseline by default.
        distortion: a callable from a batch of images to distorted ones with a new draw at
            each call: `sd_keras.distortions.CropFlip`, or a Keras preprocessing layer; under
            JAX a layer, since a plain function would draw once for all steps. Ready-made
            views, data of elements `((a, b), y)`, are distorted further. None for none.
        mixing: None, or a `sd_keras.mixing.Mix`: images and labels of a training batch are
            mixed before the views are drawn, ready-made views all with the same partner.
        teacher: the trained network that a method with a teacher compares with: a network of
            `attach_exits` or any functional model of the same images that gives logits. It is
            frozen, sees what the network sees, and is run at inference and in training only.
        peer: the network that is trained beside this one by `deep_mutual_learning`; of one
            exit. It sees what the network sees, and `model.peer` is what to save of it.
        adversary: None, or a `sd_keras.adversary.FastGradientSign`, which changes the last of
            the views.
        **kwargs: `name`, `dtype` as `keras.Model`.

    Data: images as the network takes them, labels `(n,)` or `(n, classes)`, sample_weight
    `(n,)`; NumPy arrays, `tf.data.Dataset`, `keras.utils.PyDataset` or a `sd_keras.data.Stream`.

    Raises:
        ValueError: if the method does not fit the network or the data.
        NonFiniteLossError: in `fit`, after a step whose loss is NaN or infinite.
    """

    def __init__(
        self,
        network,
        method=None,
        distortion=None,
        mixing=None,
        teacher=None,
        peer=None,
        adversary=None,
        **kwargs,
    ):
        kwargs.setdefault("dtype", policy_of(network))
        super().__init__(**kwargs)
        self.autocast = False  # raw pixels reach the network in full precision
        self.method = methods.baseline() if method is None else method
        checks.check_parts(network, self.method, distortion, mixing)
        checks.check_others(network, self.method, teacher, peer, adversary)
        self.network = network
        self.distortion = distortion
        self.mixing = mixing
        self.teacher = teacher
        self.peer = peer
        self.adversary = adversary
        self.exit_names = exit_names(network)
        self.num_classes = network.output[self.exit_names[-1]].shape[-1]
        self._join_companions()
        self.make_terms()
        self._label_range = labels.LabelRange()
        self.position = Position()
        self.resident = None  # the data of a fit, where they lie on the device
        # Counted here, because the optimizer's count is out of reach of a loss on JAX.
        self.step = self.add_weight(
            shape=(),
            dtype="int32",
            initializer="zeros",
            trainable=False,
            aggregation="only_first_replica",
            name="step",
        )
        self.built = True

    def _join_companions(self):
        """Prepares the networks that run beside this one."""
        self.past = copy_of(self.network) if "past" in self.method.companions else None
        if self.teacher is not None:
            self.teacher.trainable = False
        others = {"teacher": self.teacher, "peer": self.peer, "past": self.past}
        companions = Companions(self.network, self.method, others)
        self.adapters = companions.adapters
        self._companions = companions if companions.others else None
        if self.method.balance is not None:
            self.classifiers = balance.classifiers_of(self.network)

    def compile(self, *args, **kwargs):
        """Configures the model as `keras.Model.compile`; warns where bfloat16 is slow."""
        if any(layer.compute_dtype == "bfloat16" for layer in self.network.layers):
            processor.warn_of_slow_bfloat16()
        super().compile(*args, **kwargs)

    def compile_from_config(self, config):
        """Compiles a loaded model. Keras would leave it out since `compile` is overridden."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def call(self, inputs, training=None):
        """Runs the network once.

        Args:
            inputs: images `(n, h, w, c)`, or a tuple with one such batch per view.

        Returns:
            The network's dict of outputs, or a tuple with one dict per view.
        """
        if not isinstance(inputs, (tuple, list)):
            checks.check_images(inputs, self.network)
            return self._run(inputs, training)
        for view in inputs:
            checks.check_images(view, self.network)
        outputs = self._run(ops.concatenate(inputs, axis=0), training)
        split = {name: ops.split(value, len(inputs)) for name, value in outputs.items()}
        return tuple({n: v[index] for n, v in split.items()} for index in range(len(inputs)))

    def _run(self, images, training):
        """Runs the network, in training with those beside it."""
        if training and self._companions is not None:
            return self._companions.outputs(images)
        return self.network(images, training=training)

    def begin_step(self, x, y, sample_weight):
        """Mixes one training batch, draws its views and advances the step counter."""
        self.step.assign(self.step + 1)
        checks.check_views(x, self.method, self.distortion)
        views = x if isinstance(x, (tuple, list)) else (x,)
        views = tuple(ops.convert_to_tensor(view) for view in views)
        for view in views:
            checks.check_images(view, self.network)
        if self.mixing is not None:
            given = labels.standardize(y, self.num_classes)
            views, soft = self.mixing.mix(views, given, self.num_classes, sample_weight)
            y = labels.Mixed(given, soft)
        x = views if isinstance(x, (tuple, list)) else views[0]
        if self.distortion is not None:
            x = draw(self.distortion, x, self.method.num_views)
        if self.adversary is not None:
            *others, last = x if isinstance(x, tuple) else (x,)
            last = self.adversary.attack(
                self.network, last, labels.standardize(y, self.num_classes)
            )
            others = [ops.cast(view, last.dtype) for view in others]
            x = (*others, last) if others else last
        return x, y

    def only_exits(self, outputs):
        """Drops the features from the outputs, of several views the first one's."""
        outputs = outputs if isinstance(outputs, dict) else outputs[0]
        return {name: outputs[name] for name in self.exit_names}

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """Updates and returns the metrics of a batch. Called by Keras."""
        targets = labels.standardize(y, self.num_classes)
        self._label_range.update_state(y.given if isinstance(y, labels.Mixed) else targets)
        metrics = keras_internals.compile_metrics(self)
        if metrics is not None:
            predictions = self.only_exits(y_pred)
            predictions["ensemble"] = ensemble_logits(list(predictions.values()))
            give_to_each(metrics, predictions)
            targets = in_form(metrics, targets, self.num_classes)
            same = dict.fromkeys(predictions, targets)
            metrics.update_state(same, predictions, sample_weight)
        return self.results_of(self._unseen(y_pred))

    def results_of(self, unseen):
        """Returns what a step hands out: the metrics so far, and what is checked after it.

        Args:
            unseen: names of metrics that the step knows nothing of.
        """
        results = self.get_metrics_result() | self._label_range.result()
        results[SEEN] = ops.add(keras_internals.loss_tracker(self).count, 0.0)
        return {name: value for name, value in results.items() if name not in unseen}

    def get_metrics_result(self):
        """Returns the current value of every metric by name. Called by Keras."""
        shown = [keras_internals.loss_tracker(self), *self.term_metrics]
        results = {metric.name: metric.result() for metric in shown}
        metrics = keras_internals.compile_metrics(self)
        if metrics is not None and metrics.built:
            results |= metrics.result()
        return results

    def export(self, *args, **kwargs):
        """Not for this model: what is exported is its network."""
        raise ValueError("export the network: sd_keras.export.saved_model(model.network, path)")

    def _random_states(self):
        """States of all random generators; Keras's files leave them out."""
        weights = {id(weight) for weight in self.weights}
        return [variable for variable in self.variables if id(variable) not in weights]

    def save_own_variables(self, store):
        """Saves the step and the random states. Called by Keras."""
        store["step"] = self.step.numpy()
        for index, state in enumerate(self._random_states()):
            store[f"random_state_{index}"] = state.numpy()

    def load_own_variables(self, store):
        """Restores the step and the random states. Called by Keras."""
        self.step.assign(store["step"])
        states = self._random_states()
        keys = list(store.keys())
        saved = sum(key.startswith("random_state_") for key in keys)
        if saved != len(states):
            raise ValueError(
                f"the file holds {saved} random states where the model has {len(states)}: "
                "it was saved with another distortion or other Dropout layers"
            )
        for index, state in enumerate(states):
            state.assign(store[f"random_state_{index}"])

    def get_config(self):
        serialize = keras.saving.serialize_keras_object
        parts = {"network": self.network, "method": self.method, "distortion": self.distortion}
        parts |= {"mixing": self.mixing, "teacher": self.teacher, "peer": self.peer}
        parts["adversary"] = self.adversary
        config = {name: serialize(part) for name, part in parts.items()}
        return {"name": self.name, "dtype": serialize(self.dtype_policy)} | config

    @classmethod
    def from_config(cls, config, custom_objects=None):
        deserialize = keras.saving.deserialize_keras_object
        parts = {k: v if k == "name" else deserialize(v, custom_objects) for k, v in config.items()}
        return cls(**parts)


def draw(distortion, images, num_views):
    """Returns one distorted batch, or a tuple of `num_views`, each a draw of its own.

    Of a tuple of ready-made views each is distorted once.
    """
    given = images if isinstance(images, tuple) else (images,) * num_views
    views = tuple(apply(distortion, view) for view in given)
    return views if num_views > 1 else views[0]


def policy_of(network):
    """Returns the dtype policy of a network, by which Keras scales the loss.

    A loaded network has forgotten its own, its layers have not.
    """
    policies = {layer.dtype_policy.name for layer in network.layers}
    return "mixed_float16" if "mixed_float16" in policies else network.dtype_policy

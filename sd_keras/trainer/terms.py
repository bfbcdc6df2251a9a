"""The loss of a batch as the sum of its terms, each of which the logs show."""

import keras
from keras import ops

from sd_keras import keras_internals, replicas
from sd_keras.trainer import balance, labels


class _PerExample(keras.losses.Loss):
    """Hands values through, so that Keras reduces them and scales them under a strategy."""

    def call(self, y_true, y_pred):
        return y_pred


class Terms:
    """Mixin in front of `keras.Model`: `compute_loss`, and a metric for each of its terms."""

    def make_terms(self):
        """Creates the metrics; to be called once exits and method are known."""
        trained = self.exit_names
        if self.method.shallow_label_weight is None:
            trained = trained[-1:]
        self._label_terms = {name: keras.metrics.Mean(f"{name}_loss") for name in trained}
        self._peer_terms = [keras.metrics.Mean("peer_loss")] if self.peer is not None else []
        self._objective_terms = [keras.metrics.Mean(o.name) for o in self.method.objectives]
        self._reduce = _PerExample(name="per_example")

    @property
    def term_metrics(self):
        """The metrics of all terms: of labels, of the peer's labels, of objectives."""
        return [*self._label_terms.values(), *self._peer_terms, *self._objective_terms]

    @property
    def term_names(self):
        """Names under which the logs hold the terms of the loss."""
        return [metric.name for metric in self.term_metrics]

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """Returns the total loss of a batch. Called by Keras."""
        views = (y_pred,) if isinstance(y_pred, dict) else tuple(y_pred)
        targets = labels.standardize(y, self.num_classes)
        step = ops.maximum(self.step - 1, 0)
        label_loss = labels.resolve_loss(self.loss)
        labelled = views[: self.method.labelled_views]
        total = 0.0
        for weight, name, tracker in self._label_parts(views, step):
            values = sum(label_loss(targets, view[name]) for view in labelled)
            total += weight * self._track(tracker, values, sample_weight, len(labelled))
        applied = self._applied(views, step)
        weights = self._weights([o for o, _ in applied], targets, views, label_loss, step)
        for weight, (objective, tracker) in zip(weights, applied):
            values = objective.call(targets, views)
            shown = len(views) // objective.num_views
            total += weight * self._track(tracker, values, sample_weight, shown)
        loss = self._reduce(targets, total)
        if training:
            loss = replicas.share_of_mean(total, loss)
        extras = (ops.cast(extra, loss.dtype) for extra in self.losses)
        return sum((keras_internals.additional_loss(self, extra) for extra in extras), loss)

    def _label_parts(self, views, step):
        """Returns weight, output and metric of each exit that learns from labels."""
        weights = self.method.label_weights(len(self.exit_names), step)
        if self.method.companions and not self._companions.are_in(views[0]):
            # In evaluation: what the labels lost to another network would be missing, and
            # losses before and after a change of weights could not be compared.
            weights[-1] = 1.0
        parts = [
            (weight, name, self._label_terms[name])
            for name, weight in zip(self.exit_names, weights)
            if name in self._label_terms
        ]
        if "peer_logits" in views[0]:
            parts += [(weights[-1], "peer_logits", tracker) for tracker in self._peer_terms]
        return parts

    def _applied(self, views, step=0):
        """Returns objectives of a step, and metrics, of those that can be evaluated.

        In evaluation there is one view and no other network.
        """
        return [
            (objective.at(step), tracker)
            for objective, tracker in zip(self.method.objectives, self._objective_terms)
            if objective.num_views <= len(views) and set(objective.needed_outputs) <= set(views[0])
        ]

    def _weights(self, objectives, targets, views, label_loss, step):
        """Returns the objectives' weights: their own, or balanced ones."""
        if self.method.balance is None or not objectives:
            return [objective.weight for objective in objectives]
        label_weights = self.method.label_weights(len(self.exit_names), step)

        def labels_value(views):
            return sum(
                weight * label_loss(targets, view[name])
                for name, weight in zip(self.exit_names, label_weights)
                if name in self._label_terms
                for view in views[: self.method.labelled_views]
            )

        share = self.method.balance
        return balance.weights(self.classifiers, labels_value, objectives, targets, views, share)

    def _track(self, tracker, values, sample_weight, views):
        """Weights the values by example and shows their mean per view as a metric."""
        if sample_weight is not None:
            values = values * ops.reshape(ops.cast(sample_weight, values.dtype), (-1,))
        tracker.update_state(ops.stop_gradient(values) / views)
        return values

    def _unseen(self, y_pred):
        """Names of terms that a batch with these outputs does not have."""
        views = (y_pred,) if isinstance(y_pred, dict) else y_pred
        seen = {id(tracker) for _, tracker in self._applied(views)}
        unseen = [tracker for tracker in self._objective_terms if id(tracker) not in seen]
        return [t.name for t in (*unseen, *(self._peer_terms * ("peer_logits" not in views[0])))]

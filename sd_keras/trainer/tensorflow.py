"""The training and evaluation step on TensorFlow, where a step is traced before it runs."""

from sd_keras import keras_internals
from sd_keras.keras_internals import tensorflow as tf
from sd_keras.trainer import distributed, stateful
from sd_keras.trainer.metrics import build_ahead


class BackendTrainer(distributed.DistributedFit, stateful.BackendTrainer):
    """Creates all variables before a step is traced, since TensorFlow would trace it twice."""

    def _train_block(self, order):
        """Runs one step after another in one program; returns the logs of the last."""

        def step(index):
            self._one_step(self.resident.pick(order[index]))
            return (index + 1,)

        count = tf.shape(order)[0]
        done = tf.while_loop(lambda index: index < count, step, (tf.constant(0),))
        with tf.control_dependencies(done):
            return self.results_of(unseen=())

    def make_train_function(self, force=False):
        """Builds the step function. Called by Keras."""
        distributed.check_setup(self)
        distributed.draw_by_replica(self)
        with self.distribute_strategy.scope():
            if not self.optimizer.built:
                self.optimizer.build(self.trainable_variables)
        self._build_metrics()
        super().make_train_function(force)

    def make_test_function(self, force=False):
        """Builds the evaluation function. Called by Keras."""
        self._build_metrics()
        super().make_test_function(force)

    def _build_metrics(self):
        with self.distribute_strategy.scope():
            build_ahead(
                keras_internals.compile_metrics(self),
                [*self.exit_names, "ensemble"],
                self.num_classes,
            )

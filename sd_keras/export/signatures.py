"""The signatures of a SavedModel: exits, ensemble and early exit as TensorFlow graphs.

Each section of a network is one TensorFlow function that all signatures call, so that its graph
is stored once. TensorFlow inlines it where a signature runs, and drops the heads of exits that
the signature does not ask for.
"""

from keras import ops

from sd_keras.export.encoded_images import CHANNELS, decoder
from sd_keras.export.warmup import CLASSIFY
from sd_keras.inference import ensemble_logits
from sd_keras.inference.policy import rule_named
from sd_keras.keras_internals import tensorflow as tf


class SignatureFunctions:
    """Builds the functions of the signatures from the sections of a network.

    Args:
        sections: of `sd_keras.models.sections`.
        shape: `(h, w, c)` of the images.
        rule: by which early exit tells how sure an exit is; see `sd_keras.inference.RULES`.
        temperatures: what the logits of each exit are divided by for its probabilities.
        weights: of the exits in the ensemble, or None for equal ones.
    """

    def __init__(self, sections, shape, rule, temperatures, weights):
        self.shape = tuple(shape)
        self.rule = rule_named(rule)
        self.temperatures = tuple(temperatures)
        self.weights = weights
        self.sections = [_traced(section) for section in sections]

    def at_exit(self, index):
        """Returns the function that answers an image by the exit at an index."""

        def answer(image):
            logits = self._all_logits(image, index + 1)[-1]
            return _answer(logits, logits / self.temperatures[index])

        return answer

    def ensemble(self, image):
        """Answers by the mean of the exits' probabilities."""
        logits = self._all_logits(image, len(self.sections))
        mean = ensemble_logits([z / t for z, t in zip(logits, self.temperatures)], self.weights)
        return _answer(mean, mean)

    def early_exit(self, image, thresholds):
        """Answers each image, uint8 `(n, h, w, c)`, by the first exit that is sure enough.

        `thresholds` is `(n, exits - 1)`: one row per image, so that a server may join the
        requests of several clients.
        """
        shallow = len(self.sections) - 1
        message = f"`thresholds` must be float32 (n, {shallow}) of at least 0, a row an image"
        rows = tf.shape(image)[0]
        fits = tf.reduce_all(tf.shape(thresholds) == [rows, shallow])
        fits &= tf.reduce_all(thresholds >= 0)  # NaN is not
        thresholds = _shaped(thresholds, fits, rows, [shallow], message)
        thresholds = tf.cast(thresholds, "float64")
        logits, exits, confidence = self._from(0, [self._pixels(image)], thresholds, None)
        temperatures = tf.gather(tf.constant(self.temperatures, "float32"), exits - 1)
        answer = _answer(logits, logits / temperatures[:, None])
        return answer | {"exit": exits, "confidence": tf.cast(confidence, "float32")}

    def _pixels(self, image):
        """Checks images, and brings them into the form that the first section takes."""
        # C++ sessions do not compare what they are fed with the shape of the signature, and
        # some kernels end the process where there are no rows.
        size = tf.shape(image)
        message = f"`image` must be uint8 (n, {', '.join(map(str, self.shape))}), n at least 1"
        fits = tf.reduce_all(size[1:] == self.shape) & (size[0] > 0)
        image = _shaped(image, fits, size[0], self.shape, message)
        return tf.cast(image, "float32")

    def _all_logits(self, image, count):
        """Returns the logits of the first `count` exits."""
        handed_on, all_logits = [self._pixels(image)], []
        for section in self.sections[:count]:
            logits, handed_on = section(*handed_on)
            all_logits.append(logits)
        return all_logits

    def _from(self, index, handed_on, thresholds, earlier):
        """Returns logits, exits and confidences of the rows that reach the section at an index.

        `thresholds` are those of these rows, `(n, exits - 1)`; `earlier` the classes `(n, index)`
        that the exits before predicted, None at the first.
        """
        logits, handed_on = self.sections[index](*handed_on)
        # In double precision, as thresholds are chosen: near 1, float32 knows few numbers.
        scaled = tf.cast(logits, "float64") / self.temperatures[index]
        confidence = tf.cast(self.rule(scaled, earlier, ops), "float64")
        exits = tf.fill([tf.shape(logits)[0]], index + 1)
        here = (logits, exits, confidence)
        if index + 1 == len(self.sections):
            return here
        predicted = tf.argmax(logits, -1)[:, None]
        earlier = predicted if earlier is None else tf.concat([earlier, predicted], 1)
        # Logits that are not finite let no row leave. Not written as ~(a >= b): TensorFlow's
        # optimizer turns that into a < b, which is otherwise for NaN.
        finite = tf.reduce_all(tf.math.is_finite(logits), -1)
        stays = tf.where((confidence < thresholds[:, index]) | ~finite)

        def deeper():
            rows = stays[:, 0]
            inputs = [tf.gather(tensor, rows) for tensor in handed_on]
            others = (tf.gather(tensor, rows) for tensor in (thresholds, earlier))
            below = self._from(index + 1, inputs, *others)
            return tuple(tf.tensor_scatter_nd_update(a, stays, b) for a, b in zip(here, below))

        return tf.cond(tf.size(stays) > 0, deeper, lambda: here)


def _traced(section):
    """Returns a section as a TensorFlow function of its inputs: logits, and what it hands on."""
    signature = [tf.TensorSpec([None, *t.shape[1:]], t.dtype) for t in section.inputs]
    takes_one = not isinstance(section.input, (list, tuple))

    @tf.function(input_signature=signature, autograph=False)
    def run(*tensors):
        outputs = section(tensors[0] if takes_one else list(tensors), training=False)
        return tf.cast(outputs["logits"], "float32"), list(outputs["handed_on"])

    return run


def _shaped(tensor, fits, rows, shape, message):
    """Returns a tensor as `(rows, *shape)`; running it fails unless it fits."""
    received = [f"{message}. Received: shape", tf.shape(tensor), "values", tensor]
    check = tf.debugging.Assert(fits, received)
    with tf.control_dependencies([check]):
        # As data, too: the optimiser drops a reshape that it finds needless, the check with it.
        rows = tf.where(fits, rows, -2)
        return tf.reshape(tensor, tf.concat([[rows], shape], 0))


def _answer(logits, scaled):
    return {"logits": logits, "probabilities": tf.nn.softmax(scaled)}


def signatures_of(answers, names, thresholds, class_names, preprocessing, max_pixels):
    """Returns the concrete functions of all signatures by name.

    `thresholds` are those of early exit; None leaves out the signature that has its own.
    Encoded images have signatures for 1 or 3 channels only.
    """
    pixels = tf.TensorSpec([None, *answers.shape], "uint8", name="image")
    contents = tf.TensorSpec([None], "string", name="image_bytes")
    levels = tf.TensorSpec([None, len(names) - 1], "float32", name="thresholds")
    plain = {name: answers.at_exit(index) for index, name in enumerate(names)}

    def early_exit(image):
        rows = tf.tile(tf.constant([thresholds], "float64"), [tf.shape(image)[0], 1])
        return answers.early_exit(image, rows)

    plain |= {"serving_default": plain[names[-1]], "ensemble": answers.ensemble}
    if len(names) > 1 and thresholds is not None:
        plain["early_exit"] = early_exit
    made = {name: (function, [pixels]) for name, function in plain.items()}
    if len(names) > 1:
        made["early_exit_with_thresholds"] = (answers.early_exit, [pixels, levels])
    if answers.shape[-1] in CHANNELS:
        decode = decoder(answers.shape, preprocessing, max_pixels)
        made |= {
            f"{name}_bytes": (_of_bytes(function, decode), [contents, *inputs[1:]])
            for name, (function, inputs) in made.items()
        }
        examples = tf.TensorSpec([None], "string", name="inputs")
        made[CLASSIFY] = (_classify(plain["serving_default"], decode, class_names), [examples])
    return {
        name: tf.function(function, autograph=False).get_concrete_function(*inputs)
        for name, (function, inputs) in made.items()
    }


def _of_bytes(function, decode):
    """Returns the function of encoded images instead of pixels."""

    def answer(image_bytes, *more):
        return function(decode(image_bytes), *more)

    return answer


def _classify(function, decode, class_names):
    """Returns the function of serialized tf.train.Example, as TF Serving's Classify asks for it."""
    form = {"image/encoded": tf.io.FixedLenFeature([], "string")}

    def answer(inputs):
        contents = tf.io.parse_example(inputs, form)["image/encoded"]
        scores = function(decode(contents))["probabilities"]
        names = tf.tile(tf.constant([list(class_names)]), [tf.shape(scores)[0], 1])
        return {"classes": names, "scores": scores}

    return answer

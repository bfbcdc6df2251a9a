"""What a functional model costs for one image: multiply-accumulates, activations, memory."""

import collections
import math
import re

import keras
from keras import tree

from sd_keras import calls, graph, keras_internals
from sd_keras.macs import hidden_elements, multiply_accumulates

# Layers and operations whose output is their input in another shape, or at inference the
# input itself.
VIEW_LAYERS = re.compile(r"layers\.(regularization|reshaping\.(flatten|reshape)|core\.identity)\b")
VIEW_OPERATIONS = ("Reshape", "ExpandDims", "Squeeze", "Ravel", "StopGradient")

# What some of a model's tensors cost: multiply-accumulates; elements that convolutions, Dense
# layers and matrix products put out; bytes of all tensors alive at the worst moment.
Cost = collections.namedtuple("Cost", "macs activations peak")
# What one call adds to them: `hidden` are the bytes of a tensor that it makes and does not put
# out, `inside` the `Measured` calls that it is made of, or None.
Call = collections.namedtuple("Call", "macs activations hidden inside")


class Measured:
    """The calls of a functional model, each with its cost for a batch of one image.

    Args:
        model: functional `keras.Model` or `keras.Function`.
        inputs: specifications of its inputs.
        place: where it is nested, for messages.

    Raises:
        ValueError: naming a layer whose cost cannot be counted.
    """

    def __init__(self, model, inputs, place=""):
        self.nodes = graph.nodes_of(model)
        self.outputs = model.outputs
        self.tensors = {id(old): new for old, new in zip(model.inputs, inputs)}
        self.place = place
        # A tensor passed twice, as to self-attention, is stored once.
        first = {id(new): old for old, new in reversed(list(zip(model.inputs, inputs)))}
        pairs = [(old, first[id(new)]) for old, new in zip(model.inputs, inputs)]
        self.views = {id(old): same for old, same in pairs if old is not same}
        self.inputs = [self._stored(tensor) for tensor in model.inputs]
        self.calls = {id(node): self._measure(node) for node in self.nodes}

    def total(self, outputs):
        """Adds up what has to be computed for some of the model's tensors."""
        nodes = graph.ancestors(self.nodes, outputs)
        made = [self.calls[id(node)] for node in nodes]
        return Cost(
            sum(call.macs for call in made),
            sum(call.activations for call in made),
            self._peak(nodes, [self._stored(tensor) for tensor in outputs]),
        )

    def _measure(self, node):
        args, kwargs = node.arguments.fill_in(self.tensors)
        inputs = [self.tensors[id(tensor)] for tensor in node.input_tensors]
        outputs = self._specifications(node, args, kwargs)
        self.tensors |= {id(old): new for old, new in zip(node.output_tensors, outputs)}
        if _is_view(node, inputs, outputs):
            self.views[id(node.output_tensors[0])] = node.input_tensors[0]
        return self._call(node.operation, inputs, outputs, args, kwargs)

    def _specifications(self, node, args, kwargs):
        operation = node.operation
        kwargs.pop("training", None)  # Identity is called with it and does not take it
        try:
            outputs = tree.flatten(operation.compute_output_spec(*args, **kwargs))
            if any(None in output.shape for output in outputs):
                # EinsumDense answers with the unknown sizes it was made with; tracing tells.
                traced = keras.Operation.compute_output_spec(operation, *args, **kwargs)
                outputs = tree.flatten(traced)
        except Exception as error:
            shapes = [self.tensors[id(tensor)].shape for tensor in node.input_tensors]
            raise ValueError(
                "`network` holds a layer that does not take one image of this size. Received: "
                f"{self._named(operation)} for inputs of shape {shapes}"
            ) from error
        if any(None in output.shape for output in outputs):
            raise ValueError(
                "`network` holds a layer whose output has no known size. "
                f"Received: {self._named(operation)}"
            )
        if type(operation).__name__ == "DotProductAttention":
            # Keras answers with the width of the queries in place of the values'.
            shape = (*outputs[0].shape[:-1], args[2].shape[-1])
            outputs = [keras.KerasTensor(shape)]
        # The precision is the network's: a layer asked outside a call does not cast.
        pairs = zip(outputs, node.output_tensors)
        return [keras.KerasTensor(output.shape, old.dtype) for output, old in pairs]

    def _call(self, operation, inputs, outputs, args, kwargs):
        model = graph.as_functional(operation)
        if isinstance(operation, keras.Function) and not isinstance(operation, keras.Model):
            model = operation
        if model is not None:
            return self._nested(operation, model, calls.given_inputs(model, args, kwargs))
        operands = [each for each in tree.flatten((args, kwargs)) if hasattr(each, "shape")]
        macs = multiply_accumulates(operation, operands, outputs)
        if macs is not None:
            products, others = hidden_elements(operation, operands, outputs)
            activations = sum(math.prod(tensor.shape) for tensor in outputs) + products
            hidden = (products + others) * _width(outputs[0].dtype)
            return Call(macs, activations if macs else 0, hidden, None)
        try:
            function = calls.inside(operation, args, kwargs)
        except Exception as error:
            raise ValueError(
                "`network` holds a layer whose cost cannot be counted, because its type is not "
                f"known and its call cannot be followed. Received: {self._named(operation)}"
            ) from error
        try:
            return self._nested(operation, function, inputs)
        finally:
            calls.forget(function)

    def _nested(self, operation, model, inputs):
        inside = Measured(model, inputs, f", inside {self._named(operation)}")
        made = inside.calls.values()
        macs, activations = (sum(getattr(c, n) for c in made) for n in ("macs", "activations"))
        return Call(macs, activations, 0, inside)

    def _named(self, operation):
        return f"layer {operation.name} of type {type(operation).__name__}{self.place}"

    def _stored(self, tensor):
        while id(tensor) in self.views:
            tensor = self.views[id(tensor)]
        return id(tensor)

    def _bytes(self, stored):
        return sum(_bytes(self.tensors[tensor]) for tensor in stored)

    def _peak(self, nodes, kept):
        """Bytes of all tensors alive at the worst moment, computing the nodes in order.

        `kept` are the stored tensors that are needed afterwards.
        """
        last = {}
        for index, node in enumerate(nodes):
            last |= {self._stored(tensor): index for tensor in node.input_tensors}
        last |= {tensor: len(nodes) for tensor in kept}
        made = {id(tensor) for node in nodes for tensor in node.output_tensors}
        live = set(last) - made
        peak = self._bytes(live)
        for index, node in enumerate(nodes):
            own = {self._stored(t) for t in (*node.input_tensors, *node.output_tensors)}
            waiting = self._bytes(live - own)
            live = {tensor for tensor in live | own if last.get(tensor, -1) > index}
            call = self.calls[id(node)]
            if call.inside is None:
                peak = max(peak, waiting + self._bytes(own) + call.hidden)
            else:
                stay = [t for t in node.input_tensors if self._stored(t) in live]
                stay = {id(self.tensors[id(tensor)]) for tensor in stay}
                peak = max(peak, waiting + call.inside._peak_within(stay))
        return peak

    def _peak_within(self, stay):
        """The same of a nested model, given the ids of inputs' specifications that stay."""
        held = [tensor for tensor in self.inputs if id(self.tensors[tensor]) in stay]
        return self._peak(self.nodes, [*held, *(self._stored(t) for t in self.outputs)])


def _is_view(node, inputs, outputs):
    """Tells whether what a call puts out needs no memory of its own."""
    if len(inputs) != 1 or len(outputs) != 1 or _bytes(inputs[0]) != _bytes(outputs[0]):
        return False
    kind = type(node.operation)
    module = keras_internals.module_of(kind)
    if module.startswith("ops."):
        return kind.__name__ in VIEW_OPERATIONS
    always_random = node.arguments.kwargs.get("training")
    return bool(VIEW_LAYERS.match(module)) and not always_random


def one_image(model, input_shape=None):
    """Returns the specifications of a model's inputs for one image.

    Args and errors: as `graph.known_shapes`.
    """
    shapes = graph.known_shapes(model, input_shape)
    return [keras.KerasTensor((1, *s), t.dtype) for s, t in zip(shapes, model.inputs)]


def _width(dtype):
    """Bytes of one element."""
    bits = re.search(r"\d+", dtype)  # none in "bool"
    return max(1, int(bits[0]) // 8 if bits else 1)


def _bytes(tensor):
    return math.prod(tensor.shape) * _width(tensor.dtype)


def parameters(nodes):
    """Counts the parameters of the layers behind some nodes, each once.

    Returns:
        A pair: those that training changes, also where layers are frozen, and the others
        (moving statistics).
    """
    trained, others = {}, {}
    operations = [node.operation for node in nodes]
    while operations:
        operation = operations.pop()
        if isinstance(operation, keras.Layer):
            for layer in keras_internals.flatten_layers(operation):
                for counts, own in zip((trained, others), keras_internals.own_variables(layer)):
                    counts |= {id(variable): math.prod(variable.shape) for variable in own}
        elif isinstance(operation, keras.Function):
            operations += operation.operations
    return sum(trained.values()), sum(others.values())

"""What each exit of a network costs for one image."""

from sd_keras import graph
from sd_keras.costs import Measured, one_image, parameters
from sd_keras.models.exits import exit_names


def costs(network, input_shape=None):
    """Counts what each exit costs for one image.

    A multiply-accumulate is one product of a convolution or Dense kernel or of a matrix
    product; biases, normalisation, activations and pooling are left out, as the papers
    count. The cost of an exit holds its own bottleneck and classifier and no shallower
    exit's.

    Args:
        network: functional model, made by `attach_exits` or any other.
        input_shape: size of the image, where the network takes any.

    Returns:
        A dict from `exit_1 … exit_C` and `ensemble` (the whole network), of a model without
        exits from `network` alone, to a dict with `macs`; `flops`, two per
        multiply-accumulate; `parameters` (trainable or frozen) and `non_trainable` (moving
        statistics); `activations`, the elements that convolutions, Dense layers and matrix
        products put out (Radosavovic et al. 2020); and `peak_activation_bytes`, all tensors
        that are needed at the worst moment, computed layer by layer and nothing in place.

    Raises:
        ValueError: if the model has no graph or unknown input size, or for a layer that
            cannot be counted.
    """
    functional = graph.as_functional(network)
    if functional is None:
        raise ValueError(
            "`network` must be a functional or a built Sequential keras.Model. "
            f"Received: network of type {type(network).__name__}"
        )
    wanted = {"network": functional.outputs}
    if isinstance(functional.output, dict) and "exit_1" in functional.output:
        wanted = {name: [functional.output[name]] for name in exit_names(functional)}
        wanted["ensemble"] = list(functional.outputs)
    measured = Measured(functional, one_image(functional, input_shape))
    rows = {}
    for name, outputs in wanted.items():
        total = measured.total(outputs)
        trained, moving = parameters(graph.ancestors(measured.nodes, outputs))
        rows[name] = {
            "macs": total.macs,
            "flops": 2 * total.macs,
            "parameters": trained,
            "non_trainable": moving,
            "activations": total.activations,
            "peak_activation_bytes": total.peak,
        }
    return rows

"""The views of a batch, and the precision they are trained in."""

from sd_keras.distortions.chain import apply


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

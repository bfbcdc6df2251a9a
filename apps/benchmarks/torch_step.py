"""The training step of each method on images that lie on the device, in plain PyTorch."""

import torch
from benchmarks.torch_network import TEMPERATURE, objective
from torch.nn import functional

PADDING = 4
KL_WEIGHT, MMD_WEIGHT = 1.0, 5e-4


def pad(images):
    """Returns the pixels of raw images `(n, h, w, 3)` within a black border, as `(pixels, 3)`."""
    border = (0, 0, PADDING, PADDING, PADDING, PADDING)
    return functional.pad(images, border).reshape(-1, images.shape[-1])


def draw(count, device):
    """Draws row, column and mirroring, `(3, count)`, for `crop_flip`."""
    places = torch.randint(2 * PADDING + 1, (2, count), device=device)
    return torch.cat([places, torch.randint(2, (1, count), device=device)])


def crop_flip(pixels, chosen, draws, size):
    """Crops images back to their size at a drawn place and mirrors them, in one gather.

    Args:
        pixels: all images, as `pad` returns them.
        chosen: numbers of the images `(n,)`.
        draws: as `draw` returns them, `(3, n)`.
        size: height and width of the images.

    Returns:
        `(n, 3, size, size)`, its channels lying together.
    """
    padded = size + 2 * PADDING
    along = torch.arange(size, device=pixels.device)
    rows = (chosen * padded + draws[0])[:, None] + along
    columns = torch.where(draws[2][:, None] == 1, size - 1 - along, along) + draws[1][:, None]
    index = rows[:, :, None] * padded + columns[:, None, :]
    return pixels[index].permute(0, 3, 1, 2)


def views_loss(network, images, labels, num_views, is_mixed):
    """The loss of a method: of what the exits learn within each view, and between two of them.

    Args:
        network: a TorchNetwork; whether its shallow exits learn is whether it has any.
        images: the views of a batch, one behind the other.
        labels: class numbers `(n,)`.
        num_views: 1 or 2; two are made consistent.
        is_mixed: whether layers compute in bfloat16.
    """
    with torch.autocast(images.device.type, torch.bfloat16, enabled=is_mixed):
        logits, features = network(images)
    logits = [each.chunk(num_views) for each in logits]
    features = [each.float().chunk(num_views) for each in features]
    total = sum(objective(z, f, labels) for z, f in zip(zip(*logits), zip(*features)))
    if num_views == 1:
        return total
    return total + consistency(*logits[-1], *features[-1])


def consistency(logits_a, logits_b, features_a, features_b):
    """Symmetric KL, each target detached, and linear MMD between two views (DDGSD eq. 5)."""
    a = functional.log_softmax(logits_a / TEMPERATURE, dim=1)
    b = functional.log_softmax(logits_b / TEMPERATURE, dim=1)
    settings = {"reduction": "batchmean", "log_target": True}
    divergence = functional.kl_div(a, b.detach(), **settings)
    divergence = divergence + functional.kl_div(b, a.detach(), **settings)
    discrepancy = (features_a - features_b).mean(0).square().sum()
    return KL_WEIGHT * divergence + MMD_WEIGHT * discrepancy


def optimizer_of(network):
    """Returns SGD as ours is set, in the form that is fastest on the network's device."""
    parameters = list(network.parameters())
    fast = {"fused": True} if parameters[0].is_cuda else {"foreach": True}
    return torch.optim.SGD(parameters, 0.1, momentum=0.9, weight_decay=5e-4, **fast)


def train(loss_function, optimizer, *arguments):
    """Makes one step; returns the loss, which stays on the device."""
    optimizer.zero_grad()
    loss = loss_function(*arguments)
    loss.backward()
    optimizer.step()
    return loss.detach()

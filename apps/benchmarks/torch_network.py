"""Our residual networks and their losses, as PyTorch scripts write them; needs PyTorch only."""

import torch
from benchmarks.networks import CIFAR, EXPANDED, IMAGENET
from torch import nn
from torch.nn import functional

ALPHA, HINT_WEIGHT, TEMPERATURE = 0.5, 6.4e-5, 3.0


class ConvNorm(nn.Module):
    """Convolution without bias, and batch normalisation."""

    def __init__(self, channels, filters, size, stride=1):
        super().__init__()
        self.conv = nn.Conv2d(channels, filters, size, stride, padding=size // 2, bias=False)
        self.norm = nn.BatchNorm2d(filters)

    def forward(self, x):
        return self.norm(self.conv(x))


class Block(nn.Module):
    """A residual block; its parts carry the names that ours have."""

    def __init__(self, channels, width, stride, expansion, has_projection):
        super().__init__()
        filters = width * expansion
        sizes = [(width, 3, stride), (filters, 3, 1)]
        if expansion > 1:
            sizes = [(width, 1, 1), (width, 3, stride), (filters, 1, 1)]
        self.stride = stride
        self.added = filters - channels
        self.steps = []
        previous = channels
        for index, (outputs, size, step) in enumerate(sizes, start=1):
            self.steps.append(str(index))
            self.add_module(str(index), ConvNorm(previous, outputs, size, step))
            previous = outputs
        is_changed = stride > 1 or self.added > 0
        projects = has_projection and is_changed
        self.shortcut = ConvNorm(channels, filters, 1, stride) if projects else None

    def forward(self, x):
        kept = x
        if self.shortcut is not None:
            kept = self.shortcut(x)
        elif self.added:
            kept = x[:, :, :: self.stride, :: self.stride]
            kept = functional.pad(kept, (0, 0, 0, 0, 0, self.added))
        for name in self.steps[:-1]:
            x = functional.relu(self.get_submodule(name)(x), inplace=True)
        x = self.get_submodule(self.steps[-1])(x)
        x += kept
        return functional.relu(x, inplace=True)


class Bottleneck(nn.Module):
    """The `scala` head of sd_keras.layers.Bottleneck."""

    def __init__(self, channels, filters, pool, middle=128):
        super().__init__()
        self.conv_1, self.norm_1 = nn.Conv2d(channels, middle, 1), nn.BatchNorm2d(middle)
        self.conv_2, self.norm_2 = nn.Conv2d(middle, middle, pool, pool), nn.BatchNorm2d(middle)
        self.conv_3, self.norm_3 = nn.Conv2d(middle, filters, 1), nn.BatchNorm2d(filters)

    def forward(self, x):
        x = functional.relu(self.norm_1(self.conv_1(x)), inplace=True)
        x = functional.relu(self.norm_2(self.conv_2(x)), inplace=True)
        return functional.relu(self.norm_3(self.conv_3(x)), inplace=True)


class TorchNetwork(nn.Module):
    """A residual network with the CIFAR stem and one exit, or one after every section.

    Args:
        model: a name in CIFAR or IMAGENET.
        num_classes: number of classes.
        exits: "one" or "all".

    Shapes: raw uint8 images `(n, 3, h, w)` to a list of logits and a list of features,
    shallow to deep.
    """

    def __init__(self, model, num_classes, exits):
        super().__init__()
        is_cifar = model in CIFAR
        depths = (CIFAR[model],) * 3 if is_cifar else IMAGENET[model]
        widths = (16, 32, 64) if is_cifar else (64, 128, 256, 512)
        expansion = 4 if model in EXPANDED else 1
        self.stem = ConvNorm(3, widths[0], 3)
        self.blocks, self.taps = [], []
        channels, stride = widths[0], 1
        for stage, (depth, width) in enumerate(zip(depths, widths), start=1):
            is_last = stage == len(depths)
            ends = {depth, -(-depth // 2)} if is_cifar and is_last else {depth}
            for block in range(1, depth + 1):
                name = f"group_{stage}_block_{block}"
                step = 2 if stage > 1 and block == 1 else 1
                self.add_module(name, Block(channels, width, step, expansion, not is_cifar))
                self.blocks.append(name)
                channels, stride = width * expansion, stride * step
                if block in ends:
                    self.taps.append((name, channels, stride))
        if exits == "one":
            self.taps = self.taps[-1:]
        for index, (_, width, at) in enumerate(self.taps, start=1):
            if index < len(self.taps):
                self.add_module(f"bottleneck_{index}", Bottleneck(width, channels, stride // at))
            self.add_module(f"classifier_{index}", nn.Linear(channels, num_classes))

    def forward(self, images):
        x = images.float().mul_(1 / 127.5).sub_(1.0)
        x = functional.relu(self.stem(x), inplace=True)
        maps, taps = [], [name for name, *_ in self.taps]
        for name in self.blocks:
            x = self.get_submodule(name)(x)
            if name in taps:
                maps.append(x)
        logits, features = [], []
        for index, feature_map in enumerate(maps, start=1):
            if index < len(maps):
                feature_map = self.get_submodule(f"bottleneck_{index}")(feature_map)
            features.append(feature_map.mean((2, 3)))
            # Classifiers are float32 in ours, whatever the policy.
            with torch.autocast(images.device.type, enabled=False):
                classifier = self.get_submodule(f"classifier_{index}")
                logits.append(classifier(features[-1].float()))
        return logits, features


def copy_weights(network, torch_network):
    """Gives the PyTorch network the weights of ours; every one has to find its place."""
    from keras import ops

    layers = {layer.name: layer for layer in network.layers}
    for layer in network.layers:
        inner = getattr(layer, "blocks", [])
        layers |= {f"{layer.name}_{block.name}": block for block in inner}
    copied = 0
    for path, module in torch_network.named_modules():
        if not isinstance(module, (nn.Conv2d, nn.BatchNorm2d, nn.Linear)):
            continue
        layer = layers[path.replace(".", "_")]
        if isinstance(module, nn.BatchNorm2d):
            targets = [module.weight, module.bias, module.running_mean, module.running_var]
            sources = [layer.gamma, layer.beta, layer.moving_mean, layer.moving_variance]
        else:
            targets, sources = [module.weight, module.bias], [layer.kernel, layer.bias]
        for target, source in zip(targets, sources):
            if source is None:
                continue
            order = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[len(source.shape)]
            with torch.no_grad():
                target.copy_(torch.from_numpy(ops.convert_to_numpy(source)).permute(order))
            copied += 1
    if copied != len(network.weights):
        raise ValueError(f"copied {copied} of {len(network.weights)} weights")


def objective(logits, features, labels):
    """Be Your Own Teacher's loss; with one exit the cross entropy alone."""
    total = functional.cross_entropy(logits[-1], labels)
    teacher = functional.softmax(logits[-1].detach() / TEMPERATURE, dim=1)
    target = features[-1].detach().float()
    for shallow, vector in zip(logits[:-1], features[:-1]):
        student = functional.log_softmax(shallow / TEMPERATURE, dim=1)
        divergence = functional.kl_div(student, teacher, reduction="batchmean") * TEMPERATURE**2
        hint = (vector.float() - target).square().sum(1).mean()
        labels_loss = functional.cross_entropy(shallow, labels)
        total = total + (1 - ALPHA) * labels_loss + ALPHA * divergence + HINT_WEIGHT * hint
    return total

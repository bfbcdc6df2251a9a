"""Our residual networks and their training, as PyTorch scripts write them; needs PyTorch only.

channels_last, ReLU in place, autocast in mixed_bfloat16, torch.optim.SGD. Parts of the network
carry the names that ours have.
"""

import time
from collections import OrderedDict
from types import SimpleNamespace

import torch
from benchmarks.device import peak_memory
from benchmarks.harness import IMAGE_SHAPE, batch
from torch import nn
from torch.nn import functional

# Blocks per stage: three of widths 16, 32, 64 and shortcut A, or four of widths 64 … 512 and
# shortcut B, with expansion 4 where it is listed.
BLOCKS = {f"resnet{6 * n + 2}": (n, n, n) for n in (1, 3, 5, 7, 9, 18)} | {
    "resnet18": (2, 2, 2, 2),
    "resnet34": (3, 4, 6, 3),
    "resnet50": (3, 4, 6, 3),
    "resnet101": (3, 4, 23, 3),
    "resnet152": (3, 8, 36, 3),
}
EXPANDED = ("resnet50", "resnet101", "resnet152")
ALPHA, HINT_WEIGHT, TEMPERATURE = 0.5, 6.4e-5, 3.0
KL_WEIGHT, MMD_WEIGHT = 1.0, 5e-4
PADDING = 4


def conv_norm(channels, filters, size, stride=1):
    """Convolution without bias, and batch normalization."""
    conv = nn.Conv2d(channels, filters, size, stride, padding=size // 2, bias=False)
    return nn.Sequential(OrderedDict(conv=conv, norm=nn.BatchNorm2d(filters)))


class Block(nn.Sequential):
    """A residual block; `shortcut` is not one of its steps."""

    def __init__(self, channels, width, stride, expansion, has_projection):
        filters = width * expansion
        steps = [(channels, width, 3, stride), (width, filters, 3)]
        if expansion > 1:
            steps = [(channels, width, 1), (width, width, 3, stride), (width, filters, 1)]
        super().__init__(OrderedDict((str(i), conv_norm(*s)) for i, s in enumerate(steps, 1)))
        self.stride, self.added, self.num_steps = stride, filters - channels, len(steps)
        if has_projection and (stride > 1 or self.added):
            self.shortcut = conv_norm(channels, filters, 1, stride)

    def forward(self, images):
        x = images
        for index in range(1, self.num_steps + 1):
            x = functional.relu(x, inplace=True) if index > 1 else x
            x = self.get_submodule(str(index))(x)
        if hasattr(self, "shortcut"):
            images = self.shortcut(images)
        elif self.added:
            images = images[:, :, :: self.stride, :: self.stride]
            images = functional.pad(images, (0, 0, 0, 0, 0, self.added))
        x += images
        return functional.relu(x, inplace=True)


def bottleneck(channels, filters, pool, middle=128):
    """The `scala` head of sd_keras.layers.Bottleneck."""
    parts, sizes = {}, ((channels, middle, 1), (middle, middle, pool), (middle, filters, 1))
    for index, (inputs, outputs, size) in enumerate(sizes, start=1):
        parts[f"conv_{index}"] = nn.Conv2d(inputs, outputs, size, size)
        parts[f"norm_{index}"] = nn.BatchNorm2d(outputs)
        parts[f"relu_{index}"] = nn.ReLU(inplace=True)
    return nn.Sequential(OrderedDict(parts))


class TorchNetwork(nn.Module):
    """A residual network of BLOCKS with the CIFAR stem and "one" exit, or "all", one a section.

    Shapes: raw uint8 images `(n, 3, h, w)` to a list of logits and a list of features,
    shallow to deep.
    """

    def __init__(self, model, num_classes, exits):
        super().__init__()
        depths = BLOCKS[model]
        is_cifar = len(depths) == 3
        widths = (16, 32, 64) if is_cifar else (64, 128, 256, 512)
        expansion = 4 if model in EXPANDED else 1
        self.stem = conv_norm(3, widths[0], 3)
        self.blocks, places = [], []
        channels, stride = widths[0], 1
        for stage, (depth, width) in enumerate(zip(depths, widths), start=1):
            ends = {depth, -(-depth // 2)} if is_cifar and stage == len(depths) else {depth}
            for block in range(1, depth + 1):
                name, step = f"group_{stage}_block_{block}", 1 + (stage > 1 and block == 1)
                self.add_module(name, Block(channels, width, step, expansion, not is_cifar))
                self.blocks.append(name)
                channels, stride = width * expansion, stride * step
                if block in ends:
                    places.append((name, channels, stride))
        places = places[-1:] if exits == "one" else places
        self.exits = [name for name, *_ in places]
        for index, (_, width, at) in enumerate(places, start=1):
            if index < len(places):
                self.add_module(f"bottleneck_{index}", bottleneck(width, channels, stride // at))
            self.add_module(f"classifier_{index}", nn.Linear(channels, num_classes))

    def forward(self, images):
        x = images.float().mul_(1 / 127.5).sub_(1.0)
        x = functional.relu(self.stem(x), inplace=True)
        logits, features = [], []
        for name in self.blocks:
            x = self.get_submodule(name)(x)
            if name not in self.exits:
                continue
            index, is_last = len(logits) + 1, name == self.exits[-1]
            exit_map = x if is_last else self.get_submodule(f"bottleneck_{index}")(x)
            features.append(exit_map.mean((2, 3)))
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
        targets, sources = [module.weight, module.bias], ["kernel", "bias"]
        if isinstance(module, nn.BatchNorm2d):
            targets += [module.running_mean, module.running_var]
            sources = ["gamma", "beta", "moving_mean", "moving_variance"]
        for target, source in zip(targets, (getattr(layer, name) for name in sources)):
            if source is None:
                continue
            order = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[len(source.shape)]
            with torch.no_grad():
                target.copy_(torch.from_numpy(ops.convert_to_numpy(source)).permute(order))
            copied += 1
    if copied != len(network.weights):
        raise ValueError(f"copied {copied} of {len(network.weights)} weights")


def byot_loss(logits, features, labels):
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


def consistency(logits_a, logits_b, features_a, features_b):
    """Symmetric KL, each target detached, and linear MMD between two views (DDGSD eq. 5)."""
    a = functional.log_softmax(logits_a / TEMPERATURE, dim=1)
    b = functional.log_softmax(logits_b / TEMPERATURE, dim=1)
    settings = {"reduction": "batchmean", "log_target": True}
    divergence = functional.kl_div(a, b.detach(), **settings)
    divergence = divergence + functional.kl_div(b, a.detach(), **settings)
    discrepancy = (features_a - features_b).mean(0).square().sum()
    return KL_WEIGHT * divergence + MMD_WEIGHT * discrepancy


def views_loss(network, images, labels, num_views, is_mixed):
    """The loss of a method: Be Your Own Teacher's within each view, and consistency of two.

    Takes a TorchNetwork, the views of a batch one after the other, class numbers `(n,)`, the
    number of views, 1 or 2, and whether layers compute in bfloat16.
    """
    with torch.autocast(images.device.type, torch.bfloat16, enabled=is_mixed):
        logits, features = network(images)
    logits = [each.chunk(num_views) for each in logits]
    features = [each.float().chunk(num_views) for each in features]
    total = sum(byot_loss(z, f, labels) for z, f in zip(zip(*logits), zip(*features)))
    return total + (consistency(*logits[-1], *features[-1]) if num_views > 1 else 0)


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


def step_of(network, images, labels, is_mixed=False):
    """Returns a function that trains the network on one batch and returns the loss."""
    network = network.to(memory_format=torch.channels_last).train()
    # Rows of channels lie together in the array already, so this is channels_last.
    images = torch.from_numpy(images).permute(0, 3, 1, 2)
    data, optimizer = (images, torch.from_numpy(labels).long()), optimizer_of(network)
    return lambda: train(views_loss, optimizer, network, *data, 1, is_mixed).item()


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

    Takes what `pad` and `draw` return, numbers of the images `(n,)` and their height and width;
    returns `(n, 3, size, size)`, in channels_last.
    """
    padded = size + 2 * PADDING
    along = torch.arange(size, device=pixels.device)
    rows = (chosen * padded + draws[0])[:, None] + along
    columns = torch.where(draws[2][:, None] == 1, size - 1 - along, along) + draws[1][:, None]
    index = rows[:, :, None] * padded + columns[:, None, :]
    return pixels[index].permute(0, 3, 1, 2)


class Training:
    """Epochs of training on random images on the device, which are picked, cropped and mirrored
    there; views, network and loss are compiled as one function, or eager, as `note` says.
    """

    def __init__(self, settings):
        torch.manual_seed(0)
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.settings = settings
        data = batch(settings, settings.steps * settings.batch_size)
        images, labels = (torch.from_numpy(each) for each in data)
        self.pixels, self.labels = pad(images).to(self.device), labels.long().to(self.device)
        exits = "all" if "teacher" in settings.method else "one"
        network = TorchNetwork(settings.model, settings.num_classes, exits)
        self.network = network.to(self.device, memory_format=torch.channels_last).train()
        self.optimizer = optimizer_of(self.network)
        self.loss_function, self.note = None, None

    def _compile(self, chosen):
        self.loss_function, self.note = torch.compile(self._loss), "compiled"
        try:
            self.loss_function(chosen)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever a compiler has to say
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            self.note = f"eager: {(lines or [type(error).__name__])[0][:100]}"
            self.loss_function = self._loss

    def _loss(self, chosen):
        views = self.settings.views
        draws = draw(views * len(chosen), self.device)
        images = crop_flip(self.pixels, chosen.repeat(views), draws, IMAGE_SHAPE[0])
        is_mixed = self.settings.precision == "mixed_bfloat16"
        return views_loss(self.network, images, self.labels[chosen], views, is_mixed)

    def epoch(self):
        """Trains on every image once; returns the mean loss, for which the device is waited."""
        steps, size = self.settings.steps, self.settings.batch_size
        order = torch.randperm(steps * size, device=self.device).view(steps, size)
        total = torch.zeros((), device=self.device)
        if self.loss_function is None:  # within the first epoch, as ours
            self._compile(order[0])
        for chosen in order:
            total += train(self.loss_function, self.optimizer, chosen)
        return total.item() / steps


def train_in_turns(protocol, **settings):
    """Trains an epoch in each turn."""
    training = Training(SimpleNamespace(**settings))
    protocol.answer()
    while protocol.wait():
        start = time.perf_counter()
        training.epoch()
        seconds = time.perf_counter() - start
        protocol.answer(seconds=seconds, memory=peak_memory("torch"), note=training.note)

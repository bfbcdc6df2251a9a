"""PyTorch's side of `benchmark.py train --device`: epochs of plain steps, which are turns.

Run as a process of its own by benchmarks.device, with its settings as JSON. What a good script
does: images stay on the device and are picked, cropped and mirrored there; channels_last;
autocast; views, network and loss compiled as one function; nothing read before an epoch ends.
Metrics and the check of the labels are part of our side only.
"""

import json
import sys
import time
from types import SimpleNamespace

import torch
from benchmarks.accelerators import peak_memory
from benchmarks.images import IMAGE_SHAPE, batch
from benchmarks.torch_network import TorchNetwork
from benchmarks.torch_step import crop_flip, draw, optimizer_of, pad, train, views_loss
from benchmarks.turns import Turns


class Training:
    """Random images on the device, and epochs of training on them.

    Args:
        settings: as benchmarks.device sends them.

    Attributes:
        beside: what a reader of the figures has to know, once a step is made.
    """

    def __init__(self, settings):
        torch.manual_seed(0)
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.settings = settings
        images, labels = (
            torch.from_numpy(each) for each in batch(settings, settings.steps * settings.batch_size)
        )
        self.pixels = pad(images).to(self.device)
        self.labels = labels.long().to(self.device)
        exits = "all" if settings.all_exits else "one"
        network = TorchNetwork(settings.model, settings.num_classes, exits)
        self.network = network.to(self.device, memory_format=torch.channels_last).train()
        self.optimizer = optimizer_of(self.network)
        self.loss_function = torch.compile(self._loss)
        self.beside = None

    def _loss(self, chosen):
        views = self.settings.views
        draws = draw(views * len(chosen), self.device)
        images = crop_flip(self.pixels, chosen.repeat(views), draws, IMAGE_SHAPE[0])
        is_mixed = self.settings.precision == "mixed_bfloat16"
        return views_loss(self.network, images, self.labels[chosen], views, is_mixed)

    def step(self, chosen):
        """Makes one step on the images with these numbers; without a compiler step by step."""
        if self.beside is not None:
            return train(self.loss_function, self.optimizer, chosen)
        try:
            loss = train(self.loss_function, self.optimizer, chosen)
            self.beside = "compiled"
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever a compiler has to say
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            self.beside = f"eager: {(lines or [type(error).__name__])[0][:100]}"
            self.loss_function = self._loss
            loss = train(self.loss_function, self.optimizer, chosen)
        return loss

    def epoch(self):
        """Trains on every image once; returns the mean loss, for which the device is waited."""
        steps, size = self.settings.steps, self.settings.batch_size
        order = torch.randperm(steps * size, device=self.device).view(steps, size)
        total = torch.zeros((), device=self.device)
        for chosen in order:
            total += self.step(chosen)
        return total.item() / steps


def main(settings):
    """Trains an epoch at each line of input."""
    turns = Turns()
    training = Training(settings)
    turns.answer()
    while turns.wait():
        start = time.perf_counter()
        training.epoch()
        seconds = time.perf_counter() - start
        turns.answer(seconds=seconds, memory=peak_memory("torch"), beside=training.beside)


if __name__ == "__main__":
    main(SimpleNamespace(**json.loads(sys.argv[1])))

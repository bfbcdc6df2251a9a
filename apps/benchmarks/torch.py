"""The torch part of benchmark.py: the same training step in plain PyTorch.

Run by `python apps/benchmark.py torch`, which needs `pip install '.[torch]'`.

The network is written as PyTorch scripts write it: channels_last, ReLU in place, autocast in
the mixed row, torch.optim.SGD. It starts from the weights of ours and sees the same batch.
Distortion, metrics and the check of the labels are part of our step only: PyTorch scripts
distort in worker processes, so the comparison leaves PyTorch that advantage.

Only a quiet machine tells something here: PyTorch's threads wait for each other at every
operation, and one busy foreign process can slow its step six times and ours twice.
"""

import os
import statistics

import tensorflow as tf
import torch
from benchmarks.figures import compare, figure, interleave
from benchmarks.images import batch
from benchmarks.torch_network import TorchNetwork, copy_weights, objective
from benchmarks.trainers import step_of, trainer


def torch_step_of(torch_network, images, labels, precision):
    """Returns a function that trains the network on one batch and returns the loss."""
    torch_network = torch_network.to(memory_format=torch.channels_last).train()
    parameters = torch_network.parameters()
    optimizer = torch.optim.SGD(parameters, 0.1, momentum=0.9, weight_decay=5e-4)
    # Rows of channels lie together in the array already, so this is channels_last.
    images = torch.from_numpy(images).permute(0, 3, 1, 2)
    labels = torch.from_numpy(labels).long()

    def step():
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "mixed_bfloat16"):
            logits, features = torch_network(images)
        loss = objective(logits, features, labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def torch_figures(settings):
    """Images per second of ours against PyTorch, with one exit and with all."""
    # TensorFlow takes every core unless it is told otherwise.
    available = getattr(os, "sched_getaffinity", lambda pid: range(os.cpu_count()))(0)
    threads = tf.config.threading.get_intra_op_parallelism_threads() or len(available)
    torch.set_num_threads(threads)
    figures = []
    for precision in settings.precision:
        for method, exits in (("baseline", "one"), ("be_your_own_teacher", "all")):
            model = trainer(settings, precision, method)
            torch_network = TorchNetwork(settings.model, settings.num_classes, exits)
            copy_weights(model.network, torch_network)
            data = batch(settings, settings.batch_size)
            steps = {
                "ours": step_of(model, settings, settings.batch_size),
                "torch": torch_step_of(torch_network, *data, precision),
            }
            seconds = interleave(steps, settings.repeats)
            speeds = {n: settings.batch_size / statistics.median(s) for n, s in seconds.items()}
            row = compare(seconds["torch"], seconds["ours"]) | {
                "precision": precision,
                "beside": f"{speeds['ours']:.1f} / {speeds['torch']:.1f} images/s",
                "images_per_second": speeds,
                "threads": threads,
            }
            figures.append(figure("torch", f"{method}, ours / torch", ">= 0.95", **row))
    return figures

"""The residual networks that the benchmark has in PyTorch, too; needs nothing installed."""

# Blocks per stage; the first family has widths 16, 32, 64 and shortcut A, the second
# 64 … 512 and shortcut B, with expansion 4 where it is listed.
CIFAR = {"resnet8": 1, "resnet20": 3, "resnet32": 5, "resnet44": 7, "resnet56": 9, "resnet110": 18}
IMAGENET = {
    "resnet18": (2, 2, 2, 2),
    "resnet34": (3, 4, 6, 3),
    "resnet50": (3, 4, 6, 3),
    "resnet101": (3, 4, 23, 3),
    "resnet152": (3, 8, 36, 3),
}
EXPANDED = ("resnet50", "resnet101", "resnet152")

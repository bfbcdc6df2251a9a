"""Packaging of sd_keras."""

import pathlib
import re

import setuptools

ROOT = pathlib.Path(__file__).parent
VERSION = re.search(r'"(.+)"', (ROOT / "sd_keras/version.py").read_text().split("=")[1])[1]

PLOTS = ["matplotlib>=3.8"]
JAX = ["jax>=0.6"]
# 2.13.0 also exists as a CPU build; other versions bring several GB of CUDA.
TORCH = ["torch==2.13.0"]
# 1.16 needs an older protobuf than TensorFlow.
ONNX = ["tf2onnx>=1.17", "onnx>=1.19", "onnxruntime>=1.20"]
LITE = ["ai-edge-litert>=2.0.2"]
# The successor of KerasCV: its backbones take exits, too.
HUB = ["keras-hub>=0.20"]
# Its clients speak TF Serving's gRPC; each version wants the TensorFlow of its number.
SERVING = ["tensorflow-serving-api>=2.20"]

setuptools.setup(
    name="sd_keras",
    version=VERSION,
    description="Self-distillation for image classifiers on Keras 3 and TensorFlow",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=setuptools.find_packages(include=["sd_keras", "sd_keras.*"]),
    python_requires=">=3.11",
    install_requires=[
        "tensorflow>=2.20",
        "keras>=3.15,<3.17",
        "keras-cv>=0.9",
        "tensorflow-datasets>=4.9.10",
        # tensorflow-datasets 4.9.10 imports it on Python 3.11 without saying so.
        "importlib_resources",
        "absl-py>=2.0",
        "numpy>=1.26",
        "scikit-learn>=1.4",
        "scipy>=1.10",
        # Keras's TensorBoard callback writes through it.
        "tensorboard>=2.20",
    ],
    extras_require={
        "plots": PLOTS,
        "jax": JAX,
        "torch": TORCH,
        "lite": LITE,
        "onnx": ONNX,
        "serving": SERVING,
        "hub": HUB,
        "dev": [
            *["pytest>=8", "pytest-xdist>=3.6.1", "ruff>=0.9"],
            *[*JAX, *PLOTS, *LITE, *ONNX, *SERVING, *HUB],
        ],
    },
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)

"""Trained networks as artifacts: for TF Serving, for phones, for other runtimes, for Keras."""

from sd_keras.export.keras_file import write_keras as keras
from sd_keras.export.lite_file import lite, lite_cascade
from sd_keras.export.onnx_file import onnx
from sd_keras.export.saved_model import saved_model

__all__ = ["keras", "lite", "lite_cascade", "onnx", "saved_model"]

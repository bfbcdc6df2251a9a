"""A results card: each exit's accuracy, cost and latency."""

from sd_keras.results_card.figures import MAX_DROPS, figures
from sd_keras.results_card.latencies import keras_latencies, lite_latencies, saved_model_latencies
from sd_keras.results_card.page import as_html, as_markdown
from sd_keras.results_card.plots import MISSING as PLOTS_MISSING
from sd_keras.results_card.plots import has_plots

__all__ = [
    "MAX_DROPS",
    "PLOTS_MISSING",
    "as_html",
    "as_markdown",
    "figures",
    "has_plots",
    "keras_latencies",
    "lite_latencies",
    "saved_model_latencies",
]

"""Pictures of a training: curves, stages, rates and norms. Needs matplotlib."""

from keras_finetune.plotting.history import plot_history

__all__ = ["plot_history"]

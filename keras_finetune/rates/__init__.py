"""Learning rates: how to find one before training."""

from keras_finetune.rates.find import find_learning_rate
from keras_finetune.rates.rate_search import RateSearch

__all__ = ["RateSearch", "find_learning_rate"]

"""Fine-tuning for Keras, inside one `model.fit`."""

__version__ = "0.1.0"

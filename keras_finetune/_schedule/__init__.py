"""When things happen: plain arithmetic on epochs and metrics, without Keras."""

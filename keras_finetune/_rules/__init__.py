"""What a fine-tuner asks for, as rules on a model's groups and variables.

They know models, but no framework: `stages` says what trains when, `multipliers` at
which share of the base learning rate, `selection` and `parts` name variables.
"""

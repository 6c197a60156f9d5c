"""How a model becomes groups of layers: the work behind `layer_groups`.

`units` takes the model apart, `automatic` or `listed` put the units together again;
`names` and `graph` know what layers are called and how they are connected.
"""

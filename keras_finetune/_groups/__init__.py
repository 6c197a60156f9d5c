"""How a model becomes groups of layers: the work behind `layer_groups`.

`units` takes the model apart, `containers` says how far, `automatic` or `listed` put
the units together again, as `runs`; `towers` joins those side by side. `kinds`,
`blocks` and `names` know what layers are and are called, `graph` how they are
connected, `entries` what the user wrote.
"""

"""Several processes that train one model: which of them speaks, what they agree on.

Each runs the whole script, callbacks included. TensorFlow, JAX or PyTorch averages the
gradients; nothing of that is done here.
"""

from __future__ import annotations

import textwrap
from typing import Any

from keras_finetune._engine import backend


def is_chief(model: Any) -> bool:
    """Whether this process prints and writes for all that train the model."""
    if backend() == "jax":
        import jax

        return int(jax.process_index()) == 0
    if backend() == "torch":
        return not _torch_group() or _torch_group().get_rank() == 0
    strategy = getattr(model, "distribute_strategy", None)
    return strategy is None or bool(strategy.extended.should_checkpoint)


def announce(model: Any, message: str) -> None:
    """Print in lines of 80 characters, once, however many processes train."""
    if is_chief(model):
        print("\n" + textwrap.fill(message, 80, subsequent_indent="  "), flush=True)


def agreed(decision: bool) -> bool:
    """Return the decision of the chief, where processes may come to different ones.

    TensorFlow and JAX give the same logs to all. On PyTorch the metrics of a process
    are those of its part of the data, unless the model's `train_step` sums them up.
    """
    if backend() != "torch" or not _torch_group():
        return decision
    decisions = [decision]
    _torch_group().broadcast_object_list(decisions, src=0)
    return decisions[0]


def _torch_group() -> Any:
    """Return the module of PyTorch's process group, where there is one."""
    from torch import distributed

    runs = distributed.is_available() and distributed.is_initialized()
    return distributed if runs else None

"""Fine-tuning in one line: callbacks of named recipes, which can be written out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

from keras_finetune import _checks
from keras_finetune.callbacks import (
    DiscriminativeLR,
    FeatureCache,
    GradualUnfreeze,
    OneCycle,
    SlantedTriangular,
    TrainOnly,
)

Recipe: TypeAlias = Literal[
    "default", "lp-ft", "ulmfit", "layer-decay", "fastai", "bias", "lora"
]


def fine_tune(
    epochs: int,
    *,
    recipe: Recipe = "default",
    rates: Sequence[float] | None = None,
    cache: bool = False,
) -> list[Any]:
    """Return the callbacks of a recipe, for `model.fit(callbacks=...)`.

    Compile the model with the base learning rate, for example with what
    `find_learning_rate` suggests, and call `fit` with the same number of epochs. After
    `"lp-ft"` and `"fastai"` the optimizer keeps the rate of the last stage: compile
    again before another run. It is a plain list, to which other callbacks can be added;
    printed, it shows the words that make it by hand.

    - `"lp-ft"`: the head alone for a third of the epochs, then all groups at a tenth of
      the rate, or at the second of `rates`. In either part the rate rises and falls
      along a cosine; in the second it rises for half of the updates, for a network that
      breaks at a rate it is given too soon. Adam corrects its averages by the updates
      of each group.
    - `"ulmfit"`: one more group each epoch, the rate of each group 2.6 times that of
      the one below, under a slanted triangle.
    - `"layer-decay"`: all layers from the start, with rates multiplied by 0.65
      from each block to the one below, a rise of a tenth and a cosine; as for MAE and
      BEiT. (ELECTRA has 0.8 to 0.9.)
    - `"fastai"`: its `fine_tune`: the head for one epoch, then everything at half the
      rate, the body at a hundredth of that, one cycle each, of which the first rises
      to its end.
    - `"bias"`: BitFit: biases and shifts of normalization only, under a slanted
      triangle. The kernel of a new head does not train either: train the head before.
    - `"lora"`: the adapters that Keras's `enable_lora` makes, under a slanted triangle.
      As with `"bias"`, train the kernel of a new head before.
    - `"default"`: `"lp-ft"`.

    Args:
        epochs: The epochs that `fit` will run, at least 1; `"lp-ft"` and `"fastai"`
            need 2.
        recipe: The name of a recipe.
        rates: For `"lp-ft"`: the base rates of its two stages, such as
            `find_learning_rate(..., stage="each")` suggests, whatever the rate of
            `compile` is. A new head tolerates a far higher rate than what was
            pre-trained; how much higher depends on the task. Defaults to the rate of
            the optimizer and a tenth of it.
        cache: Whether to compute the features of the frozen body once a row, with a
            `FeatureCache`: for `"lp-ft"`, whose head trains alone for more than one
            epoch if there are five or more in all. The model must have a graph, that
            is, no `call` of its own.

    Returns:
        A list of callbacks.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If there is no such recipe, too few epochs for it, nothing in it to
            cache, or no use in it for `rates`.

    Example:

    >>> print(fine_tune(6, recipe="ulmfit"))
    [GradualUnfreeze(every=1), DiscriminativeLR(decay=2.6), SlantedTriangular()]

    References:
        - [Kumar et al., 2022](https://arxiv.org/abs/2202.10054) (LP-FT)
        - [Howard and Ruder, 2018](https://arxiv.org/abs/1801.06146) (ULMFiT)
        - [He et al., 2021](https://arxiv.org/abs/2111.06377) (MAE), table 9
        - [Ben Zaken et al., 2021](https://arxiv.org/abs/2106.10199) (BitFit)
        - [Hu et al., 2021](https://arxiv.org/abs/2106.09685) (LoRA)
    """
    epochs = _checks.integer("epochs", epochs, 1)
    name = _checks.choice("recipe", recipe, ("default", *_RECIPES))
    name = _DEFAULT if name == "default" else name
    if epochs < 2 and name in _TWO_STAGES:
        raise ValueError(
            f"The recipe {name!r} has two stages, so argument `epochs` must be at "
            f"least 2. Received: epochs={epochs!r}"
        )
    if _checks.boolean("cache", cache) and name not in _FREEZING:
        raise ValueError(
            f"In the recipe {name!r} nothing is frozen, or something else after an "
            f"epoch, so there is nothing to cache. Received: cache={cache!r}"
        )
    if rates is None:
        callbacks = _RECIPES[name](epochs)
    else:
        callbacks = _lp_ft(epochs, _two_rates(name, rates))
    return [*callbacks, *([FeatureCache()] if cache else [])]


def _two_rates(name: str, rates: Any) -> list[float]:
    """Return the rates of two stages, or raise naming the argument."""
    if name != "lp-ft":
        raise ValueError(
            "Argument `rates` is for the recipe 'lp-ft', whose two stages differ. "
            f"Received: rates={rates!r}, recipe={name!r}"
        )
    if not hasattr(rates, "__len__") or isinstance(rates, str) or len(rates) != 2:
        raise TypeError(
            "Argument `rates` must be a list of two learning rates: for the head, and "
            f"for everything. Received: rates={rates!r}"
        )
    if any(hasattr(rate, "suggestion") for rate in rates):
        raise TypeError(
            "Argument `rates` must hold numbers: the `suggestion` of each search. "
            f"Received: rates={rates!r}"
        )
    if any(rate is None for rate in rates):
        raise TypeError(
            "Argument `rates` must hold numbers. Where `find_learning_rate` suggests "
            "None, its `reason` says why; choose a rate yourself. "
            f"Received: rates={rates!r}"
        )
    return _checks.numbers("rates", rates, 0.0, exclusive=True)


def _lp_ft(epochs: int, rates: Sequence[float] | None = None) -> list[Any]:
    """Return the head alone, then everything at a rate of its own."""
    scale: Any = {"learning_rate_factor": 0.1}
    if rates is not None:
        scale = {"learning_rates": rates}
    unfreeze = GradualUnfreeze(
        2, every=[max(1, round(epochs / 3))], bias_correction="group", **scale
    )
    return [unfreeze, OneCycle([0.1, 0.5], momentum=None, per="stage")]


_RECIPES: Mapping[str, Callable[[int], list[Any]]] = {
    "lp-ft": _lp_ft,
    "ulmfit": lambda epochs: [
        GradualUnfreeze(every=1),
        DiscriminativeLR(2.6),
        SlantedTriangular(),
    ],
    "layer-decay": lambda epochs: [
        DiscriminativeLR(1 / 0.65, groups="auto"),
        OneCycle(0.1, momentum=None),
    ],
    "fastai": lambda epochs: [
        GradualUnfreeze(2, every=[1], learning_rate_factor=0.5, batch_norm="trainable"),
        DiscriminativeLR(multipliers=[0.01, 1.0]),
        OneCycle([0.99, 0.3], div=[25.0, 5.0], per="stage"),
    ],
    "bias": lambda epochs: [TrainOnly("bias"), SlantedTriangular()],
    "lora": lambda epochs: [TrainOnly("lora"), SlantedTriangular()],
}
_DEFAULT = "lp-ft"
_TWO_STAGES = ("lp-ft", "fastai")
_FREEZING = ("lp-ft",)

"""Steps that are fed on JAX."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from keras_finetune._engine import keras
from keras_finetune._engine.active import lane
from keras_finetune._engine.features._interface import Backend, Fed, Kind, Role, Step


class Jax(Backend):
    """JAX, where a step is given all weights: the prefix takes its own from there."""

    def refusal(self, model: Any) -> str | None:
        if keras.distribution.distribution() is not None:
            return "the model is trained on several devices"
        return super().refusal(model)

    def step(self, model: Any, role: Role) -> Step:
        compiled = (
            lane.new_train_function(model)
            if role == "train"
            else lane.new_test_function(model)
        )

        def call(state: Any, fed: list[Fed]) -> Any:
            return compiled(state, iter(fed))

        return call

    def prefix(
        self,
        model: Any,
        compute: Callable[[Any, bool], list[Any]],
        training: bool,
        drawing: Sequence[Any] = (),
    ) -> Step:
        known = {id(v): i for i, v in enumerate(model.non_trainable_variables)}
        seeds = [seed.state for layer in drawing for seed in layer._seed_generators]

        def stateless(
            trainable: Any, others: Any, x: Any
        ) -> tuple[list[Any], list[Any]]:
            variables = [*model.trainable_variables, *model.non_trainable_variables]
            pairs = list(zip(variables, [*trainable, *others], strict=True))
            with keras.StatelessScope(state_mapping=pairs) as scope:
                features = compute(x, training)
            return features, [scope.get_current_value(seed) for seed in seeds]

        eager = model.run_eagerly or not model.jit_compile
        compiled = stateless if eager else jax.jit(stateless)

        def call(state: Any, x: Any) -> tuple[list[Any], tuple[Any]]:
            features, moved = compiled(state[0], state[1], x)
            if seeds:
                # The step takes them on from here, as it would from its own draws.
                others = [*state[1]]
                for seed, value in zip(seeds, moved, strict=True):
                    others[known[id(seed)]] = value
                state = (state[0], others, *state[2:])
            return list(features), (state,)

        return call

    def tensor(self, x: np.ndarray, kind: Kind) -> Any:
        del kind
        return jnp.asarray(x)

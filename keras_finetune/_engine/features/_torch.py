"""Steps that are fed on PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from keras import ops

from keras_finetune._engine.active import lane
from keras_finetune._engine.features._interface import (
    Backend,
    Fed,
    Kind,
    Role,
    Step,
    one_by_one,
)


class Torch(Backend):
    """PyTorch, where Keras gives a step a list of batches."""

    def refusal(self, model: Any) -> str | None:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return "the model is trained by several processes"
        return super().refusal(model)

    def takes_any_size(self, model: Any) -> bool:
        del model
        return True

    def step(self, model: Any, role: Role) -> Step:
        compiled = (
            lane.new_train_function(model)
            if role == "train"
            else lane.new_test_function(model)
        )

        def call(fed: list[Fed]) -> Any:
            return one_by_one(lambda batch: compiled([batch]), fed)

        return call

    def prefix(
        self,
        model: Any,
        compute: Callable[[Any, bool], list[Any]],
        training: bool,
        drawing: Sequence[Any] = (),
    ) -> Step:
        del model, drawing

        def call(x: Any) -> tuple[list[Any], tuple[()]]:
            with torch.no_grad():
                return compute(x, training), ()

        return call

    def numpy(self, x: Any) -> np.ndarray | None:
        if not isinstance(x, torch.Tensor):
            return np.asarray(x)
        if x.layout != torch.strided:
            return None
        x = x.detach().cpu()
        # NumPy knows no bfloat16: its bits do as well.
        return (x.view(torch.int16) if x.dtype == torch.bfloat16 else x).numpy()

    def kind(self, x: Any) -> Kind:
        shape = tuple(int(n) for n in x.shape[1:])
        return Kind(shape, str(x.dtype).removeprefix("torch."))

    def tensor(self, x: np.ndarray, kind: Kind) -> Any:
        if kind.dtype == "bfloat16":
            bits = torch.from_numpy(x.view(np.int16)).view(torch.bfloat16)
            return ops.convert_to_tensor(bits)
        return ops.convert_to_tensor(x)

    def input(self, x: np.ndarray, like: Any) -> Any:
        if not isinstance(like, torch.Tensor):
            return x
        rows = torch.from_numpy(np.ascontiguousarray(x))
        return rows.view(like.dtype) if like.dtype == torch.bfloat16 else rows

"""The pass on PyTorch, which has no cheap compiler: few kernels for each weight."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from keras_finetune._engine.norms._pass import Matrix, Pass

# On a CPU, PyTorch adds a row in few chains, so that rows must be short; a weight that
# a single thread takes is widened as a whole.
_ROW = 128
_ONE_THREAD = 2**15


class TorchPass(Pass):
    """An eager loop over the weights that are asked for, without autograd."""

    @staticmethod
    def value(variable: Any) -> Any:
        return variable.value

    @staticmethod
    def copy(variable: Any) -> Any:
        return variable.value.detach().clone()

    @torch.no_grad()
    def norms(self, places: Sequence[int], copies: Sequence[Sequence[Any]]) -> Matrix:
        values = [_wide(self.variables[place].value) for place in places]
        rows = [torch.stack([self._norm(x) for x in values])]
        for copied in copies:
            row = [copied[place] for place in places]
            changes = [x - _wide(y) for x, y in zip(values, row, strict=True)]
            rows.append(torch.stack([self._norm(x) for x in changes]))
        return np.asarray(torch.stack(rows).cpu(), "float64")

    def _norm(self, x: Any) -> Any:
        if self.order == "spectral":
            matrix = x.reshape(-1, x.shape[-1]).double()
            if matrix.shape[0] < matrix.shape[1]:
                matrix = matrix.T
            return torch.linalg.eigvalsh(matrix.T @ matrix).max().sqrt()
        if x.device.type != "cpu" or self.order == math.inf:
            return torch.linalg.vector_norm(x, self.order)
        x = x.reshape(-1)
        if x.numel() <= _ONE_THREAD:
            return torch.linalg.vector_norm(x.double(), self.order)
        whole = x.numel() // _ROW * _ROW
        rows, rest = x[:whole].view(-1, _ROW), x[whole:].double()
        if self.order == 1:
            return rows.abs().sum(1).double().sum() + rest.abs().sum()
        rows = torch.linalg.vector_norm(rows, 2, 1).double()
        return torch.sqrt(torch.dot(rows, rows) + torch.dot(rest, rest))


def _wide(x: Any) -> Any:
    return x.float() if x.element_size() < 4 else x

"""Which composite layers are taken apart: those that hold the blocks of the body."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from keras_finetune._engine import flags, structure
from keras_finetune._groups import kinds
from keras_finetune._groups.units import children

# A container is taken apart if it holds this share of the weights that are in no
# embedding, or a layer of its class beside it does.
_SHARE = 1 / 4
# Lists of plain layers are as many blocks only if there is hardly anything else.
_PLAIN_COUNT, _PLAIN_SHARE = 3, 0.9
# A nested model of fewer layers is a part of a block, a feed-forward network.
_BODY_LAYERS = 4


class Containers:
    """The composite layers of a model that are taken apart; call it with a layer.

    Args:
        model: The model.
    """

    def __init__(self, model: Any) -> None:
        self._sizes: dict[int, int] = {}
        self._answers: dict[int, bool] = {}
        self._opened: set[int] = set()
        self._visit(model, self._size(model), set())

    def __call__(self, layer: Any) -> bool:
        return id(layer) in self._opened

    def _visit(self, part: Any, total: int, seen: set[int]) -> None:
        if id(part) in seen:
            return
        seen.add(id(part))
        layers = [child for child in children(part) if not kinds.is_embedding(child)]
        found = [x for x in layers if not structure.is_model(x) and self._holds(x)]
        large = {type(x) for x in found if self._size(x) >= _SHARE * total}
        opened = [x for x in found if type(x) in large]
        self._opened.update(map(id, opened))
        for child in (*opened, *filter(structure.is_model, layers)):
            self._visit(child, total, seen)

    def _holds(self, layer: Any) -> bool:
        """Whether most of a layer's weights are in repeated children of it."""
        if id(layer) not in self._answers:
            self._answers[id(layer)] = False
            size = self._size(layer)
            inner = [x for x in children(layer) if self._is_body(x)]
            self._answers[id(layer)] = size > 0 and (
                2 * self._total(_repeated(layer, kinds.is_block)) >= size
                or self._total(_plain(layer)) >= _PLAIN_SHARE * size
                or 2 * self._total(inner) >= size
            )
        return self._answers[id(layer)]

    def _is_body(self, child: Any) -> bool:
        if kinds.is_embedding(child):
            return False
        if structure.is_model(child):
            return len(list(kinds.main_leaves(child))) >= _BODY_LAYERS
        return self._holds(child)

    def _total(self, layers: list[Any]) -> int:
        return sum(map(self._size, layers))

    def _size(self, layer: Any) -> int:
        """How many numbers the weights of a layer hold, without embeddings."""
        if id(layer) not in self._sizes:
            self._sizes[id(layer)] = 0
            if structure.is_model(layer) or not kinds.is_embedding(layer):
                parts = children(layer)
                inner = {structure.variable_key(v) for x in parts for v in _weights(x)}
                own = [
                    v for v in _weights(layer) if structure.variable_key(v) not in inner
                ]
                self._sizes[id(layer)] = flags.count(own) + self._total(list(parts))
        return self._sizes[id(layer)]


def _weights(layer: Any) -> tuple[Any, ...]:
    return structure.weights(layer) if structure.is_built(layer) else ()


def _repeated(layer: Any, is_one: Any) -> list[Any]:
    """Return the children that repeat a class, however the layer holds them."""
    series: dict[str, list[Any]] = {}
    for name, held in structure.attributes(layer).items():
        if not kinds.is_part_of_a_block(name):
            series.setdefault(re.sub(r"\d+", "#", name), []).extend(held)
    found = {}
    for members in series.values():
        ones = [x for x in members if is_one(x)]
        if ones and Counter(map(type, ones)).most_common(1)[0][1] > 1:
            found.update({id(x): x for x in ones})
    return list(found.values())


def _plain(layer: Any) -> list[Any]:
    """Return the plain layers in a list, if they are many."""
    for name, held in structure.attributes(layer).items():
        plain = [x for x in held if _weights(x) and not structure.sublayers(x)]
        main = [x for x in plain if not kinds.is_normalization(x)]
        if len(main) >= _PLAIN_COUNT and not kinds.is_part_of_a_block(name):
            return plain
    return []

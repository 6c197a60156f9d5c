"""A model as ordered groups of layers, from the input (bottom) to the output (top)."""

from __future__ import annotations

import html
import itertools
import re
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any, overload

from keras_finetune._engine import keras, structure

HEAD = "head"

# What a layer's name says about the block it is in: a pattern, and the block's name.
# The first row that matches decides. A row exists for a way of naming, not for a model.
_BLOCK_NAMES = tuple(
    (re.compile(pattern, re.IGNORECASE), template)
    for pattern, template in (
        # NASNet: the cell is a suffix, "separable_conv_1_bn_normal_left1_12".
        (
            r"^(?:.*_)?(?:normal|reduction|adjust)_(?:.*?_)?((?:stem_|reduce_)?\d+)$",
            r"cell_\1",
        ),
        # MobileNet: depthwise and pointwise halves, "conv_dw_3_bn" and "conv_pw_3".
        (r"^conv_(?:dw|pw|pad)_(\d+)(?=_|$)", r"block_\1"),
        # MobileNetV2 and V3: "expanded_conv_3_squeeze_excite_conv_1".
        (r"^(expanded_conv(?:_\d+)?)(?=_|$)", r"\1"),
        # InceptionResNetV2: "block35_7_conv" is the seventh block of its kind.
        (r"^(block(?:35|17|8)_\d+)_(?:mixed|conv|ac)$", r"\1"),
        # "block5_conv1", "conv4_block6_2_bn", "stage2_unit1_bn1",
        # "convnext_tiny_stage_2_block_5_layernorm", "BlockGroup2__block_0__conv_1".
        (
            r"^((?:.*?_)??(?:conv\d+_+)?{numbered}(?:_+{numbered})*)(?=_|$)".format(
                numbered=r"[a-z]*(?:stage|block|unit|cell|group|layer)_?\d+[a-z]?"
            ),
            r"\1",
        ),
        # The first convolution of many, and EfficientNet's last: "stem_bn", "top_conv".
        (r"^((?:.*?_)??stem)(?=_|\d|$)", r"\1"),
        (r"^(top)_(?:conv|bn|activation)$", r"\1"),
        # "conv1_bn", "Conv_1", "conv_7b_ac", "pool3_conv", "mixed10", "mixed_5b".
        (r"^((?:conv|pool|mixed)_?\d+[a-z]?)(?=_|$)", r"\1"),
    )
)

_BLOCK_WORD = re.compile(
    r"(?:[a-z]*(?:stage|block|unit|cell|group|layer)|conv|pool|mixed|stem|expanded)"
    r"\d*[a-z]?$",
    re.IGNORECASE,
)

# A tensor that skips more of the model than this share (the skips of a U-Net, a mask)
# ties nothing together; one that skips only a few layers always does.
_LONG_SKIP = 1 / 3
_SHORT_SKIP = 4


@dataclass(frozen=True, eq=False)
class LayerGroup:
    """Layers that are frozen, trained and scaled together.

    Args:
        name: Short and unique among the model's groups: `"block5"`, `"head"`.
        layers: The layers, bottom to top: nested models are expanded, any other layer
            stands as a whole. Layers without weights (dropout) are among them.
        variables: All weights of the group, trainable or not, each once. Weights that
            a subclassed model holds itself are in its first group, though the model is
            not among `layers`.

    Example:

    >>> import keras
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="a")])
    >>> group = layer_groups(model)[0]
    >>> group.name, group.parameters
    ('head', 10)
    """

    name: str
    layers: tuple[Any, ...]
    variables: tuple[Any, ...] = field(repr=False)

    @property
    def parameters(self) -> int:
        """How many numbers the group's weights hold."""
        return sum(_size(variable) for variable in self.variables)

    @property
    def span(self) -> str:
        """The first and the last layer that have weights, as `"first - last"`."""
        names = [layer.name for layer in self.layers if layer.weights]
        names = names or [structure.variable_path(self.variables[0])]
        return names[0] if len(names) == 1 else f"{names[0]} - {names[-1]}"


class LayerGroups(Sequence[LayerGroup]):
    """The groups of a model, bottom to top, as `layer_groups` returns them.

    A sequence that does not change. Printed, it is a table.

    Args:
        groups: The groups, bottom to top.
        rest: Layers that are in no group, because they were frozen already.
        rest_variables: The weights of `rest`.

    Example:

    >>> import keras
    >>> model = keras.Sequential([
    ...     keras.Input((4,)),
    ...     keras.layers.Dense(8, name="body"),
    ...     keras.layers.Dense(2, name="classifier"),
    ... ])
    >>> groups = layer_groups(model)
    >>> groups.names
    ('body', 'head')
    >>> print(groups)
    group  layers  parameters  from - to
    body        1          40  body
    head        1          18  classifier
    """

    def __init__(
        self,
        groups: Iterable[LayerGroup],
        rest: Iterable[Any] = (),
        rest_variables: Iterable[Any] = (),
    ) -> None:
        self._groups = tuple(groups)
        self._rest = tuple(rest)
        self._rest_variables = tuple(rest_variables)
        self._group_of: dict[Hashable, LayerGroup] = {
            structure.variable_key(variable): group
            for group in self._groups
            for variable in group.variables
        }

    @property
    def names(self) -> tuple[str, ...]:
        """The groups' names, bottom to top."""
        return tuple(group.name for group in self._groups)

    @property
    def rest(self) -> tuple[Any, ...]:
        """The layers that are in no group: they were frozen, and stay so."""
        return self._rest

    def group_of(self, variable: Any) -> LayerGroup:
        """The group that a weight of the model belongs to.

        Args:
            variable: A weight of the model.

        Raises:
            KeyError: If the weight is in no group.
        """
        try:
            return self._group_of[structure.variable_key(variable)]
        except KeyError:
            path = structure.variable_path(variable)
            raise KeyError(f"The variable {path!r} is in no group.") from None

    def covers(self, model: Any) -> bool:
        """Whether these are the groups of this very model.

        Args:
            model: A built Keras model.
        """
        ours = set(self._group_of)
        ours.update(structure.variable_key(v) for v in self._rest_variables)
        return ours == {structure.variable_key(v) for v in structure.weights(model)}

    @overload
    def __getitem__(self, index: int) -> LayerGroup: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[LayerGroup, ...]: ...

    def __getitem__(self, index: int | slice) -> LayerGroup | tuple[LayerGroup, ...]:
        return self._groups[index]

    def __len__(self) -> int:
        return len(self._groups)

    def __iter__(self) -> Iterator[LayerGroup]:
        return iter(self._groups)

    def _rows(self) -> list[tuple[str, str, str, str]]:
        rows = [("group", "layers", "parameters", "from - to")]
        for group in self._groups:
            counts = f"{len(group.layers):,}", f"{group.parameters:,}"
            rows.append((group.name, *counts, group.span))
        if self._rest:
            size = sum(_size(variable) for variable in self._rest_variables)
            counts = f"{len(self._rest):,}", f"{size:,}"
            rows.append(("(no group)", *counts, "frozen"))
        return rows

    def __str__(self) -> str:
        rows = self._rows()
        # 80 columns: the numbers take what they need, the names share what is left.
        layers, parameters = (max(len(row[i]) for row in rows) for i in (1, 2))
        room = 80 - layers - parameters - 6
        name = min(max(len(row[0]) for row in rows), room // 2)
        return "\n".join(
            f"{_shorten(row[0], name):<{name}}  {row[1]:>{layers}}  "
            f"{row[2]:>{parameters}}  {_shorten(row[3], room - name)}"
            for row in rows
        )

    def __repr__(self) -> str:
        return f"<LayerGroups {', '.join(self.names)}>"

    def _repr_html_(self) -> str:
        head, *body = self._rows()
        lines = ["<table>", _html_row(head, "th")]
        lines += [_html_row(row, "td") for row in body]
        return "\n".join([*lines, "</table>"])


def layer_groups(model: Any, groups: Any = "auto") -> LayerGroups:
    """Splits a model into ordered groups of layers, bottom to top, the head last.

    How `"auto"` finds them:

    1. Consecutive layers whose names share a block prefix (`block5_conv1`,
       `conv4_block6_2_bn`) are a group with that name.
    2. Where names tell nothing, a cut is made only where a single tensor passes: never
       within parallel branches or a residual block. (A skip over more than a third of
       the model, as in a U-Net, ties nothing.)
    3. Any other layer with weights is a group of its own. Normalization, activations,
       dropout and pooling belong to the layer below them.
    4. What follows the pre-trained body is the `"head"`: what no layer of the nested
       models, or else of the last block, depends on. In a model without blocks it is
       the last layer with weights, in one with several outputs the last ones.

    Nested models are expanded; any other composite layer stands as a whole. A
    subclassed model has no graph: its layers are taken in the order of creation. A
    layer that is used several times belongs to the group of its first use. Groups of
    layers without a block prefix are named after their first layer with weights.

    Args:
        model: A built Keras model.
        groups: One of: `"auto"`; an integer n, the automatic groups merged into n of
            about equal size, the head alone; a list, bottom to top, of layers, layer
            names, regular expressions that are searched for in variable paths
            (`"block[45]_"`), or lists of those; or a `LayerGroups` of this model. A
            string is the name of a layer if there is one. An expression selects whole
            layers, also when it matches only some of a layer's weights. In a list,
            weighted layers may be left out only if they are frozen already.

    Returns:
        The groups. Every weight of the model is in exactly one of them, or belongs to
        a frozen layer in `rest`.

    Raises:
        TypeError: If `model` is no model of the running Keras, or `groups` or an entry
            of it has the wrong type.
        ValueError: If `model` has no weights yet, an entry matches nothing, a layer is
            in two entries, or a trainable layer is in none.

    Example:

    >>> import keras
    >>> model = keras.Sequential([
    ...     keras.Input((4,)),
    ...     keras.layers.Dense(8, name="block1_dense"),
    ...     keras.layers.Dropout(0.1, name="block1_dropout"),
    ...     keras.layers.Dense(8, name="block2_dense"),
    ...     keras.layers.Dense(2, name="classifier"),
    ... ])
    >>> layer_groups(model).names
    ('block1', 'block2', 'head')
    >>> layer_groups(model, 2).names
    ('block1..block2', 'head')
    >>> layer_groups(model, [["block1_dense", "block2_dense"], "classifier/"]).names
    ('block1_dense..block2_dense', 'classifier/')

    References:
        - [Howard and Ruder, 2018](https://arxiv.org/abs/1801.06146)
    """
    _check_model(model)
    if isinstance(groups, LayerGroups):
        if not groups.covers(model):
            raise ValueError(
                "Argument `groups` must be the groups of this model: their weights are "
                f"not the same. Received: groups={groups!r}"
            )
        return groups
    units = _flatten(model)
    if isinstance(groups, str) and groups == "auto":
        return _from_runs(_automatic(model, units))
    if isinstance(groups, Integral) and not isinstance(groups, bool):
        return _from_runs(_merged(_automatic(model, units), int(groups)))
    if isinstance(groups, (list, tuple)):
        return _listed(model, units, groups)
    error = ValueError if isinstance(groups, str) else TypeError
    raise error(
        'Argument `groups` must be "auto", an integer, a list (of layers, layer names, '
        "regular expressions on variable paths, or lists of those) or a `LayerGroups`. "
        f"Received: groups={groups!r} (of type {type(groups).__name__})"
    )


def _check_model(model: Any) -> None:
    if not structure.is_model(model):
        other = structure.foreign_keras(model)
        hint = ""
        if other is not None:
            hint = (
                f" It is a model of another Keras (`{other}`) than the one that runs "
                f"here (`{keras.__name__}` {keras.__version__}). The environment "
                "variable TF_USE_LEGACY_KERAS=1 chooses `tf_keras`."
            )
        raise TypeError(
            f"Argument `model` must be a Keras model. Received: model={model!r} "
            f"(of type {type(model).__name__}).{hint}"
        )
    if not structure.is_built(model) or not structure.weights(model):
        raise ValueError(
            "Argument `model` must have weights. Call it once on data, or call "
            f"`model.build(input_shape)`. Received: model={model!r}"
        )


# From a model to units.

# The model a layer is directly in, by its id, and the block's name.
_Block = tuple[int, str]


@dataclass(eq=False)
class _Unit:
    """What is never split: a layer that is no model, or the own weights of a model.

    Args:
        layer: The layer, or the model that holds the weights itself.
        variables: Its weights, less those that an earlier unit has too.
        owners: The models it is in, from the outside to the inside.
        block: The block that its name tells.
        tied: Whether parallel branches run between it and the next unit.
        parents: The units that it reads from.
    """

    layer: Any
    variables: tuple[Any, ...]
    owners: tuple[Any, ...]
    block: _Block | None = None
    tied: bool = False
    parents: set[_Unit] = field(default_factory=set)

    @property
    def is_own(self) -> bool:
        """Whether it stands for the weights that a model holds itself."""
        return structure.is_model(self.layer)

    @property
    def is_main(self) -> bool:
        """Whether it may make a group, and is no companion of another layer."""
        return (
            bool(self.variables)
            and not self.is_own
            and not _is_normalization(self.layer)
        )


def _flatten(model: Any) -> list[_Unit]:
    """The units of a model, in the order of its layers."""
    units: list[_Unit] = []
    seen: set[int] = set()
    taken: set[Hashable] = set()

    def fresh(layer: Any) -> tuple[Any, ...]:
        new = {structure.variable_key(v): v for v in structure.weights(layer)}
        new = {key: v for key, v in new.items() if key not in taken}
        taken.update(new)
        return tuple(new.values())

    def expand(layer: Any, owners: tuple[Any, ...]) -> None:
        if id(layer) in seen:
            return
        seen.add(id(layer))
        if not structure.is_model(layer):
            units.append(_Unit(layer, fresh(layer), owners, _block(layer, owners)))
            return
        start = len(units)
        owners = (*owners, layer)
        for child in structure.sublayers(layer):
            expand(child, owners)
        if own := fresh(layer):
            # Class tokens, position embeddings: they enter at the model's bottom.
            units.insert(start, _Unit(layer, own, owners))

    expand(model, ())
    return units


def _block(layer: Any, owners: tuple[Any, ...]) -> _Block | None:
    """The block that a layer's name speaks of, or that of a nested model it is in."""
    for owner, part in itertools.pairwise((*owners, layer)):
        name = part.name.replace("/", "_")
        if not _is_named_by_keras(part):
            for pattern, template in _BLOCK_NAMES:
                if match := pattern.search(name):
                    return id(owner), match.expand(template)
    return None


def _is_named_by_keras(layer: Any) -> bool:
    """Whether a layer bears the name that Keras gives: its class and a number."""
    base = re.sub(r"_\d+$", "", layer.name)
    return base.replace("_", "") == type(layer).__name__.replace("_", "").lower()


def _is_normalization(layer: Any) -> bool:
    """Whether a layer with weights only rescales, so that it makes no group."""
    name = type(layer).__name__.lower()
    # A wrapper (SpectralNormalization) has a layer inside.
    return ("norm" in name or name == "prelu") and not structure.sublayers(layer)


def _is_activation(layer: Any) -> bool:
    name = type(layer).__name__.lower()
    return name.endswith("lu") or name in ("activation", "softmax")


def _is_composite(layer: Any) -> bool:
    """Whether a layer that is no model is made of layers: a transformer block."""
    wrapper = isinstance(layer, keras.layers.Wrapper)
    return not wrapper and any(
        structure.is_built(part) and structure.weights(part)
        for part in structure.sublayers(layer)
    )


def _size(variable: Any) -> int:
    size = 1
    for length in variable.shape:
        size *= int(length)
    return size


# How units depend on one another.


def _connect(model: Any, units: list[_Unit]) -> None:
    """Fills in what each unit reads from, across the borders of nested models."""
    place = {unit: i for i, unit in enumerate(units)}
    inside = _inside(units)

    def connect(part: Any, before: set[_Unit]) -> None:
        for unit in inside.get(id(part), ()):
            # A layer is where its first use is: a later use does not move it.
            unit.parents |= {other for other in before if place[other] < place[unit]}
        if not structure.is_model(part):
            return
        outputs: list[set[_Unit]] = []
        for layer, inputs in _graph(part):
            sources = set().union(*(outputs[i] for i in inputs))
            connect(layer, sources)
            outputs.append(set(inside.get(id(layer), ())) or sources)

    connect(model, set())
    for own in units:
        if own.is_own:
            for unit in inside[id(own.layer)]:
                unit.parents.add(own)


def _inside(units: list[_Unit]) -> dict[int, list[_Unit]]:
    """The units of each layer and model, by its id."""
    inside: dict[int, list[_Unit]] = {}
    for unit in units:
        for part in unit.owners if unit.is_own else (*unit.owners, unit.layer):
            inside.setdefault(id(part), []).append(unit)
    return inside


def _graph(model: Any) -> tuple[structure.Call, ...]:
    """The calls in a model; layers of which Keras knows no graph form a chain."""
    graph = structure.calls(model)
    if graph is None:
        graph = tuple(
            structure.Call(layer, (i - 1,) if i else ())
            for i, layer in enumerate(structure.sublayers(model))
        )
    return graph


def _with_parents(units: Iterable[_Unit]) -> set[_Unit]:
    """The units and everything they depend on."""
    found: set[_Unit] = set()
    todo = list(units)
    while todo:
        unit = todo.pop()
        if unit not in found:
            found.add(unit)
            todo += unit.parents
    return found


def _tie(model: Any, units: list[_Unit]) -> None:
    """Marks the units between which the model runs in parallel branches."""
    count = [0]
    for unit in units:
        count.append(count[-1] + unit.is_main)
    limit = max(_SHORT_SKIP, _LONG_SKIP * count[-1])
    alive = [0] * len(units)
    for start, stop in _tensors(model, units):
        if count[stop] - count[start + 1] <= limit:
            for i in range(start, stop):
                alive[i] += 1
    for unit, tensors in zip(units, alive, strict=True):
        unit.tied = tensors > 1 or unit.is_own


def _tensors(model: Any, units: list[_Unit]) -> list[tuple[int, int]]:
    """The place of the unit that makes each tensor, and of the last one to read it."""
    place = {unit: i for i, unit in enumerate(units)}
    places = {
        part: sorted(place[unit] for unit in members)
        for part, members in _inside(units).items()
    }
    models = {id(owner): owner for unit in units for owner in unit.owners}
    found: list[tuple[int, int]] = []
    for part in models.values():
        made: list[int] = []
        read: list[int] = []
        graph = _graph(part)
        for layer, inputs in graph:
            # An operation that is no layer, and a layer that is called again, happen
            # where their latest input is made.
            latest = max((made[i] for i in inputs), default=0)
            own = places.get(id(layer), [latest])
            made.append(max(own[-1], latest))
            read.append(made[-1])
            for i in inputs:
                read[i] = max(read[i], own[0], latest)
        used = {i for call in graph for i in call.inputs}
        for i in range(len(graph)):
            # Results live on to the end, so that heads side by side are tied.
            result = i not in used and part is model
            found.append((made[i], len(units) - 1 if result else read[i]))
    return found


# From units to automatic groups.


@dataclass(eq=False)
class _Run:
    """Consecutive units on their way to become a group."""

    units: list[_Unit]
    block: _Block | None = None
    name: str = ""

    @property
    def size(self) -> int:
        return sum(_size(v) for unit in self.units for v in unit.variables)

    @property
    def main(self) -> list[_Unit]:
        return [unit for unit in self.units if unit.is_main]

    @property
    def is_block(self) -> bool:
        """Whether several layers, or one made of layers, stand together here."""
        return len(self.main) > 1 or any(_is_composite(u.layer) for u in self.main)

    def absorb(self, other: _Run) -> None:
        self.units += other.units
        self.block = self.block or other.block


def _automatic(model: Any, units: list[_Unit]) -> list[_Run]:
    """The automatic groups, by the four rules that `layer_groups` documents."""
    _connect(model, units)
    body = _body(units)
    units = [u for u in units if u in body] + [u for u in units if u not in body]
    _tie(model, units)
    if body:
        runs = _runs(units[: len(body)])
        head = units[len(body) :]
    else:
        runs = _runs(units)
        # Names tell no body: what comes last is the head, and what follows the last
        # block that parallel branches or a composite layer tell.
        blocks = [i for i, run in enumerate(runs[:-1]) if run.is_block]
        last = blocks[-1] + 1 if blocks else len(runs) - 1
        head = [unit for run in runs[last:] for unit in run.units]
        runs = runs[:last]
        if blocks:
            runs[-1], after = _trimmed(runs[-1])
            head = after + head
    if runs and not any(unit.is_main for unit in head):
        runs[-1].units += head
    else:
        runs.append(_Run(head, None, HEAD))
    return _named(runs)


def _trimmed(run: _Run) -> tuple[_Run, list[_Unit]]:
    """A block without the dropout and pooling that follow it, and those."""
    stop = 1
    for i, (before, unit) in enumerate(itertools.pairwise(run.units), start=2):
        joined = stop == i - 1 and (
            _is_normalization(unit.layer) or _is_activation(unit.layer)
        )
        if before.tied or unit.is_main or joined:
            stop = i
    return _Run(run.units[:stop], run.block), run.units[stop:]


def _body(units: list[_Unit]) -> set[_Unit]:
    """The units of the pre-trained body, or none where nothing tells one.

    It ends with the last nested model, else with the last block by name, if that is
    most of the model; layers beside it (a branch for metadata) are not in it.
    """
    main = {unit for unit in units if unit.is_main}
    nested = _nested(units)
    if 2 * len(main.intersection(nested)) >= len(main):
        return _with_parents(nested)
    blocks = _with_parents(unit for unit in units if unit.block)
    if 2 * len(main & blocks) < len(main):
        return set()
    for unit in units:
        # The backbone's last normalization ("post_bn"), but none that is new.
        old = not _is_named_by_keras(unit.layer) and _is_normalization(unit.layer)
        follows = unit.parents and unit.parents <= blocks
        if follows and (old or _is_activation(unit.layer)):
            blocks.add(unit)
    return blocks


def _nested(units: list[_Unit]) -> list[_Unit]:
    """The units in nested models, but for nested models that are themselves heads."""
    weighted = [unit for unit in units if unit.variables]
    level = 1
    while len({id(_owner(unit, level)) for unit in weighted}) == 1:
        if _owner(weighted[0], level) is None:
            return []
        # Nothing but one nested model has weights: look for the body in there.
        level += 1
    models = {id(_owner(u, level)): _owner(u, level) for u in weighted}
    models.pop(id(None), None)
    body = [
        model
        for model in models.values()
        if any(
            _owner(unit, level) is model
            for unit in _with_parents(
                u for u in weighted if _owner(u, level) is not model
            )
        )
    ]
    return [u for u in units if any(_owner(u, level) is model for model in body)]


def _owner(unit: _Unit, level: int) -> Any:
    """The nested model that a unit is in, at a level of nesting."""
    return unit.owners[level] if level < len(unit.owners) else None


def _runs(units: list[_Unit]) -> list[_Run]:
    """The blocks among the units, and each other layer that makes a group."""
    runs: list[_Run] = []
    segment: list[_Unit] = []
    for i, unit in enumerate(units):
        segment.append(unit)
        if not unit.tied or i == len(units) - 1:
            runs += _split(segment)
            segment = []
    joined: list[_Run] = []
    for run in _around(runs):
        if joined and (not run.main or not joined[-1].main):
            # A companion belongs to the layer below it, or above if it is the first.
            block = joined[-1].block if joined[-1].main else run.block
            joined[-1].absorb(run)
            joined[-1].block = block
        else:
            joined.append(run)
    return _around(joined)


def _split(segment: list[_Unit]) -> list[_Run]:
    """Splits what a segment of parallel branches holds, where names tell blocks."""
    named = [unit for unit in segment if unit.block and unit.variables]
    if len({unit.block for unit in named}) < 2:
        last = named or [unit for unit in segment if unit.block]
        return [_Run(segment, last[-1].block if last else None)]
    # A block reaches from its first to its last layer; blocks that overlap are one.
    ends = {unit.block: i for i, unit in enumerate(segment) if unit in named}
    runs: list[_Run] = []
    stop = -1
    for i, unit in enumerate(segment):
        if not runs or (unit in named and i > stop and runs[-1].block):
            runs.append(_Run([]))
        if unit in named:
            runs[-1].block = runs[-1].block or unit.block
            stop = max(stop, ends[unit.block])
        runs[-1].units.append(unit)
    for below, above in itertools.pairwise(runs):
        # Paddings and activations may open a block.
        while not below.units[-1].variables and below.units[-1].block == above.block:
            above.units.insert(0, below.units.pop())
    return runs


def _around(runs: list[_Run]) -> list[_Run]:
    """Joins what is the same block, with the nameless layers in its midst."""
    joined: list[_Run] = []
    for run in runs:
        named = [i for i, other in enumerate(joined) if other.block is not None]
        if run.block is not None and named and joined[named[-1]].block == run.block:
            for other in (*joined[named[-1] + 1 :], run):
                joined[named[-1]].absorb(other)
            del joined[named[-1] + 1 :]
        else:
            joined.append(run)
    return joined


def _named(runs: list[_Run]) -> list[_Run]:
    """Gives each run its name: its block's, else that of its first layer."""
    blocks = [run.block[1] for run in runs if run.block is not None]
    prefix = _common_prefix(blocks)
    for run in runs:
        if run.block is not None:
            run.name = run.block[1][len(prefix) :]
        elif not run.name:
            run.name = [*run.main, *run.units][0].layer.name
    for name, run in zip(_unique([run.name for run in runs]), runs, strict=True):
        run.name = name
    return runs


def _common_prefix(names: list[str]) -> str:
    """What all names begin with that says nothing of the block: `"convnext_tiny_"`."""
    prefix = ""
    while len(names) > 1:
        words = {name[len(prefix) :].partition("_")[:2] for name in names}
        word, bar = words.pop()
        if words or not bar or _BLOCK_WORD.match(word):
            break
        prefix += word + bar
    return prefix


def _unique(names: Sequence[str]) -> list[str]:
    """Numbers the names that come again: `"block1"`, `"block1_2"`."""
    taken: set[str] = set()
    found = []
    for name in names:
        candidate, number = name, 1
        while candidate in taken or (number > 1 and candidate in names):
            number += 1
            candidate = f"{name}_{number}"
        taken.add(candidate)
        found.append(candidate)
    return found


def _merged(runs: list[_Run], count: int) -> list[_Run]:
    """Merges consecutive runs into `count`, the last one staying alone."""
    if not 1 <= count <= len(runs):
        raise ValueError(
            f"Argument `groups` must be between 1 and {len(runs)}, the number of "
            f"groups that the model has. Received: groups={count!r}"
        )
    if count == 1:
        parts = [(0, len(runs))]
    else:
        parts = _balance([run.size for run in runs[:-1]], count - 1)
        parts.append((len(runs) - 1, len(runs)))
    merged = []
    for start, stop in parts:
        name = _first_to_last([run.name for run in runs[start:stop]])
        units = [unit for run in runs[start:stop] for unit in run.units]
        merged.append(_Run(units, None, name))
    return merged


def _first_to_last(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]}..{names[-1]}"


def _balance(sizes: Sequence[int], count: int) -> list[tuple[int, int]]:
    """Cuts a sequence into `count` parts, the largest as small as possible.

    Args:
        sizes: The sizes, in order.
        count: How many parts, from 1 to `len(sizes)`. No part is empty.

    Returns:
        Start and stop of each part. Among equals, the sum of squares decides.

    Example:

    >>> _balance([4, 1, 1, 4], 3)
    [(0, 1), (1, 3), (3, 4)]
    """
    total = [0]
    for size in sizes:
        total.append(total[-1] + size)
    # best[i]: the best way to cut the first i sizes, as (largest, squares, cuts).
    # Comparing squares before all parts are known may miss a smaller sum, never a
    # smaller maximum.
    best: list[tuple[int, int, tuple[int, ...]] | None]
    best = [(0, 0, (0,)), *[None] * len(sizes)]
    for _ in range(count):
        following: list[tuple[int, int, tuple[int, ...]] | None] = [None]
        for stop in range(1, len(sizes) + 1):
            options = [
                (
                    max(before[0], total[stop] - total[start]),
                    before[1] + (total[stop] - total[start]) ** 2,
                    (*before[2], stop),
                )
                for start, before in enumerate(best[:stop])
                if before is not None
            ]
            following.append(min(options, default=None))
        best = following
    chosen = best[-1]
    if chosen is None:
        raise ValueError(f"{len(sizes)} sizes cannot make {count} parts.")
    return list(itertools.pairwise(chosen[2]))


def _from_runs(runs: Iterable[_Run], rest: Iterable[_Unit] = ()) -> LayerGroups:
    rest = tuple(rest)
    return LayerGroups(
        [LayerGroup(run.name, _layers(run.units), _weights(run.units)) for run in runs],
        _layers(rest),
        _weights(rest),
    )


def _layers(units: Iterable[_Unit]) -> tuple[Any, ...]:
    return tuple(unit.layer for unit in units if not unit.is_own)


def _weights(units: Iterable[_Unit]) -> tuple[Any, ...]:
    return tuple(variable for unit in units for variable in unit.variables)


# A list of entries.


def _listed(model: Any, units: list[_Unit], entries: Sequence[Any]) -> LayerGroups:
    """The groups that a list asks for."""
    if not entries:
        raise ValueError(
            "Argument `groups` must be a list of at least one entry. Received: "
            f"groups={entries!r}"
        )
    selected = [_select(units, entry, entries) for entry in entries]
    _refuse_doubles(units, selected, entries)
    group_of = {unit: i for i, chosen in enumerate(selected) for unit in chosen}
    trainable = {
        structure.variable_key(variable) for variable in model.trainable_variables
    }
    left = [
        unit
        for unit in units
        if unit not in group_of
        and any(structure.variable_key(v) in trainable for v in unit.variables)
    ]
    if left:
        raise ValueError(
            "Argument `groups` must put every layer with trainable weights in a group: "
            "add the layers that are left to one, or freeze them "
            f"(`layer.trainable = False`). Left: {_names(left)}. "
            f"Received: groups={_show(entries)}"
        )
    # A layer without weights goes where the layer below it goes, or the one above.
    weighted = [unit for unit in units if unit.variables]
    place: dict[_Unit, int | None] = {}
    current = group_of.get(weighted[0])
    for unit in units:
        if unit.variables or unit in group_of:
            place[unit] = group_of.get(unit)
        else:
            place[unit] = current
        if unit.variables:
            current = place[unit]
    names = _unique([_entry_name(entry) for entry in entries])
    runs = [
        _Run([unit for unit in units if place[unit] == i], None, name)
        for i, name in enumerate(names)
    ]
    return _from_runs(runs, [unit for unit in units if place[unit] is None])


def _select(
    units: list[_Unit], entry: Any, entries: Sequence[Any]
) -> dict[_Unit, None]:
    """The units that an entry selects."""
    parts = entry if isinstance(entry, (list, tuple)) else [entry]
    if not parts:
        raise ValueError(
            "Argument `groups` must have no empty list in it. Received: "
            f"groups={_show(entries)}"
        )
    chosen: dict[_Unit, None] = {}
    for part in parts:
        if isinstance(part, str):
            found = _by_string(units, part, entries)
        elif isinstance(part, keras.layers.Layer):
            found = _by_layer(units, part)
        else:
            raise TypeError(
                "Argument `groups` must be a list of layers, strings, or lists of "
                f"those. Received: {part!r} (of type {type(part).__name__}) in "
                f"groups={_show(entries)}"
            )
        if not found:
            raise ValueError(
                "Argument `groups` must name layers of the model: "
                f"{_show(part)} matches nothing. Received: groups={_show(entries)}"
            )
        chosen.update(dict.fromkeys(found))
    if not any(unit.variables for unit in chosen):
        raise ValueError(
            f"Argument `groups` must make groups with weights: {_show(entry)} has "
            f"none. Received: groups={_show(entries)}"
        )
    return chosen


def _by_layer(units: list[_Unit], layer: Any) -> list[_Unit]:
    """The units in a layer, or the unit that the layer is in."""
    found = [u for u in units if any(part is layer for part in (u.layer, *u.owners))]
    return found or [
        unit
        for unit in units
        if not unit.is_own
        and any(part is layer for part in structure.all_layers(unit.layer))
    ]


def _by_string(units: list[_Unit], text: str, entries: Sequence[Any]) -> list[_Unit]:
    """The units of the layer with that name, else with a variable path that matches."""
    layers = {
        id(part): part
        for unit in units
        for layer in (*unit.owners, unit.layer)
        for part in (
            [layer] if structure.is_model(layer) else structure.all_layers(layer)
        )
        if part.name == text
    }
    if len(layers) > 1:
        raise ValueError(
            f"Argument `groups` must be clear: {len(layers)} layers are called "
            f"{text!r}. Pass the layers themselves, or a regular expression on the "
            f"paths of their variables. Received: groups={_show(entries)}"
        )
    if layers:
        return _by_layer(units, *layers.values())
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise ValueError(
            f"Argument `groups` must hold layer names or regular expressions: {text!r} "
            f"is neither ({error}). Received: groups={_show(entries)}"
        ) from None
    return [
        unit
        for unit in units
        if any(pattern.search(structure.variable_path(v)) for v in unit.variables)
    ]


def _refuse_doubles(
    units: list[_Unit], selected: list[dict[_Unit, None]], entries: Sequence[Any]
) -> None:
    doubles = []
    for unit in units:
        matches = [entries[i] for i, chosen in enumerate(selected) if unit in chosen]
        if len(matches) > 1:
            doubles.append(f"{unit.layer.name} ({' and '.join(map(_show, matches))})")
    if doubles:
        raise ValueError(
            "Argument `groups` must put each layer in one group. In two: "
            f"{'; '.join(doubles)}. Received: groups={_show(entries)}"
        )


def _entry_name(entry: Any) -> str:
    parts = list(entry) if isinstance(entry, (list, tuple)) else [entry]
    return _first_to_last([p if isinstance(p, str) else p.name for p in parts])


def _show(entry: Any) -> str:
    """An entry as the user would write it, layers by their names."""
    if isinstance(entry, (list, tuple)):
        return f"[{', '.join(map(_show, entry))}]"
    if isinstance(entry, keras.layers.Layer):
        return f"<{type(entry).__name__} {entry.name}>"
    return repr(entry)


def _names(units: Iterable[_Unit]) -> str:
    return ", ".join(
        f"{unit.layer.name} (weights of the model itself)"
        if unit.is_own
        else str(unit.layer.name)
        for unit in units
    )


# The table.


def _shorten(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _html_row(cells: Iterable[str], tag: str) -> str:
    inner = "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells)
    return f"<tr>{inner}</tr>"

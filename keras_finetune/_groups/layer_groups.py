"""A model as ordered groups of layers, from the input (bottom) to the output (top)."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any, Literal, TypeAlias, overload

from keras_finetune import _checks
from keras_finetune._engine import flags, keras, structure
from keras_finetune._groups.automatic import automatic
from keras_finetune._groups.listed import listed
from keras_finetune._groups.merging import merged
from keras_finetune._groups.names import HEAD as HEAD
from keras_finetune._groups.runs import Run
from keras_finetune._groups.units import Unit, layers_of, weights_of
from keras_finetune._tables import Table


@dataclass(frozen=True, eq=False)
class LayerGroup:
    """Layers that are frozen, trained and scaled together.

    Args:
        name: Short and unique among the model's groups: `"block5"`, `"head"`.
        layers: The layers, bottom to top. Nested models are expanded, and so are
            composite layers of which the parts are in several groups; any other layer
            stands as a whole. Layers without weights (dropout) are among them.
        variables: All weights of the group, trainable or not, each once. Weights that
            an expanded model or layer holds itself are in its first group, though it
            is not among `layers`.
        named: The layers that the list of groups names, `None` for automatic groups.

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
    named: tuple[Any, ...] | None = field(default=None, repr=False)

    @property
    def key(self) -> str:
        """The name as a part of a key in logs: without dots, which some tools split."""
        return self.name.replace("..", "-").replace(".", "_").replace("+", "-")

    @property
    def parameters(self) -> int:
        """How many numbers the group's weights hold."""
        return flags.count(self.variables)

    @property
    def span(self) -> str:
        """The first and the last layer that have weights, as `"first - last"`."""
        names = [layer.name for layer in self.layers if structure.weights(layer)]
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
        """Return the group that a weight of the model belongs to.

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

    def _table(self) -> Table:
        rows = [
            (group.name, f"{len(group.layers):,}", f"{group.parameters:,}", group.span)
            for group in self._groups
        ]
        if self._rest:
            size = f"{flags.count(self._rest_variables):,}"
            rows.append(("(no group)", f"{len(self._rest):,}", size, "frozen"))
        header = ("group", "layers", "parameters", "from - to")
        return Table(header, rows, right=(1, 2), is_dense=True)

    def __str__(self) -> str:
        return self._table().text()

    def __repr__(self) -> str:
        return f"<LayerGroups {', '.join(self.names)}>"

    def _repr_html_(self) -> str:
        return self._table().html()


# What `groups` may be: see `layer_groups`.
Groups: TypeAlias = Literal["auto"] | int | Sequence[Any] | LayerGroups


def layer_groups(model: Any, groups: Groups = "auto") -> LayerGroups:
    """Split a model into ordered groups of layers, bottom to top, the head last.

    How `"auto"` finds them:

    1. A numbered beginning of names that several layers share, and that comes again
       with other numbers further up, is a block (`block5_conv1`, `fire2_squeeze1x1`,
       `stages_0_blocks_1_conv`): the innermost that runs one after the other.
    2. A composite layer that holds much of the body (an encoder) is taken apart into
       its repeated children, in whatever lists, dictionaries or attributes they are.
    3. Embeddings of the input, of tokens, patches and positions, are the lowest group.
    4. Where names tell nothing, a cut is made only where a single tensor passes: never
       within parallel branches or a residual block. (A skip over more than a third of
       the model, as in a U-Net, ties nothing, nor do tokens and masks.)
    5. Any other layer with weights is a group of its own. Normalization, activations,
       dropout, poolers, and layers that no output depends on belong to the layer below.
    6. What follows the pre-trained body is the `"head"`: what no layer of the nested
       models, or else of the last block, depends on. In a model without blocks it is
       the last layer with weights, in one with several outputs the last ones.
    7. Blocks of towers that run side by side, for images and for texts, are joined
       where they are equally far from the top (`"block_11+conv5_block3"`).

    Nested models are expanded. Where Keras knows no graph, in subclassed models and
    composite layers, the children are taken in the order of creation, embeddings first.
    A weight that several layers use belongs to the group of its first use. A frozen
    `teacher` beside a `student` is in no group. Groups of layers without a block are
    named after their first layer with weights.

    Args:
        model: A built Keras model.
        groups: One of: `"auto"`; an integer n, the automatic groups merged into n, the
            head alone, so that the largest sum of the shares of the parameters and of
            the depth is as small as possible; a list, bottom to top, of layers, layer
            names, regular expressions that are searched for in variable paths
            (`"block[45]_"`), or lists of those; or a `LayerGroups` of this model.
            Entries may be layers at any depth. A string is the name of a layer if
            there is one, of the outermost if there are several. An expression selects
            whole layers, the innermost ones, also when it matches only some of a
            layer's weights. In a list, weighted layers may be left out only if they are
            frozen already.

    Returns:
        The groups. Every weight of the model is in exactly one of them, or belongs to
        a frozen layer in `rest`.

    Raises:
        TypeError: If `model` is no model of the running Keras, or `groups` or an entry
            of it has the wrong type.
        ValueError: If `model` has no weights yet, an entry matches nothing, a layer is
            in two entries, a trainable layer is in none, or a group reads from one that
            is listed after it.

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
    check_model(model)
    if isinstance(groups, LayerGroups):
        if not groups.covers(model):
            raise ValueError(
                "Argument `groups` must be the groups of this model: their weights are "
                f"not the same. Received: groups={groups!r}"
            )
        return groups
    if isinstance(groups, str) and groups == "auto":
        return _from_runs(*automatic(model))
    if isinstance(groups, Integral) and not isinstance(groups, bool):
        runs, rest = automatic(model)
        return _from_runs(merged(runs, int(groups)), rest)
    return _from_runs(*listed(model, check_groups(groups)))


def check_groups(groups: Any) -> Any:
    """Return `groups` if it can be groups of some model, or raise naming it."""
    if isinstance(groups, (LayerGroups, list, tuple)):
        return groups
    if isinstance(groups, str) and groups == "auto":
        return groups
    if isinstance(groups, Integral) and not isinstance(groups, bool):
        return _checks.integer("groups", groups, 1)
    error = ValueError if isinstance(groups, str) else TypeError
    raise error(
        'Argument `groups` must be "auto", an integer, a list (of layers, layer names, '
        "regular expressions on variable paths, or lists of those) or a `LayerGroups`. "
        f"Received: groups={groups!r} (of type {type(groups).__name__})"
    )


def check_model(model: Any) -> None:
    """Raise where the argument `model` is no model of this Keras, or has no weights."""
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


def _from_runs(runs: Sequence[Run], rest: Sequence[Unit] = ()) -> LayerGroups:
    return LayerGroups(
        [
            LayerGroup(run.name, layers_of(run.units), weights_of(run.units), run.named)
            for run in runs
        ],
        layers_of(rest),
        weights_of(rest),
    )

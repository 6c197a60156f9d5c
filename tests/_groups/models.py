"""Small models that are built as those of the families that people fine-tune."""

import numpy as np

from keras_finetune._engine import KERAS_3, keras

layers = keras.layers


def build(layer, shape):
    """Build a layer in another; Keras 2 names weights right only when it is called."""
    if KERAS_3 and not layer.built:
        layer.build(shape)


class Attend(layers.Layer):
    """Stands for attention: two dense layers."""

    def __init__(self, width=4, **kwargs):
        super().__init__(**kwargs)
        self.query = layers.Dense(width, name="query")
        self.out = layers.Dense(width, name="out")

    def build(self, shape):
        build(self.query, shape)
        build(self.out, shape)
        super().build(shape)

    def call(self, x):
        return self.out(self.query(x))


class Block(layers.Layer):
    """A transformer block: attention, a feed-forward part in a list, normalizations."""

    def __init__(self, width=4, **kwargs):
        super().__init__(**kwargs)
        self.attention = Attend(width, name="attention")
        self.norm = layers.LayerNormalization(name="norm")
        self.mlp = [layers.Dense(8, name="up"), layers.Dense(width, name="down")]

    def build(self, shape):
        for part in (self.attention, self.norm, self.mlp[0]):
            build(part, shape)
        build(self.mlp[1], (*shape[:-1], 8))
        super().build(shape)

    def call(self, x):
        return x + self.mlp[1](self.mlp[0](self.norm(x + self.attention(x))))


class Chain(layers.Layer):
    """Calls layers one after the other; subclasses hold them where they like."""

    # Whether it has a weight of its own, a class token.
    token = False

    def __init__(self, *parts, **kwargs):
        super().__init__(**kwargs)
        self.hold(parts)

    def hold(self, parts):
        self.anything_at_all = list(parts)

    def parts(self):
        return self.anything_at_all

    def build(self, shape):
        if self.token:
            self.own = self.add_weight(name="cls", shape=(1,), initializer="zeros")
        inner = tuple(shape)
        for part in self.parts():
            build(part, inner)
            inner = (*inner, 4) if isinstance(part, Embed) else inner
        super().build(shape)

    def call(self, x):
        x = x + self.own if self.token else x
        for part in self.parts():
            x = part(x)
        return x


class WithToken(Chain):
    token = True


class InTuple(Chain):
    def hold(self, parts):
        self._hidden = tuple(parts)

    def parts(self):
        return self._hidden


class InDictionary(Chain):
    def hold(self, parts):
        self.by_name = {f"part_{i}": part for i, part in enumerate(parts)}

    def parts(self):
        return list(self.by_name.values())


class InNestedLists(Chain):
    def hold(self, parts):
        half = len(parts) // 2
        self.stages = [list(parts[:half]), {"rest": list(parts[half:])}]

    def parts(self):
        return [*self.stages[0], *self.stages[1]["rest"]]


class InNumberedAttributes(Chain):
    def hold(self, parts):
        self.count = len(parts)
        for i, part in enumerate(parts):
            setattr(self, f"step{i}", part)

    def parts(self):
        return [getattr(self, f"step{i}") for i in range(self.count)]


class InSequential(Chain):
    def hold(self, parts):
        self.steps = keras.Sequential(list(parts), name="steps")

    def parts(self):
        return [self.steps]


class InAttributes(Chain):
    """Attributes of names of their own, as the parts of one block have."""

    def hold(self, parts):
        self.first, self.second = parts

    def parts(self):
        return [self.first, self.second]


class Embed(layers.Layer):
    """Token embeddings with positions of its own, as Hugging Face has them."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.word = layers.Embedding(9, 4, name="word")

    def build(self, shape):
        build(self.word, shape)
        self.positions = self.add_weight(
            name="positions", shape=(3, 4), initializer="zeros"
        )
        super().build(shape)

    def call(self, tokens):
        return self.word(tokens) + self.positions


CONTAINERS = (
    Chain,
    InTuple,
    InDictionary,
    InNestedLists,
    InNumberedAttributes,
    InSequential,
)
TOKENS = np.zeros((1, 3), "int32")


def blocks(count, name="block_{}"):
    """Blocks with names that tell where they are."""
    return [Block(name=name.format(i)) for i in range(count)]


def text_classifier(encoder):
    """Embedding, the encoder, a new head."""
    inputs = keras.Input((3,), dtype="int32")
    x = encoder(layers.Embedding(9, 4, name="tokens")(inputs))
    x = layers.GlobalAveragePooling1D(name="average")(x)
    return keras.Model(inputs, layers.Dense(2, name="new")(x))


def members(groups):
    """The groups' layers by name, without those that have no weights."""
    return {
        group.name: [layer.name for layer in group.layers if layer.weights]
        for group in groups
    }

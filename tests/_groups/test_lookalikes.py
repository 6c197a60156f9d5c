"""Models built as those of KerasHub, Hugging Face and others, in small."""

import numpy as np
import pytest
from _groups.models import (
    TOKENS,
    Block,
    Chain,
    Embed,
    InAttributes,
    blocks,
    build,
    members,
)

from keras_finetune._engine import keras, structure
from keras_finetune._groups.layer_groups import layer_groups

layers = keras.layers


def backbone(count=3):
    """As KerasHub's BERT: embeddings, blocks and a pooler, two outputs."""
    tokens = keras.Input((3,), dtype="int32", name="token_ids")
    mask = keras.Input((3,), dtype="int32", name="padding_mask")
    embedding = layers.Embedding(9, 4, name="token_embedding")
    x = embedding(tokens)
    x = layers.Add(name="add")(
        [x, layers.Embedding(2, 4, name="segment_embedding")(mask)]
    )
    x = layers.LayerNormalization(name="embeddings_norm")(x)
    for i in range(count):
        x = Masked(name=f"transformer_layer_{i}")(x, mask)
    pooled = layers.Dense(4, name="pooled_dense")(x[:, 0, :])
    outputs = {"sequence": x, "pooled": pooled}
    return keras.Model({"token_ids": tokens, "padding_mask": mask}, outputs)


class Masked(Block):
    def call(self, x, mask):
        return super().call(x)


class Reversed(layers.Layer):
    """A masked-LM head that reads through the embedding, in reverse."""

    def __init__(self, embedding, **kwargs):
        super().__init__(**kwargs)
        self.token_embedding = embedding
        self.dense = layers.Dense(4, name="intermediate")

    def build(self, shape):
        build(self.dense, shape)
        super().build(shape)

    def call(self, x):
        weights = self.token_embedding.weights[0]
        return (
            self.dense(x)
            @ (weights.value if hasattr(weights, "path") else weights)[:4, :]
        )


def inputs_of(body):
    tokens = keras.Input((3,), dtype="int32", name="ids")
    mask = keras.Input((3,), dtype="int32", name="mask")
    return [tokens, mask], body({"token_ids": tokens, "padding_mask": mask})


BODY = {
    "token_embedding": ["token_embedding", "segment_embedding", "embeddings_norm"],
    "layer_0": ["transformer_layer_0"],
    "layer_1": ["transformer_layer_1"],
    "layer_2": ["transformer_layer_2", "pooled_dense"],
}


class TestOneBody:
    def test_as_a_task(self):
        inputs, outputs = inputs_of(backbone())
        model = keras.Model(inputs, layers.Dense(2, name="logits")(outputs["pooled"]))
        assert members(layer_groups(model)) == {**BODY, "head": ["logits"]}

    def test_through_its_output(self):
        body = backbone()
        x = layers.Dropout(0.1)(body.output["pooled"])
        model = keras.Model(body.inputs, layers.Dense(2, name="new")(x))
        assert members(layer_groups(model)) == {**BODY, "head": ["new"]}

    def test_as_a_task_that_does_not_use_the_pooler(self):
        inputs, outputs = inputs_of(backbone())
        x = layers.Dense(9, name="lm_head")(outputs["sequence"])
        groups = layer_groups(keras.Model(inputs, x))
        # No group of its own, in whose stage nothing would move.
        assert members(groups) == {**BODY, "head": ["lm_head"]}

    def test_in_one_group_and_with_a_weight_that_the_head_uses_again(self):
        body = backbone()
        inputs, outputs = inputs_of(body)
        embedding = body.get_layer("token_embedding")
        x = Reversed(embedding, name="lm_head")(outputs["sequence"])
        groups = layer_groups(keras.Model(inputs, x))
        assert groups.group_of(embedding.weights[0]).name == "token_embedding"
        assert groups[-1].name == "head"
        assert groups[-1].parameters == 20


def test_a_layer_listed_beside_the_one_that_it_is_in_is_no_unit():
    class Listed(keras.Model):
        """As KerasHub's RoBERTa, which has `token_embedding` as an attribute too."""

        def __init__(self):
            super().__init__()
            self.embeddings = Embed(name="embeddings")
            self.blocks = blocks(2)
            self.token_embedding = self.embeddings.word
            self.top = layers.Dense(2, name="top")

        def call(self, x):
            x = self.embeddings(x)
            for block in self.blocks:
                x = block(x)
            return self.top(x[:, 0])

    model = Listed()
    model(TOKENS)
    assert members(layer_groups(model)) == {
        "embeddings": ["embeddings"],
        "block_0": ["block_0"],
        "block_1": ["block_1"],
        "head": ["top"],
    }


class Main(Chain):
    """As a main layer of Hugging Face: the encoder is created before the embeddings."""

    def hold(self, parts):
        self.encoder = Chain(*parts[:-2], name="encoder")
        self.embeddings, self.pooler = parts[-2:]

    def parts(self):
        return [self.embeddings, self.encoder, self.pooler]


# PyTorch wants no dots in the names of layers.
@pytest.mark.backend("tensorflow", "jax")
def test_a_main_layer_of_hugging_face():
    class Classifier(keras.Model):
        def __init__(self):
            super().__init__()
            named = blocks(3, name="layer_._{}")
            pooler = layers.Dense(4, name="pooler")
            self.bert = Main(*named, Embed(name="embeddings"), pooler, name="bert")
            self.classifier = layers.Dense(2, name="classifier")

        def call(self, x):
            return self.classifier(self.bert(x)[:, 0])

    model = Classifier()
    model(TOKENS)
    assert members(layer_groups(model)) == {
        "embeddings": ["embeddings"],
        "layer_._0": ["layer_._0"],
        "layer_._1": ["layer_._1"],
        "layer_._2": ["layer_._2", "pooler"],
        "head": ["classifier"],
    }


def test_an_encoder_and_a_decoder_of_equal_names():
    class Both(keras.Model):
        def __init__(self):
            super().__init__()
            self.shared = layers.Embedding(9, 4, name="shared")
            self.encoder = Chain(*blocks(2), name="encoder")
            self.decoder = Chain(*blocks(2), name="decoder")

        def call(self, x):
            return self.decoder(self.encoder(self.shared(x)))

    model = Both()
    model(TOKENS)
    assert layer_groups(model).names == (
        "shared",
        "encoder_block_0",
        "encoder_block_1",
        "decoder_block_0",
        "decoder_block_1",
    )


def test_embeddings_of_a_decoder_are_in_the_lowest_group_too():
    source, target = keras.Input((3, 4)), keras.Input((3,), dtype="int32")
    x = layers.Dense(4, name="patch_embedding")(source)
    for block in blocks(2, name="encoder_layer_{}"):
        x = block(x)
    y = layers.Embedding(9, 4, name="decoder_embedding")(target)
    y = layers.Add()([x, y])
    for block in blocks(2, name="decoder_layer_{}"):
        y = block(y)
    groups = members(layer_groups(keras.Model([source, target], y)))
    assert set(groups.pop("patch_embedding")) == {
        "patch_embedding",
        "decoder_embedding",
    }
    assert [len(names) for names in groups.values()] == [1, 1, 1, 1]


def test_masks_and_tokens_tie_nothing():
    tokens = keras.Input((3,), dtype="int32")
    x = layers.Embedding(9, 4, mask_zero=True, name="tokens")(tokens)
    x = layers.LSTM(4, return_sequences=True, name="lstm1")(x)
    x = layers.LSTM(4, name="lstm2")(x)
    model = keras.Model(tokens, layers.Dense(1, name="top")(x))
    assert members(layer_groups(model)) == {
        "tokens": ["tokens"],
        "lstm1": ["lstm1"],
        "lstm2": ["lstm2"],
        "head": ["top"],
    }


def test_a_bidirectional_layer_is_as_much_of_a_block_as_what_it_wraps():
    model = keras.Sequential(
        [
            keras.Input((5, 4)),
            layers.LSTM(4, return_sequences=True, name="lstm"),
            layers.Bidirectional(layers.LSTM(4), name="both"),
            layers.Dense(4, name="dense"),
            layers.Dense(1, name="out"),
        ]
    )
    assert members(layer_groups(model)) == {
        "lstm": ["lstm"],
        "both": ["both"],
        "head": ["dense", "out"],
    }


def test_several_embeddings_of_a_table():
    inputs = [keras.Input((1,), dtype="int32") for _ in range(3)]
    parts = [
        layers.Flatten()(layers.Embedding(5, 2, name=f"embed_{i}")(x))
        for i, x in enumerate(inputs)
    ]
    number = keras.Input((2,))
    x = layers.Concatenate()([*parts, number])
    x = layers.Dense(4, name="hidden")(x)
    model = keras.Model([*inputs, number], layers.Dense(1, name="out")(x))
    assert members(layer_groups(model)) == {
        "embed_0": ["embed_0", "embed_1", "embed_2"],
        "hidden": ["hidden"],
        "head": ["out"],
    }


def test_a_teacher_is_not_the_body():
    def network(width):
        return keras.Sequential(
            [keras.Input((4,))]
            + [layers.Dense(width, name=f"block{i}_{j}") for i in (1, 2) for j in "ab"]
            + [layers.Dense(2, name="out")]
        )

    class Distiller(keras.Model):
        def __init__(self, teacher, student):
            super().__init__()
            self.teacher = teacher
            self.student = student
            self.teacher.trainable = False

        def call(self, x):
            return self.student(x)

    model = Distiller(network(16), network(4))
    model(np.zeros((1, 4), "float32"))
    groups = layer_groups(model)
    assert groups.names == ("block1", "block2", "head")
    assert sum(group.parameters for group in groups) == model.student.count_params()
    assert len(groups.rest) == 5
    assert groups.covers(model)
    assert layer_groups(model, 2).rest == groups.rest


@pytest.mark.keras3
def test_the_distiller_of_keras():
    if not hasattr(keras, "distillation"):
        return
    teacher, student = (
        keras.Sequential([keras.Input((4,)), layers.Dense(8), layers.Dense(2)])
        for _ in range(2)
    )
    loss = keras.distillation.LogitsDistillation()
    model = keras.distillation.Distiller(teacher, student, distillation_losses=loss)
    model(np.zeros((1, 4), "float32"))
    groups = layer_groups(model)
    assert [layer for group in groups for layer in group.layers] == student.layers
    assert list(groups.rest) == teacher.layers


def test_weights_of_two_parts_that_share_a_layer_are_in_one_group():
    shared = layers.Dense(4, name="shared")
    model = keras.Sequential(
        [
            keras.Input((4,)),
            InAttributes(layers.Dense(4, name="a"), shared, name="low"),
            InAttributes(shared, layers.Dense(4, name="b"), name="high"),
            layers.Dense(2, name="out"),
        ]
    )
    groups = layer_groups(model)
    assert groups.group_of(shared.kernel).name == "low"
    assert [group.parameters for group in groups] == [40, 20, 10]
    keys = {structure.variable_key(v) for group in groups for v in group.variables}
    assert len(keys) == len(model.weights)

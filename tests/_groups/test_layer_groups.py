"""Layer groups of every family in `keras.applications` and of models made by hand."""

import os
import re
from pathlib import Path

import numpy as np
import pytest

from keras_finetune._engine import backend, keras, structure
from keras_finetune._groups.layer_groups import LayerGroups, layer_groups

layers = keras.layers

# What the tables of five architectures look like, to be read by a person. To write it
# again: `KERAS_FINETUNE_WRITE_SNAPSHOTS=1 pytest tests/_groups`.
SNAPSHOT = Path(__file__).parents[1] / "snapshots" / "layer_groups.txt"
SNAPSHOT_OF = ("VGG16", "ResNet50", "MobileNetV2", "EfficientNetB0", "DenseNet121")

# By family: the smallest variant, its smallest input, how many groups it has with its
# head, and the block prefix of its layers' names in words independent of ours. All
# variants of a family come from one function with other numbers in it, so the smallest
# stands for them; `KERAS_FINETUNE_ALL_ARCHITECTURES=1` builds each one (minutes).
FAMILIES = {
    r"VGG\d+": ("VGG16", 32, 6, r"(block\d)_"),
    r"ResNet\d+": ("ResNet50", 32, 18, r"(conv\d_block\d+)_"),
    r"ResNet\d+V2": ("ResNet50V2", 32, 18, r"(conv\d_block\d+)_"),
    r"ResNetRS\d+": ("ResNetRS50", 32, 18, r"(BlockGroup\d__block_\d+)__"),
    r"DenseNet\d+": ("DenseNet121", 32, 63, r"(conv\d_block\d+|pool\d)_"),
    r"InceptionV3": ("InceptionV3", 75, 17, None),
    r"InceptionResNetV2": ("InceptionResNetV2", 75, 50, r"(block\d+_\d+)_"),
    r"Xception": ("Xception", 71, 15, r"(block\d+)_"),
    r"MobileNet": ("MobileNet", 32, 15, r"conv_(?:dw|pw)_(\d+)"),
    r"MobileNetV2": ("MobileNetV2", 32, 20, r"(block_\d+|expanded_conv)_"),
    r"MobileNetV3\w+": ("MobileNetV3Small", 32, 15, r"(expanded_conv(?:_\d+)?)[_/]"),
    r"NASNet\w+": ("NASNetMobile", 32, 18, r"_((?:stem_|reduce_)?\d+)$"),
    r"EfficientNetB\d": ("EfficientNetB0", 32, 19, r"(block\d\w|top|stem)_"),
    r"EfficientNetV2\w+": ("EfficientNetV2B0", 32, 24, r"(block\d\w|top|stem)_"),
    r"ConvNeXt\w+": ("ConvNeXtTiny", 32, 23, r"(stage_\d_block_\d+)_"),
    r"RegNetX\d+": ("RegNetX002", 32, 15, r"(Stage_\d_XBlock_\d+)_"),
    r"RegNetY\d+": ("RegNetY002", 32, 15, r"(Stage_\d_YBlock_\d+)_"),
}

ARCHITECTURES = [
    name
    for name in dir(keras.applications)
    if name[0].isupper() and callable(getattr(keras.applications, name))
]


def family(name):
    found = [row for key, row in FAMILIES.items() if re.fullmatch(key, name)]
    assert len(found) == 1, f"{name} is in {len(found)} families: add a row"
    return found[0]


def test_every_architecture_is_in_a_family():
    for name in ARCHITECTURES:
        family(name)


def chosen(among=ARCHITECTURES):
    """The architectures to test here, of those named."""
    if os.environ.get("KERAS_FINETUNE_ALL_ARCHITECTURES"):
        return [name for name in among if name in ARCHITECTURES]
    names = [name for name in ARCHITECTURES if family(name)[0] == name]
    if backend() != "tensorflow":
        # Names and graph are the same on every backend, and only TensorFlow makes the
        # weights fast; Keras refuses to build NASNet on PyTorch.
        names = ["VGG16", "MobileNetV2"]
    return [name for name in names if name in among]


@pytest.fixture(scope="module", params=chosen())
def architecture(request):
    """The name, the model with its own head, and the model without one."""
    build = getattr(keras.applications, request.param)
    size = family(request.param)[1]
    shape = {"weights": None, "input_shape": (size, size, 3)}
    yield (
        request.param,
        build(**shape, classes=10),
        build(**shape, include_top=False),
    )
    keras.backend.clear_session()


def flat(model):
    """The layers of a model in Keras's order, nested models expanded."""
    for layer in structure.sublayers(model):
        if isinstance(layer, keras.Model):
            yield from flat(layer)
        else:
            yield layer


def grouped(groups):
    return [layer for group in groups for layer in group.layers]


def weighted(group):
    return [layer for layer in group.layers if layer.weights]


def by_name(groups):
    """The groups as lists of layer names, which is short to write."""
    return {group.name: [layer.name for layer in group.layers] for group in groups}


def check_weights(groups, model):
    """Each weight is in exactly one group."""
    keys = [structure.variable_key(v) for group in groups for v in group.variables]
    assert len(set(keys)) == len(keys)
    assert set(keys) == {structure.variable_key(v) for v in model.weights}


def check_partition(groups, model):
    """Each weight is in exactly one group, each layer too; no group is empty."""
    check_weights(groups, model)
    assert len(set(map(id, grouped(groups)))) == len(grouped(groups))
    assert set(map(id, grouped(groups))) == set(map(id, flat(model)))
    assert len(set(groups.names)) == len(groups)
    assert sum(group.parameters for group in groups) == model.count_params()
    for group in groups:
        assert group.variables
        for variable in group.variables:
            assert groups.group_of(variable) is group


def check_depth(groups, model):
    """What a layer reads from is in its own group or in one below."""
    place = {id(layer): i for i, group in enumerate(groups) for layer in group.layers}
    graph = structure.calls(model)
    made = []
    for layer, inputs, _, _ in graph:
        below = max((made[i] for i in inputs), default=0)
        assert place.get(id(layer), below) >= below
        made.append(place.get(id(layer), below))


def new_head(x):
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return layers.Dense(3, name="new")(layers.Dropout(0.1, name="noise")(x))


@pytest.mark.slow
@pytest.mark.once
class TestArchitectures:
    def test_with_its_own_head(self, architecture):
        name, model, _ = architecture
        groups = layer_groups(model)
        check_partition(groups, model)
        # Contiguous in depth: Keras's order is not changed, only cut.
        assert grouped(groups) == list(flat(model))
        assert groups.names[-1] == "head"
        assert groups[-1].layers[-1] is model.layers[-1]
        if name == family(name)[0]:
            assert len(groups) == family(name)[2]

    @pytest.mark.parametrize(
        "architecture", [n for n in chosen() if family(n)[3]], indirect=True
    )
    def test_block_prefixes_are_never_split(self, architecture):
        name, model, _ = architecture
        prefix = family(name)[3]
        groups = layer_groups(model)
        groups_of, prefixes_of = {}, {}
        for group in groups:
            for layer in weighted(group):
                if match := re.search(prefix, layer.name):
                    groups_of.setdefault(match[1], set()).add(group.name)
                    prefixes_of.setdefault(group.name, set()).add(match[1])
        assert len(groups_of) > 3
        assert all(len(names) == 1 for names in groups_of.values())
        assert all(len(prefixes) == 1 for prefixes in prefixes_of.values())

    def test_with_a_new_head(self, architecture):
        _, _, body = architecture
        expected = layer_groups(body).names
        assert "head" not in expected
        model = keras.Model(body.inputs, new_head(body.output))
        groups = layer_groups(model)
        check_partition(groups, model)
        assert groups.names == (*expected, "head")
        # ConvNeXt ends in a normalization without a name, which in a flattened model
        # could be a new one as well.
        new = [layer.name for layer in weighted(groups[-1])]
        assert [name for name in new if not name.startswith("layer_norm")] == ["new"]
        assert "noise" in by_name(groups)["head"]

    # Calling a model traces it again, so a few must do: one simple, one with operations
    # that are no layers, one with nested models.
    @pytest.mark.parametrize(
        "architecture",
        chosen(["VGG16", "MobileNetV3Small", "ConvNeXtTiny"]),
        indirect=True,
    )
    def test_nested_under_a_new_head(self, architecture):
        _, _, body = architecture
        inputs = keras.Input(body.input_shape[1:])
        model = keras.Model(inputs, new_head(body(inputs)))
        groups = layer_groups(model)
        check_partition(groups, model)
        assert groups.names == (*layer_groups(body).names, "head")
        assert by_name(groups)["head"] == ["pool", "noise", "new"]

    def test_merged(self, architecture):
        _, model, _ = architecture
        automatic = layer_groups(model)
        groups = layer_groups(model, 4)
        check_partition(groups, model)
        assert len(groups) == 4
        assert groups[-1].layers == automatic[-1].layers
        assert grouped(groups) == grouped(automatic)


@pytest.mark.slow
@pytest.mark.once
@pytest.mark.parametrize("architecture", chosen(SNAPSHOT_OF), indirect=True)
def test_groups_are_those_of_the_snapshot_on_every_keras(architecture):
    name, model, _ = architecture
    # Keras 2 calls two layers of DenseNet "conv1/conv" and "conv1/bn".
    table = str(layer_groups(model)).replace("conv1/", "conv1_")
    assert max(map(len, table.splitlines())) <= 80
    tables = {}
    if SNAPSHOT.exists():
        parts = re.split(
            r"^# (\w+)\n", SNAPSHOT.read_text(encoding="utf-8"), flags=re.M
        )
        tables = dict(zip(parts[1::2], map(str.strip, parts[2::2]), strict=True))
    if os.environ.get("KERAS_FINETUNE_WRITE_SNAPSHOTS"):
        tables[name] = table
        text = "\n\n".join(f"# {n}\n{tables[n]}" for n in SNAPSHOT_OF if n in tables)
        SNAPSHOT.write_text(text + "\n", encoding="utf-8")
    assert tables[name] == table


# Models made by hand.


def small_sequential(**kwargs):
    return keras.Sequential(
        [
            keras.Input((12, 12, 3)),
            layers.RandomFlip(name="flip"),
            layers.Conv2D(4, 3, name="a"),
            layers.BatchNormalization(name="a_norm"),
            layers.ReLU(name="a_relu"),
            layers.MaxPooling2D(name="a_pool"),
            layers.Dropout(0.1, name="a_drop"),
            layers.Conv2D(4, 3, name="b"),
            layers.Flatten(name="b_flat"),
        ],
        **kwargs,
    )


class Block(layers.Layer):
    """A transformer block, as one writes it with Keras layers."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.attention = layers.MultiHeadAttention(2, width // 2)
        self.norm1 = layers.LayerNormalization()
        self.norm2 = layers.LayerNormalization()
        self.mlp = [layers.Dense(2 * width), layers.Dense(width)]
        self.dropout = layers.Dropout(0.1)

    def call(self, x):
        x = self.norm1(x + self.attention(x, x))
        return self.norm2(x + self.dropout(self.mlp[1](self.mlp[0](x))))


class Transformer(keras.Model):
    """Subclassed, with weights that the model holds itself."""

    def __init__(self):
        super().__init__()
        self.tokens = layers.Embedding(11, 8, name="tokens")
        self.blocks = [Block(8, name=f"block_{i}") for i in range(3)]
        self.pool = layers.GlobalAveragePooling1D(name="pool")
        self.classifier = layers.Dense(2, name="classifier")
        self.positions = self.add_weight(
            name="positions", shape=(5, 8), initializer="zeros"
        )

    def call(self, x):
        x = self.tokens(x) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.classifier(self.pool(x))


def transformer():
    model = Transformer()
    model(np.zeros((1, 5), "int32"))
    return model


class TestModels:
    def test_sequential(self):
        model = small_sequential()
        model.add(layers.Dense(2, name="c"))
        groups = layer_groups(model)
        check_partition(groups, model)
        assert by_name(groups) == {
            "a": ["flip", "a", "a_norm", "a_relu", "a_pool", "a_drop"],
            "b": ["b", "b_flat"],
            "head": ["c"],
        }

    def test_a_single_layer_is_the_head(self):
        model = keras.Sequential([keras.Input((2,)), layers.Dense(2, name="only")])
        assert by_name(layer_groups(model)) == {"head": ["only"]}

    def test_a_leading_normalization_belongs_to_the_layer_above(self):
        model = keras.Sequential(
            [
                keras.Input((2,)),
                layers.BatchNormalization(name="norm"),
                layers.Dense(2, name="a"),
                layers.Dense(2, name="b"),
            ]
        )
        assert by_name(layer_groups(model)) == {"a": ["norm", "a"], "head": ["b"]}

    def test_only_normalization(self):
        model = keras.Sequential(
            [keras.Input((2,)), layers.BatchNormalization(name="norm")]
        )
        assert by_name(layer_groups(model)) == {"head": ["norm"]}

    def test_nested_twice(self):
        inner = keras.Sequential(
            [
                keras.Input((12, 12, 3)),
                small_sequential(name="backbone"),
                layers.Dense(3, name="old"),
            ]
        )
        model = keras.Sequential(
            [
                keras.Input((12, 12, 3)),
                inner,
                layers.Dropout(0.1, name="noise"),
                layers.Dense(2, name="new"),
            ]
        )
        groups = layer_groups(model)
        check_partition(groups, model)
        assert {key: names[-1] for key, names in by_name(groups).items()} == {
            "a": "a_drop",
            "b": "b_flat",
            "old": "old",
            "head": "new",
        }
        assert by_name(groups)["head"] == ["noise", "new"]

    def test_nested_head_and_augmentation(self):
        model = keras.Sequential(
            [
                keras.Input((12, 12, 3)),
                keras.Sequential([layers.RandomRotation(0.1, name="rotate")]),
                small_sequential(name="backbone"),
                keras.Sequential(
                    [layers.Dense(4, name="dense1"), layers.Dense(2, name="dense2")]
                ),
            ]
        )
        groups = layer_groups(model)
        check_partition(groups, model)
        assert groups.names == ("a", "b", "head")
        assert by_name(groups)["a"][:3] == ["rotate", "flip", "a"]
        assert by_name(groups)["head"] == ["dense1", "dense2"]

    def test_nested_model_used_twice(self):
        backbone = small_sequential(name="backbone")
        left, right = keras.Input((12, 12, 3)), keras.Input((12, 12, 3))
        x = layers.Concatenate()([backbone(left), backbone(right)])
        model = keras.Model([left, right], layers.Dense(1, name="same")(x))
        groups = layer_groups(model)
        check_partition(groups, model)
        check_depth(groups, model)
        assert groups.names == ("a", "b", "head")

    def test_two_branches_are_one_block(self):
        inputs = keras.Input((4,))
        left = layers.Dense(4, name="left2")(layers.Dense(4, name="left1")(inputs))
        right = layers.Dense(4, name="right1")(inputs)
        x = layers.Dense(4, name="joint")(layers.Concatenate()([left, right]))
        model = keras.Model(inputs, layers.Dense(2, name="out")(x))
        groups = layer_groups(model)
        check_partition(groups, model)
        check_depth(groups, model)
        assert [sorted(layer.name for layer in weighted(g)) for g in groups] == [
            ["left1", "left2", "right1"],
            ["joint", "out"],
        ]

    def test_shared_layer_is_where_its_first_use_is(self):
        inputs = keras.Input((4,))
        shared = layers.Dense(4, name="shared")
        x = layers.Dense(4, name="middle")(shared(inputs))
        x = layers.Dense(4, name="later")(shared(x))
        model = keras.Model(inputs, layers.Dense(2, name="out")(x))
        groups = layer_groups(model)
        check_partition(groups, model)
        assert [[layer.name for layer in weighted(group)] for group in groups] == [
            ["shared"],
            ["middle"],
            ["later"],
            ["out"],
        ]

    @pytest.mark.parametrize("deep", [False, True])
    def test_all_outputs_are_in_the_head(self, deep):
        inputs = keras.Input((4,))
        x = inputs
        for i in range(5 if deep else 1):
            x = layers.Dense(4, name=f"body{i}")(x)
        one = layers.Dense(2, name="one")(x)
        two = layers.Dense(2, name="two")(layers.Dense(3, name="before_two")(x))
        model = keras.Model(inputs, [one, layers.Softmax(name="soft")(two)])
        groups = layer_groups(model)
        check_partition(groups, model)
        check_depth(groups, model)
        assert groups.names[-1] == "head"
        assert len(groups) == (6 if deep else 2)
        assert {layer.name for layer in weighted(groups[-1])} == {
            "one",
            "two",
            "before_two",
        }

    def test_auxiliary_output_from_the_middle_is_in_the_head(self):
        inputs = keras.Input((4,))
        x = inputs
        for i in range(1, 5):
            x = layers.Dense(4, name=f"block{i}_dense1")(x)
            x = layers.Dense(4, name=f"block{i}_dense2")(x)
            if i == 2:
                side = layers.Dense(4, name="side1")(x)
                for j in range(2, 6):
                    side = layers.Dense(4, name=f"side{j}")(side)
        model = keras.Model(inputs, [layers.Dense(2, name="main")(x), side])
        groups = layer_groups(model)
        check_partition(groups, model)
        check_depth(groups, model)
        assert groups.names == ("block1", "block2", "block3", "block4", "head")
        assert len(weighted(groups[-1])) == 6

    @pytest.mark.parametrize("nested", [False, True])
    def test_a_branch_beside_the_body_is_in_the_head(self, nested):
        body = keras.applications.VGG16(
            weights=None, include_top=False, input_shape=(32, 32, 3), pooling="avg"
        )
        image = keras.Input((32, 32, 3)) if nested else body.input
        data = keras.Input((3,))
        x = layers.Dense(4, name="data2")(layers.Dense(4, name="data1")(data))
        x = layers.Concatenate()([body(image) if nested else body.output, x])
        model = keras.Model([image, data], layers.Dense(2, name="out")(x))
        groups = layer_groups(model)
        check_partition(groups, model)
        check_depth(groups, model)
        assert groups.names[:-1] == ("block1", "block2", "block3", "block4", "block5")
        assert {layer.name for layer in weighted(groups[-1])} == {
            "data1",
            "data2",
            "out",
        }

    @pytest.mark.parametrize("operation", ["layer", "operator"])
    def test_residual_blocks_without_names(self, operation):
        inputs = keras.Input((8,))
        x = layers.Dense(8, name="entry")(inputs)
        for i in range(4):
            y = layers.LayerNormalization()(x)
            y = layers.Dense(8, name=f"first_{i}")(y)
            y = layers.Dropout(0.1)(y)
            y = layers.Dense(8, name=f"second_{i}")(y)
            x = layers.Add()([x, y]) if operation == "layer" else x + y
        x = layers.LayerNormalization(name="last_norm")(x)
        x = layers.Dropout(0.1, name="noise")(x)
        x = layers.Dense(4, name="dense")(x)
        model = keras.Model(inputs, layers.Dense(2, name="out")(x))
        groups = layer_groups(model)
        check_partition(groups, model)
        check_depth(groups, model)
        assert groups.names == (
            "entry",
            *(f"first_{i}" for i in range(4)),
            "head",
        )
        assert "last_norm" in by_name(groups)["first_3"]
        assert by_name(groups)["head"] == ["noise", "dense", "out"]

    def test_long_skips_tie_nothing(self):
        inputs = keras.Input((16, 16, 1))
        x, skips = inputs, []
        for i in range(3):
            x = layers.Conv2D(2, 3, padding="same", name=f"down_{i}")(x)
            x = layers.Conv2D(2, 3, padding="same", name=f"further_{i}")(x)
            skips.append(x)
            x = layers.MaxPooling2D()(x)
        x = layers.Conv2D(2, 3, padding="same", name="bottom")(x)
        for i in reversed(range(3)):
            x = layers.Concatenate()([layers.UpSampling2D()(x), skips[i]])
            x = layers.Conv2D(2, 3, padding="same", name=f"up_{i}")(x)
            x = layers.Conv2D(2, 3, padding="same", name=f"onwards_{i}")(x)
        model = keras.Model(inputs, layers.Conv2D(1, 1, name="out")(x))
        groups = layer_groups(model)
        check_partition(groups, model)
        check_depth(groups, model)
        assert len(groups) == 14
        assert groups.names[0] == "down_0"

    @pytest.mark.slow
    @pytest.mark.parametrize("named", [False, True])
    def test_transformer_of_block_layers(self, named):
        inputs = keras.Input((5,))
        x = layers.Embedding(11, 8, name="tokens")(inputs)
        for i in range(3):
            x = Block(8, name=f"encoder_block{i}" if named else f"encoder{'abc'[i]}")(x)
        x = layers.GlobalAveragePooling1D(name="pool")(x)
        x = layers.Dense(4, name="dense")(layers.Dropout(0.1, name="noise")(x))
        model = keras.Model(inputs, layers.Dense(2, name="out")(x))
        groups = layer_groups(model)
        check_partition(groups, model)
        check_depth(groups, model)
        assert groups.names[0] == "tokens"
        assert len(groups) == 5
        assert by_name(groups)["head"] == ["pool", "noise", "dense", "out"]

    def test_transformer_of_plain_layers(self):
        inputs = keras.Input((5,))
        x = layers.Embedding(11, 8, name="tokens")(inputs)
        for i in range(2):
            y = layers.LayerNormalization()(x)
            y = layers.MultiHeadAttention(2, 4, name=f"attention_{i}")(y, y)
            x = layers.Add()([x, y])
            y = layers.LayerNormalization()(x)
            y = layers.Dense(16, name=f"mlp_{i}")(y)
            x = layers.Add()([x, layers.Dense(8, name=f"back_{i}")(y)])
        x = layers.GlobalAveragePooling1D(name="pool")(x)
        model = keras.Model(inputs, layers.Dense(2, name="out")(x))
        groups = layer_groups(model)
        check_partition(groups, model)
        check_depth(groups, model)
        assert groups.names == (
            "tokens",
            "attention_0",
            "mlp_0",
            "attention_1",
            "mlp_1",
            "head",
        )

    @pytest.mark.slow
    def test_subclassed(self):
        model = transformer()
        groups = layer_groups(model)
        check_partition(groups, model)
        assert groups.names == ("tokens", "block_0", "block_1", "block_2", "head")
        assert by_name(groups)["head"] == ["pool", "classifier"]
        # The model's own weights come first; the model is not among the layers, for
        # whoever freezes these would freeze everything.
        assert groups.group_of(model.positions).name == "tokens"
        assert by_name(groups)["tokens"] == ["tokens"]

    @pytest.mark.slow
    def test_subclassed_within_a_model(self):
        body = transformer()
        inputs = keras.Input((5,), dtype="int32")
        model = keras.Model(inputs, layers.Dense(3, name="new")(body(inputs)))
        groups = layer_groups(model)
        check_partition(groups, model)
        assert groups.names[0] == "tokens"
        assert groups.group_of(body.positions).name == "tokens"
        assert by_name(groups)["head"] == ["new"]

    def test_composite_layers_stand_as_a_whole(self):
        model = keras.Sequential(
            [
                keras.Input((5, 3)),
                layers.Bidirectional(layers.LSTM(2, return_sequences=True), name="bi"),
                layers.RNN([layers.LSTMCell(2), layers.GRUCell(2)], name="rnn"),
                layers.Dense(2, name="out"),
            ]
        )
        groups = layer_groups(model)
        check_partition(groups, model)
        assert by_name(groups)["bi"] == ["bi"]
        assert by_name(groups)["head"][-1] == "out"

    def test_blocks_named_by_nested_models(self):
        stages = [
            keras.Sequential(
                [layers.Dense(4), layers.BatchNormalization(), layers.Dense(4)],
                name=f"mynet_stage{i}",
            )
            for i in range(3)
        ]
        model = keras.Sequential(
            [keras.Input((4,)), *stages, layers.Dense(2, name="out")]
        )
        groups = layer_groups(model)
        check_partition(groups, model)
        assert groups.names == ("stage0", "stage1", "stage2", "head")

    def test_a_layer_amid_a_block_joins_it_and_a_block_that_returns_is_another(self):
        names = ["block1_a", "adapter", "block1_b", "block2_a", "block1_c", "out"]
        model = keras.Sequential(
            [keras.Input((4,)), *(layers.Dense(4, name=name) for name in names)]
        )
        assert by_name(layer_groups(model)) == {
            "block1": ["block1_a", "adapter", "block1_b"],
            "block2": ["block2_a"],
            "block1_2": ["block1_c"],
            "head": ["out"],
        }

    def test_a_normalization_that_opens_a_block_stays_with_it(self):
        model = keras.Sequential(
            [
                keras.Input((4,)),
                layers.Dense(4, name="block1_dense"),
                layers.BatchNormalization(name="block2_norm"),
                layers.ReLU(),
                layers.Dense(4, name="block2_dense"),
                layers.Dense(2, name="out"),
            ]
        )
        groups = layer_groups(model)
        assert [len(group.layers) for group in groups] == [1, 3, 1]
        assert by_name(groups)["block2"][0] == "block2_norm"

    def test_blocks_in_parallel_branches_are_merged(self):
        inputs = keras.Input((4,))
        one = two = inputs
        for i in range(3):
            one = layers.Dense(4, name=f"one_block1_{i}")(one)
            two = layers.Dense(4, name=f"two_block1_{i}")(two)
        x = layers.Concatenate()([one, two])
        for i in range(6):
            x = layers.Dense(4, name=f"block2_{i}")(x)
        model = keras.Model(inputs, layers.Dense(2, name="out")(x))
        groups = layer_groups(model)
        check_partition(groups, model)
        check_depth(groups, model)
        assert len(groups) == 3
        assert len(weighted(groups[0])) == 6

    def test_weights_that_two_layers_hold_belong_to_the_first(self):
        class Again(layers.Layer):
            def __init__(self, layer, **kwargs):
                super().__init__(**kwargs)
                self.layer = layer

            def call(self, x):
                return self.layer(x)

        first = layers.Dense(4, name="a")
        model = keras.Sequential(
            [
                keras.Input((4,)),
                first,
                layers.Dense(4, name="b"),
                Again(first, name="again"),
                layers.Dense(2, name="out"),
            ]
        )
        groups = layer_groups(model)
        assert groups.group_of(first.kernel).name == "a"
        assert by_name(groups) == {"a": ["a"], "b": ["b", "again"], "head": ["out"]}
        assert sum(group.parameters for group in groups) == model.count_params()


class TestNumber:
    @pytest.mark.slow
    def test_head_stays_alone(self):
        model = transformer()
        groups = layer_groups(model, 2)
        check_partition(groups, model)
        assert groups.names == ("tokens..block_2", "head")

    @pytest.mark.slow
    def test_one_group_holds_everything(self):
        model = transformer()
        (group,) = layer_groups(model, 1)
        assert group.name == "tokens..head"
        assert group.parameters == model.count_params()

    @pytest.mark.slow
    def test_as_many_as_there_are_are_the_automatic_ones(self):
        model = transformer()
        assert layer_groups(model, 5).names == layer_groups(model).names
        assert len(layer_groups(model, np.int64(3))) == 3

    @pytest.mark.slow
    @pytest.mark.parametrize("number", [0, -1, 6])
    def test_refuses_what_the_model_has_not(self, number):
        with pytest.raises(ValueError, match=rf"between 1 and 5.*groups={number}"):
            layer_groups(transformer(), number)


def named_model():
    """Three dense layers and dropout, the backbone nested."""
    body = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(4, name="low"),
            layers.Dropout(0.1, name="noise"),
            layers.Dense(4, name="high"),
        ],
        name="body",
    )
    return keras.Sequential(
        [
            keras.Input((4,)),
            body,
            layers.Dropout(0.1, name="top_noise"),
            layers.Dense(2, name="out"),
        ]
    )


class TestList:
    @pytest.mark.parametrize(
        ("entries", "expected"),
        [
            (["low", "high", "out"], {"low": ["low", "noise"], "out": ["out"]}),
            (["low/", "high/", "out/"], {"low/": ["low", "noise"]}),
            (["body", "out"], {"body": ["low", "noise", "high", "top_noise"]}),
            (["low|high", "out"], {"low|high": ["low", "noise", "high", "top_noise"]}),
            ([["low", "high"], "out"], {"low..high": ["low", "noise", "high"]}),
            (["low", ["noise", "high"], "out"], {"noise..high": ["noise", "high"]}),
            (["low", "high", ["top_noise", "out"]], {"high": ["high"]}),
            (("low", ("high", "out")), {"low": ["low", "noise"]}),
        ],
    )
    def test_strings(self, entries, expected):
        model = named_model()
        groups = layer_groups(model, entries)
        check_partition(groups, model)
        for name, names in expected.items():
            assert by_name(groups)[name][: len(names)] == names

    def test_layers(self):
        model = named_model()
        body = model.get_layer("body")
        groups = layer_groups(model, [body, [model.get_layer("out")]])
        check_partition(groups, model)
        assert groups.names == ("body", "out")
        groups = layer_groups(model, [body.get_layer("low"), "high", "out"])
        assert groups.names == ("low", "high", "out")

    def test_refuses_a_list_from_top_to_bottom(self):
        with pytest.raises(ValueError, match="'out' reads from 'high'") as caught:
            layer_groups(named_model(), ["out", "high", "low"])
        assert "Bottom to top: ['low', 'high', 'out']" in str(caught.value)

    def test_names_that_come_again_are_numbered(self):
        first, second = layers.Dense(2, name="x"), layers.Dense(2, name="x")
        model = keras.Sequential(
            [
                keras.Input((2,)),
                keras.Sequential([first], name="one"),
                keras.Sequential([second], name="two"),
            ]
        )
        assert layer_groups(model, [first, second]).names == ("x", "x_2")

    def test_an_expression_selects_whole_layers(self):
        model = named_model()
        groups = layer_groups(model, [r"(low|high).*kernel", "out.*bias"])
        check_partition(groups, model)
        assert [len(group.variables) for group in groups] == [4, 2]

    @pytest.mark.slow
    def test_a_layer_inside_a_composite_layer_can_be_a_group(self):
        model = transformer()
        block = model.blocks[0]
        first = [block.norm1, block.norm2, *block.mlp, "tokens|positions"]
        rest = ["block_1", "block_2", "classifier"]
        groups = layer_groups(model, [block.attention, first, *rest])
        check_weights(groups, model)
        assert groups[0].layers == (block.attention,)
        assert [x.name for x in groups[2].layers] == ["block_1"]

    @pytest.mark.slow
    def test_own_weights_of_a_model_can_be_a_group(self):
        model = transformer()
        groups = layer_groups(
            model, ["positions", "tokens", "block_", ["pool", "classifier"]]
        )
        assert groups[0].layers == ()
        assert groups[0].parameters == 40
        assert "positions" in str(groups)

    def test_frozen_layers_may_be_left_out(self):
        model = named_model()
        low = model.get_layer("body").get_layer("low")
        low.trainable = False
        groups = layer_groups(model, ["high", "out"])
        assert groups.names == ("high", "out")
        assert [layer.name for layer in groups.rest] == ["low", "noise"]
        assert "(no group)" in str(groups)
        with pytest.raises(KeyError, match="low"):
            groups.group_of(low.kernel)
        assert layer_groups(model, groups) is groups

    @pytest.mark.parametrize(
        ("entries", "error", "says"),
        [
            ([], ValueError, "at least one entry"),
            (["low", [], "high", "out"], ValueError, "no empty list"),
            (["low", "hihg", "out"], ValueError, "'hihg' matches nothing"),
            (["body", "low", "out"], ValueError, r"low \('body' and 'low'\)"),
            (["kernel", "bias"], ValueError, "In two: low.*high.*out"),
            (["high", "out"], ValueError, "freeze them.*Left: low"),
            (["low", "high", "noise", "out"], ValueError, "'noise' has none"),
            (["low", "high(", "out"], ValueError, "neither"),
            (["low", 3, "out"], TypeError, r"3 \(of type int\)"),
            (["low", [["high"]], "out"], TypeError, "of type list"),
        ],
    )
    def test_refuses(self, entries, error, says):
        with pytest.raises(error, match=says) as caught:
            layer_groups(named_model(), entries)
        assert "Argument `groups` must" in str(caught.value)
        assert "Received: " in str(caught.value)

    def test_refuses_a_name_that_two_layers_have(self):
        model = keras.Sequential(
            [
                keras.Input((2,)),
                keras.Sequential([layers.Dense(2, name="x")], name="one"),
                keras.Sequential([layers.Dense(2, name="x")], name="two"),
            ]
        )
        with pytest.raises(ValueError, match="2 layers are called 'x'"):
            layer_groups(model, ["x"])

    def test_refuses_a_layer_of_another_model(self):
        with pytest.raises(ValueError, match="<Dense other> matches nothing"):
            layer_groups(named_model(), [layers.Dense(2, name="other"), "out"])


class TestRefusals:
    @pytest.mark.parametrize("groups", [None, 2.0, True, {"head": "out"}, {"out"}])
    def test_type_of_groups(self, groups):
        with pytest.raises(TypeError, match=r"Argument `groups` must be.*Received: "):
            layer_groups(named_model(), groups)

    def test_a_string_alone(self):
        with pytest.raises(ValueError, match=r"Argument `groups` must be.*'automatic'"):
            layer_groups(named_model(), "automatic")

    @pytest.mark.parametrize("model", [None, "model", layers.Dense(2)])
    def test_type_of_model(self, model):
        with pytest.raises(TypeError, match="Argument `model` must be a Keras model"):
            layer_groups(model)

    def test_a_model_of_another_keras(self):
        class Model:
            """Looks like a class of the Keras that does not run here."""

        Model.__module__ = "tf_keras.src.engine.training"
        model = type("Functional", (Model,), {})()
        with pytest.raises(TypeError, match=r"another Keras.*TF_USE_LEGACY_KERAS"):
            layer_groups(model)

    def test_a_model_that_is_not_built(self):
        for model in (keras.Sequential([layers.Dense(2)]), Transformer()):
            with pytest.raises(ValueError, match=r"Call it once on data.*model\.build"):
                layer_groups(model)

    def test_a_model_without_weights(self):
        model = keras.Sequential([keras.Input((2,)), layers.Dropout(0.1)])
        with pytest.raises(ValueError, match="must have weights"):
            layer_groups(model)

    def test_groups_of_another_model(self):
        groups = layer_groups(named_model())
        with pytest.raises(ValueError, match="the groups of this model"):
            layer_groups(named_model(), groups)


class TestObject:
    def test_is_a_sequence_that_does_not_change(self):
        groups = layer_groups(named_model())
        assert isinstance(groups, LayerGroups)
        assert len(groups) == 3
        assert groups[-1] is list(groups)[-1]
        assert groups[:2] == tuple(groups)[:2]
        assert groups.index(groups[1]) == 1
        assert len(set(groups)) == 3
        with pytest.raises(AttributeError):
            groups.names = ()
        with pytest.raises(AttributeError):
            groups[0].name = "other"
        with pytest.raises(TypeError):
            groups[0] = groups[1]

    def test_given_groups_are_returned(self):
        model = named_model()
        groups = layer_groups(model, ["low", ["high", "out"]])
        assert layer_groups(model, groups) is groups

    def test_table(self):
        groups = layer_groups(named_model())
        assert str(groups).splitlines() == [
            "group  layers  parameters  from - to",
            "low         2          20  low",
            "high        1          20  high",
            "head        2          10  out",
        ]
        assert repr(groups) == "<LayerGroups low, high, head>"
        assert ">head</td>" in groups._repr_html_()

    def test_table_fits_80_columns(self):
        long = "a_layer_with_a_name_that_is_longer_than_any_name_has_reason_to_be"
        names = [f"{long}_{end}" for end in ("one", "two", "three")]
        model = keras.Sequential(
            [keras.Input((4,)), *(layers.Dense(4, name=name) for name in names)]
        )
        table = str(layer_groups(model, [names[:2], names[2]]))
        assert max(map(len, table.splitlines())) <= 80
        assert "…" in table

    def test_html_is_escaped(self):
        model = named_model()
        page = layer_groups(model, ["low(?<!x)|high", "out"])._repr_html_()
        assert "low(?&lt;!x)|high" in page

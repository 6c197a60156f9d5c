"""Tiny, randomly initialized models of the families that people fine-tune.

Each function builds one model; its name is the family's. A library that is not
installed takes its families with it: `FAMILIES` holds those that can be built here.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np

from keras_finetune._engine import KERAS_3, keras

FAMILIES: dict[str, Callable[[], Any]] = {}

TEXT = {
    "vocabulary_size": 30,
    "num_layers": 3,
    "num_heads": 2,
    "hidden_dim": 8,
    "intermediate_dim": 16,
    "max_sequence_length": 12,
}
DECODER = {
    "vocabulary_size": 30,
    "num_layers": 3,
    "num_query_heads": 2,
    "num_key_value_heads": 1,
    "hidden_dim": 8,
    "intermediate_dim": 16,
}
VISION = {
    "image_shape": (16, 16, 3),
    "patch_size": 4,
    "num_layers": 3,
    "num_heads": 2,
    "hidden_dim": 8,
}


def is_there(library: str) -> bool:
    """Whether a library can be imported and runs on this Keras."""
    legacy = library == "transformers"
    return importlib.util.find_spec(library) is not None and legacy is not KERAS_3


def family(library: str) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    """Register a builder that needs a library."""

    def register(build: Callable[[], Any]) -> Callable[[], Any]:
        if is_there(library):
            FAMILIES[build.__name__] = build
        return build

    return register


def hub() -> Any:
    """Return the classes of KerasHub."""
    import keras_hub

    return keras_hub.models


def classifier(body: Any, classes: int = 2) -> Any:
    """Put a new head on the output of a backbone, as one does without a task."""
    outputs = body.output
    if isinstance(outputs, dict):
        outputs = outputs.get("pooled_output", list(outputs.values())[-1])
    if len(outputs.shape) == 4:
        outputs = keras.layers.GlobalAveragePooling2D()(outputs)
    if len(outputs.shape) == 3:
        outputs = keras.layers.GlobalAveragePooling1D()(outputs)
    outputs = keras.layers.Dropout(0.1, name="new_dropout")(outputs)
    head = keras.layers.Dense(classes, name="new")(outputs)
    return keras.Model(body.inputs, head)


# KerasHub, text.


def bert() -> Any:
    return hub().BertBackbone(**TEXT)


@family("keras_hub")
def bert_classifier() -> Any:
    return hub().BertTextClassifier(backbone=bert(), num_classes=2)


@family("keras_hub")
def bert_backbone() -> Any:
    return classifier(bert())


@family("keras_hub")
def bert_masked_lm() -> Any:
    return hub().BertMaskedLM(backbone=bert())


@family("keras_hub")
def albert_classifier() -> Any:
    body = hub().AlbertBackbone(**TEXT, embedding_dim=4)
    return hub().AlbertTextClassifier(backbone=body, num_classes=2)


@family("keras_hub")
def distil_bert_classifier() -> Any:
    body = hub().DistilBertBackbone(**TEXT)
    return hub().DistilBertTextClassifier(backbone=body, num_classes=2)


@family("keras_hub")
def distil_bert_masked_lm() -> Any:
    return hub().DistilBertMaskedLM(backbone=hub().DistilBertBackbone(**TEXT))


@family("keras_hub")
def roberta_classifier() -> Any:
    body = hub().RobertaBackbone(**TEXT)
    return hub().RobertaTextClassifier(backbone=body, num_classes=2)


@family("keras_hub")
def deberta_classifier() -> Any:
    body = hub().DebertaV3Backbone(**TEXT, bucket_size=8)
    return hub().DebertaV3TextClassifier(backbone=body, num_classes=2)


@family("keras_hub")
def f_net_classifier() -> Any:
    names = ("vocabulary_size", "num_layers", "hidden_dim", "intermediate_dim")
    body = hub().FNetBackbone(**{name: TEXT[name] for name in names})
    return hub().FNetTextClassifier(backbone=body, num_classes=2)


@family("keras_hub")
def gpt2_causal_lm() -> Any:
    return hub().GPT2CausalLM(backbone=hub().GPT2Backbone(**TEXT))


@family("keras_hub")
def opt_causal_lm() -> Any:
    return hub().OPTCausalLM(backbone=hub().OPTBackbone(**TEXT))


@family("keras_hub")
def gemma_causal_lm() -> Any:
    return hub().GemmaCausalLM(backbone=hub().GemmaBackbone(**DECODER, head_dim=4))


@family("keras_hub")
def llama_causal_lm() -> Any:
    return hub().LlamaCausalLM(backbone=hub().LlamaBackbone(**DECODER))


@family("keras_hub")
def bart_seq2seq_lm() -> Any:
    return hub().BartSeq2SeqLM(backbone=hub().BartBackbone(**TEXT))


@family("keras_hub")
def t5_backbone() -> Any:
    options = {key: v for key, v in TEXT.items() if key != "max_sequence_length"}
    body = hub().T5Backbone(**options)
    outputs = body.output["decoder_sequence_output"]
    pooled = keras.layers.GlobalAveragePooling1D()(outputs)
    return keras.Model(body.inputs, keras.layers.Dense(2, name="new")(pooled))


# KerasHub, vision.


@family("keras_hub")
def vit_classifier() -> Any:
    body = hub().ViTBackbone(**VISION, mlp_dim=16, dropout_rate=0.1)
    return hub().ViTImageClassifier(backbone=body, num_classes=2)


@family("keras_hub")
def vit_backbone() -> Any:
    return classifier(hub().ViTBackbone(**VISION, mlp_dim=16))


@family("keras_hub")
def deit_classifier() -> Any:
    body = hub().DeiTBackbone(**VISION, intermediate_dim=16, dropout_rate=0.1)
    return hub().DeiTImageClassifier(backbone=body, num_classes=2)


@family("keras_hub")
def dinov2_backbone() -> Any:
    body = hub().DINOV2Backbone(
        **VISION, intermediate_dim=16, position_embedding_shape=(16, 16, 3)
    )
    return classifier(body)


@family("keras_hub")
def swin_backbone() -> Any:
    body = hub().SwinTransformerBackbone(
        image_shape=(32, 32, 3),
        embed_dim=8,
        depths=(2, 2, 2),
        num_heads=(2, 2, 2),
        window_size=2,
        patch_size=4,
    )
    return classifier(body)


@family("keras_hub")
def mit_classifier() -> Any:
    body = hub().MiTBackbone(
        layerwise_depths=[2, 2],
        num_layers=2,
        layerwise_num_heads=[1, 2],
        layerwise_sr_ratios=[2, 1],
        max_drop_path_rate=0.1,
        layerwise_patch_sizes=[7, 3],
        layerwise_strides=[4, 2],
        image_shape=(32, 32, 3),
        hidden_dims=[8, 16],
    )
    return hub().MiTImageClassifier(backbone=body, num_classes=2)


@family("keras_hub")
def efficientnet_classifier() -> Any:
    body = hub().EfficientNetBackbone(
        stackwise_kernel_sizes=[3, 3, 3],
        stackwise_num_repeats=[2, 2, 2],
        stackwise_input_filters=[8, 8, 16],
        stackwise_output_filters=[8, 16, 16],
        stackwise_expansion_ratios=[1, 2, 2],
        stackwise_squeeze_and_excite_ratios=[0.0, 0.25, 0.25],
        stackwise_strides=[1, 2, 1],
        stackwise_block_types=["fused", "unfused", "v1"],
        stackwise_width_coefficients=[1.0] * 3,
        stackwise_depth_coefficients=[1.0] * 3,
        stackwise_force_input_filters=[0] * 3,
        stackwise_nores_option=[False] * 3,
        num_features=16,
        input_shape=(32, 32, 3),
    )
    return hub().EfficientNetImageClassifier(backbone=body, num_classes=2)


@family("keras_hub")
def mobilenet_classifier() -> Any:
    body = hub().MobileNetBackbone(
        stackwise_expansion=[[8, 16], [16, 32]],
        stackwise_num_blocks=[2, 2],
        stackwise_num_filters=[[8, 8], [16, 16]],
        stackwise_kernel_size=[[3, 3], [5, 5]],
        stackwise_num_strides=[[2, 1], [2, 1]],
        stackwise_se_ratio=[[None, None], [0.25, 0.25]],
        stackwise_activation=[["relu", "relu"], ["hard_swish", "hard_swish"]],
        stackwise_padding=[[1, 1], [2, 2]],
        output_num_filters=32,
        depthwise_filters=8,
        depthwise_stride=2,
        depthwise_residual=False,
        squeeze_and_excite=0.5,
        last_layer_filter=32,
        input_num_filters=8,
        image_shape=(32, 32, 3),
    )
    return hub().MobileNetImageClassifier(backbone=body, num_classes=2)


@family("keras_hub")
def resnet_classifier() -> Any:
    body = hub().ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[7],
        stackwise_num_filters=[64, 16, 16],
        stackwise_num_blocks=[2, 2, 2],
        stackwise_num_strides=[1, 2, 2],
        block_type="basic_block",
        image_shape=(32, 32, 3),
    )
    return hub().ResNetImageClassifier(backbone=body, num_classes=2)


@family("keras_hub")
def cspnet_classifier() -> Any:
    body = hub().CSPNetBackbone(
        stem_filters=8,
        stem_kernel_size=3,
        stem_strides=1,
        stackwise_depth=[1, 2, 2],
        stackwise_strides=[1, 2, 2],
        stackwise_num_filters=[8, 16, 16],
        block_type="dark_block",
        stage_type="dark",
        bottle_ratio=[0.5],
        image_shape=(32, 32, 3),
    )
    return hub().CSPNetImageClassifier(backbone=body, num_classes=2)


@family("keras_hub")
def densenet_classifier() -> Any:
    body = hub().DenseNetBackbone(
        stackwise_num_repeats=[2, 2, 2], growth_rate=4, image_shape=(32, 32, 3)
    )
    return hub().DenseNetImageClassifier(backbone=body, num_classes=2)


# KerasHub, several inputs.


@family("keras_hub")
def whisper_backbone() -> Any:
    options = {key: v for key, v in TEXT.items() if key != "max_sequence_length"}
    body = hub().WhisperBackbone(
        **options,
        num_mels=4,
        max_encoder_sequence_length=12,
        max_decoder_sequence_length=12,
    )
    outputs = body.output["decoder_sequence_output"]
    pooled = keras.layers.GlobalAveragePooling1D()(outputs)
    return keras.Model(body.inputs, keras.layers.Dense(2, name="new")(pooled))


@family("keras_hub")
def clip_backbone() -> Any:
    vision = hub().CLIPVisionEncoder(**VISION, intermediate_dim=16)
    text = hub().CLIPTextEncoder(
        vocabulary_size=30,
        embedding_dim=8,
        hidden_dim=8,
        num_layers=3,
        num_heads=2,
        intermediate_dim=16,
        max_sequence_length=12,
    )
    return hub().CLIPBackbone(
        vision_encoder=vision, text_encoder=text, projection_dim=4
    )


@family("keras_hub")
def sam_backbone() -> Any:
    import keras_hub

    encoder = hub().ViTDetBackbone(
        hidden_size=8,
        num_layers=3,
        intermediate_dim=16,
        num_heads=2,
        global_attention_layer_indices=[1],
        patch_size=4,
        num_output_channels=8,
        window_size=2,
        image_shape=(32, 32, 3),
    )
    prompts = keras_hub.layers.SAMPromptEncoder(
        hidden_size=8,
        image_embedding_size=(8, 8),
        input_image_size=(32, 32),
        mask_in_channels=4,
    )
    decoder = keras_hub.layers.SAMMaskDecoder(
        num_layers=2,
        hidden_size=8,
        intermediate_dim=16,
        num_heads=2,
        embedding_dim=8,
        num_multimask_outputs=3,
        iou_head_depth=3,
        iou_head_hidden_dim=8,
    )
    return hub().SAMBackbone(
        image_encoder=encoder, prompt_encoder=prompts, mask_decoder=decoder
    )


# kimm: the names of timm.


def kimm(name: str, size: int = 32) -> Any:
    import kimm as library

    build = getattr(library.models, name)
    return build(
        weights=None,
        input_shape=(size, size, 3),
        classes=2,
        classifier_activation="linear",
    )


@family("kimm")
def kimm_efficientnet_lite() -> Any:
    return kimm("EfficientNetLiteB0")


@family("kimm")
def kimm_mobilenet_v3() -> Any:
    return kimm("MobileNetV3W050Small")


@family("kimm")
def kimm_resnet() -> Any:
    return kimm("ResNet18")


@family("kimm")
def kimm_convnext() -> Any:
    return kimm("ConvNeXtAtto")


@family("kimm")
def kimm_vit() -> Any:
    return kimm("VisionTransformerTiny16")


@family("kimm")
def kimm_ghostnet() -> Any:
    return kimm("GhostNetW050")


# Hugging Face, on Keras 2.

HUGGING_FACE = {
    "vocab_size": 30,
    "hidden_size": 8,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 12,
    "num_labels": 2,
}
TOKENS = np.ones((1, 5), "int32")
IMAGES = np.ones((1, 3, 16, 16), "float32")


def hugging_face(name: str, config: str, inputs: Any, **options: Any) -> Any:
    import transformers

    model = getattr(transformers, name)(getattr(transformers, config)(**options))
    model(inputs)
    return model


@family("transformers")
def hf_bert_classifier() -> Any:
    name = "TFBertForSequenceClassification"
    return hugging_face(name, "BertConfig", TOKENS, **HUGGING_FACE)


@family("transformers")
def hf_bert_masked_lm() -> Any:
    return hugging_face("TFBertForMaskedLM", "BertConfig", TOKENS, **HUGGING_FACE)


@family("transformers")
def hf_roberta_classifier() -> Any:
    name = "TFRobertaForSequenceClassification"
    return hugging_face(name, "RobertaConfig", TOKENS, **HUGGING_FACE)


@family("transformers")
def hf_distil_bert_classifier() -> Any:
    return hugging_face(
        "TFDistilBertForSequenceClassification",
        "DistilBertConfig",
        TOKENS,
        vocab_size=30,
        dim=8,
        n_layers=3,
        n_heads=2,
        hidden_dim=16,
        max_position_embeddings=12,
        num_labels=2,
    )


@family("transformers")
def hf_gpt2_causal_lm() -> Any:
    return hugging_face(
        "TFGPT2LMHeadModel",
        "GPT2Config",
        TOKENS,
        vocab_size=30,
        n_positions=12,
        n_embd=8,
        n_layer=3,
        n_head=2,
        # Keys and values have no row for each input, which `mc_predict` refuses.
        use_cache=False,
    )


@family("transformers")
def hf_vit_classifier() -> Any:
    options = {"image_size": 16, "patch_size": 4, "hidden_dropout_prob": 0.1}
    options |= HUGGING_FACE
    del options["vocab_size"], options["max_position_embeddings"]
    return hugging_face("TFViTForImageClassification", "ViTConfig", IMAGES, **options)


@family("transformers")
def hf_t5() -> Any:
    inputs = {"input_ids": TOKENS, "decoder_input_ids": TOKENS}
    return hugging_face(
        "TFT5ForConditionalGeneration",
        "T5Config",
        inputs,
        vocab_size=30,
        d_model=8,
        d_kv=4,
        d_ff=16,
        num_layers=3,
        num_heads=2,
    )

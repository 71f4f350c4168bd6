"""Keras' Vision Transformers: vit-keras (Google's weights) and KerasHub's ViTBackbone.

Keras writes weights in two ways: under their own names (`.h5`), or numbered in a group per layer (`.weights.h5` and
`.keras`), where newer versions note what the model calls its layers (see `containers/hdf5_names.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from anyvit.dialects.openai_clip import POSITIONS
from anyvit.dialects.timm import ALL_BIASES, POS, QKV, B
from anyvit.retold import CONV, DENSE
from anyvit.rules import Dialect, R, Rule, respell, without

NORM = "<gamma|beta>"


def numbered(rules: Iterable[Rule], *layers: tuple[str, str]) -> tuple[Rule, ...]:
    """The same rules as Keras 3 numbers weights: the kernel, gamma or only one is 0, the bias or beta 1.

    Arguments:
        rules: with the weights' own names, layers apart by "/".
        layers: what a model calls a layer → what stands for it in the file.

    Example:
        >>> numbered([R("ln/<gamma|beta>", "norm.{p}")], ("ln", "layers/layer_norm"))[0].theirs
        'layers/layer_norm/vars/<0|1>'
    """
    found = []
    for rule in rules:
        layer, _, last = rule.theirs.rpartition("/")
        for old, new in layers:
            layer = layer.replace(old, new)
        number = {"bias": "1", NORM: "<0|1>"}.get(last, "0")
        found.append(replace(rule, theirs=f"{layer}/vars/{number}"))
    return tuple(found)


def _second(rules: Iterable[Rule], order: Mapping[str | None, int]) -> tuple[Rule, ...]:
    """The rules where one layer holds several weights without a layer of their own, numbered in this order."""
    return tuple(
        replace(rule, theirs=rule.theirs.rpartition("/")[0] + f"/{order[rule.ours]}") if rule.ours in order else rule
        for rule in rules
    )


def dense(theirs: str, ours: str) -> tuple[Rule, Rule]:
    """A dense layer."""
    return R(f"{theirs}/kernel", f"{ours}.weight", DENSE), R(f"{theirs}/bias", f"{ours}.bias")


V = "Transformer/encoderblock_{i}/"
VIT_KERAS = Dialect(
    "vit-keras",
    (
        R("embedding/kernel", "embed.patch.weight", CONV),
        R("embedding/bias", "embed.patch.bias"),
        R("class_token/cls", "embed.cls", "1 t d -> t d"),
        R("Transformer/posembed_input/pos_embedding", "embed.[pos_prefix|pos]", POS),
        R(V + "<LayerNorm_0|LayerNorm_2>/" + NORM, B + "<norm1|norm2>.{p}"),
        *dense(V + "MultiHeadDotProductAttention_1/<query|key|value|out>", B + "attn.<q|k|v|out>"),
        *dense(V + "<Dense_0|Dense_1>", B + "mlp.<fc1|fc2>"),
        R("Transformer/encoder_norm/" + NORM, "norm.{p}"),
        *dense("<pre_logits|head>", "<pre_logits|head>"),
    ),
    source="faustomorales/vit-keras v0.1.2: vit_keras/{vit,layers}.py, and the files that it writes",
    title="vit-keras before 0.2 (.h5)",
    lineage="vit-keras",
    container="hdf5",
    requires=("embed.pos_prefix", "embed.patch.bias", "norm.weight", *ALL_BIASES),
)
U = "Transformer_encoderblock_{i}"
MLP = f"{U}/MlpBlock_3/{U}_<Dense_0|Dense_1>"
VIT_KERAS_2 = replace(
    VIT_KERAS,
    name="vit-keras-2",
    rules=respell(
        respell(respell(VIT_KERAS, V + "<Dense_0|Dense_1>", MLP), V, f"{U}/"), "Transformer/", "Transformer_"
    ),
    source="faustomorales/vit-keras v0.2.0: vit_keras/{vit,layers}.py, and the files that it writes",
    title="vit-keras 0.2 (.h5)",
)
VIT_KERAS_WEIGHTS = replace(
    VIT_KERAS_2,
    name="vit-keras-2-weights",
    rules=numbered(
        VIT_KERAS_2.rules,
        (
            "MultiHeadDotProductAttention_1/<query|key|value|out>",
            "att/<query_dense|key_dense|value_dense|combine_heads>",
        ),
        ("<LayerNorm_0|LayerNorm_2>", "<layernorm1|layernorm2>"),
        ("MlpBlock_3/", "mlpblock/layers/"),
    ),
    title="vit-keras 0.2 (.weights.h5, .keras)",
    root="layers/",
)

STEM, ENCODER = "vit_patching_and_embedding", "vit_encoder/"
H = ENCODER + "transformer_block_{i+1}/"
MLP_RULES = dense(H + "mlp/<dense_1|dense_2>", B + "mlp.<fc1|fc2>")
MLP_ROWS = tuple(rule.theirs for rule in MLP_RULES)
BACKBONE = (
    R(STEM + "/patch_embedding/kernel", "embed.patch.weight", CONV),
    R(STEM + "/patch_embedding/bias", "embed.patch.bias"),
    R(STEM + "/class_token", "embed.cls", "1 t d -> t d"),
    R(STEM + "/position_embedding/embeddings", "embed.[pos_prefix|pos]", POSITIONS),
    R(H + "<ln_1|ln_2>/" + NORM, B + "<norm1|norm2>.{p}"),
    R(H + "mha/<query|key|value>/kernel", B + "attn.<q|k|v>.weight", "d heads e -> (heads e) d"),
    R(H + "mha/<query|key|value>/bias", B + "attn.<q|k|v>.bias", "heads e -> (heads e)"),
    R(H + "mha/attention_output/kernel", B + "attn.out.weight", "heads e d -> d (heads e)"),
    R(H + "mha/attention_output/bias", B + "attn.out.bias"),
    *MLP_RULES,
    R(ENCODER + "ln/" + NORM, "norm.{p}"),
)
KERAS_HUB = Dialect(
    "keras-hub-vit",
    (*BACKBONE, *dense("../pre_logits", "pre_logits"), *dense("../predictions", "head")),
    source="keras-team/keras-hub keras_hub/src/models/vit/{vit_backbone,vit_layers,vit_image_classifier}.py",
    title="KerasHub ViTBackbone (.h5)",
    lineage="keras-hub",
    container="hdf5",
    requires=("embed.pos_prefix", "norm.weight", "norm.bias"),
)
LAYERS = (
    (STEM, "layers/" + STEM),
    (H[:-1], "layers/" + ENCODER + "encoder_layers/vi_t_encoder_block{_i}"),
    (ENCODER + "ln", "layers/" + ENCODER + "layer_norm"),
    ("<ln_1|ln_2>", "<layer_norm_1|layer_norm_2>"),
    ("mha/<query|key|value>", "mha/<query_dense|key_dense|value_dense>"),
    ("mha/attention_output", "mha/output_dense"),
)
KERAS_HUB_WEIGHTS = replace(
    KERAS_HUB,
    name="keras-hub-vit-weights",
    rules=numbered(KERAS_HUB.rules, *LAYERS),
    title="KerasHub ViTBackbone (.weights.h5, .keras)",
    tower="layers/vi_t_backbone/",
)
KERAS_HUB_UNNAMED = replace(
    KERAS_HUB_WEIGHTS,
    name="keras-hub-vit-unnamed",
    rules=respell(numbered(BACKBONE, *LAYERS), "layers/vit_", "layers/vi_t_"),
    title="KerasHub ViTBackbone (.weights.h5 of versions that note no names; which layer is the head cannot be told)",
)

DEIT = "deit_patching_and_embedding"
D = "deit_encoder/transformer_block_{i+1}/"
KERAS_HUB_DEIT = replace(
    KERAS_HUB,
    name="keras-hub-deit",
    rules=(
        *respell(
            respell(without(BACKBONE, STEM + "/position_embedding/embeddings", *MLP_ROWS), STEM, DEIT),
            ENCODER,
            "deit_encoder/",
        ),
        R(DEIT + "/distillation_token", "embed.dist", "1 1 d -> d"),
        R(DEIT + "/position_embedding", "embed.[pos_prefix|pos]", POS),
        *dense(D + "<mlp/dense|output_layer/output>", B + "mlp.<fc1|fc2>"),
        *dense("../predictions", "head"),
    ),
    source="keras-team/keras-hub keras_hub/src/models/deit/{deit_backbone,deit_layers,deit_image_classifier}.py",
    title="KerasHub DeiTBackbone (.h5)",
)
KERAS_HUB_DEIT_WEIGHTS = replace(
    KERAS_HUB_DEIT,
    name="keras-hub-deit-weights",
    rules=_second(
        numbered(
            KERAS_HUB_DEIT.rules,
            (DEIT, "layers/" + DEIT),
            (D[:-1], "layers/deit_encoder/encoder_layers/dei_t_encoder_block{_i}"),
            ("deit_encoder/ln", "layers/deit_encoder/layer_norm"),
            ("output_layer/output", "output_layer/dense"),
            *LAYERS[3:],
        ),
        {"embed.dist": 1, "embed.[pos_prefix|pos]": 2},
    ),
    title="KerasHub DeiTBackbone (.weights.h5, .keras)",
    tower="layers/dei_t_backbone/",
)

W = "encoder/layers_{i}/"
DINOV2 = (
    R("embeddings/patch_embeddings/projection/kernel", "embed.patch.weight", CONV),
    R("embeddings/patch_embeddings/projection/bias", "embed.patch.bias"),
    R("embeddings/cls_token", "embed.cls", "1 t d -> t d"),
    R("embeddings/mask_token", "embed.mask", "1 d -> d"),
    R(
        "embeddings/interpolated_position_embeddings",
        None,
        why="the table at the model's size; computed again on loading",
    ),
    R("embeddings/position_embeddings", "embed.[pos_prefix|pos]", POS),
    R(W + "<norm1|norm2>/" + NORM, B + "<norm1|norm2>.{p}"),
    *(
        replace(rule, theirs=rule.theirs.replace(H + "mha", W + "attention/attention"))
        for rule in BACKBONE
        if "mha" in rule.theirs
    ),
    R(W + "<layer_scale1|layer_scale2>/lambda1", B + "<ls1|ls2>"),
    *dense(W + "mlp/<fc1|fc2>", B + "mlp.<fc1|fc2>"),
    R(W + "mlp/weights_in/kernel", B + "mlp.[gate|up].weight", "i (parts o) -> parts o i"),
    R(W + "mlp/weights_in/bias", B + "mlp.[gate|up].bias", QKV),
    *dense(W + "mlp/weights_out", B + "mlp.down"),
    R("layernorm/" + NORM, "norm.{p}"),
)


def _dinov2(name: str, title: str, registers: tuple[Rule, ...], order: Mapping[str | None, int]) -> Dialect:
    layers = (
        (W[:-1], "encoder/layers/layers_{i}"),
        ("attention/attention/<query|key|value>", "attention/attention/<query_dense|key_dense|value_dense>"),
        ("attention/attention/attention_output", "attention/attention/output_dense"),
    )
    rules = _second(numbered((*DINOV2, *registers), *layers), order)
    return Dialect(
        name, tuple(replace(rule, theirs="layers/" + rule.theirs) for rule in rules),
        source="keras-team/keras-hub keras_hub/src/models/dinov2/{dinov2_backbone,dinov2_layers}.py", title=title,
        lineage="keras-hub-dinov2", container="hdf5", requires=("embed.pos_prefix", "norm.weight"),
    )  # fmt: skip


POSITIONED: Mapping[str | None, int] = {"embed.cls": 0, "embed.mask": 1, None: 2, "embed.[pos_prefix|pos]": 3}
KERAS_HUB_DINOV2 = _dinov2("keras-hub-dinov2-weights", "KerasHub DINOV2Backbone (.weights.h5, .keras)", (), POSITIONED)
KERAS_HUB_REGISTERS = _dinov2(
    "keras-hub-dinov2-registers-weights",
    "KerasHub DINOV2Backbone with registers (.weights.h5, .keras)",
    (R("embeddings/register_tokens", "embed.reg", "1 r d -> r d"),),
    {**POSITIONED, "embed.reg": 2, None: 3, "embed.[pos_prefix|pos]": 4},
)

DIALECTS = (
    *(KERAS_HUB_DEIT, KERAS_HUB_DEIT_WEIGHTS, KERAS_HUB_DINOV2, KERAS_HUB_REGISTERS),
    *(VIT_KERAS, VIT_KERAS_2, VIT_KERAS_WEIGHTS),
    *(KERAS_HUB, KERAS_HUB_WEIGHTS, KERAS_HUB_UNNAMED),
)

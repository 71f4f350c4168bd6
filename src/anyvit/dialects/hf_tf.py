"""transformers' TensorFlow classes, `tf_model.h5`: torch's names on disk in scopes, with Keras' kernels and gammas.

The scope of the whole model (`tf_vi_t_model/`) stands before every name; it is a prefix like any other.

Source: huggingface/transformers v4.49.0 src/transformers/modeling_tf_pytorch_utils.py
convert_tf_weight_name_to_pt_weight_name.
"""

from __future__ import annotations

import re
from dataclasses import replace

from anyvit.dialects.hf_beit import HF_DATA2VEC
from anyvit.dialects.hf_clip import HF_CLIP
from anyvit.dialects.hf_deit import HF_DEIT
from anyvit.dialects.hf_mae import HF_MAE
from anyvit.dialects.hf_vit import HF_VIT
from anyvit.dialects.sam import HF_SAM
from anyvit.retold import retold
from anyvit.rules import Dialect, R, Rule


def spell(name: str) -> str:
    """A name of torch's as TensorFlow writes it.

    Example:
        >>> spell("encoder.layer.{i}.output.dense.kernel")
        'encoder/layer_._{i}/output/dense/kernel'
    """
    name = re.sub(r"(?<=layer)(s?)\.(?=\{i\})", r"\1_._", name) if "decoder" not in name else name
    beside, name = ("../", name[3:]) if name.startswith("../") else ("", name)
    return beside + re.sub(r"\.(?!_|\{i\})", "/", name)


def tf(dialect: Dialect, model: str, file: str, *own: Rule) -> Dialect:
    """The dialect of the same model in TensorFlow, some of whose layers write their weights in a way of their own."""
    known = {rule.ours for rule in own}
    rules = retold([rule for rule in dialect.rules if rule.ours not in known], "gamma|beta", "embeddings", spell)
    return replace(
        dialect,
        name=dialect.name + "-tf",
        rules=(*rules, *own),
        source=f"huggingface/transformers v4.49.0: models/{file}, modeling_tf_pytorch_utils.py",
        title=f"transformers {model} (TensorFlow)",
        tower=dialect.tower.replace(".", "/"),
        root=dialect.root.replace(".", "/"),
        container="hdf5",
        instead={},
        also=(),
    )


HF_VIT_TF = tf(HF_VIT, "TFViTModel", "vit/modeling_tf_vit.py")
HF_DEIT_TF = tf(HF_DEIT, "TFDeiTModel", "deit/modeling_tf_deit.py")
HF_CLIP_TF = tf(HF_CLIP, "TFCLIPModel", "clip/modeling_tf_clip.py")
HF_MAE_TF = tf(HF_MAE, "TFViTMAEModel", "vit_mae/modeling_tf_vit_mae.py")
HF_DATA2VEC_TF = tf(HF_DATA2VEC, "TFData2VecVisionModel", "data2vec/modeling_tf_data2vec_vision.py")
HF_SAM_TF = tf(
    *(HF_SAM, "TFSamVisionEncoder", "sam/modeling_tf_sam.py"),
    R("neck/<layer_norm1|layer_norm2>/{p}", "neck.<norm1|norm2>.{p}", why="TFSamLayerNorm"),
)

DIALECTS = (HF_VIT_TF, HF_DEIT_TF, HF_CLIP_TF, HF_MAE_TF, HF_DATA2VEC_TF, HF_SAM_TF)

"""Exact identities: canonical tensors → canonical tensors that compute the same function.

What a target cannot say is removed by one of these, what it wants is made by one; `fit` names them and says so in the
report. Each gives the rewritten tensors, or None where it does not apply.
"""

from anyvit.rewrite.basics import SMALL, Tensors, block_numbers, is_zero, ones, zeros
from anyvit.rewrite.biases import MLP_LAST, drop_key_bias, drop_zero_biases, zero_biases, zero_key_bias
from anyvit.rewrite.heads import (
    HEAD_NORM_EPS,
    fold_head_norm,
    head_as_projection,
    narrowed_head,
    projection_as_head,
    widened_head,
    zero_mask_token,
)
from anyvit.rewrite.on_read import on_reading, repeat_grouped
from anyvit.rewrite.positions import (
    drop_rope_periods,
    fold_patch_bias,
    prefix_rows,
    rope_periods,
    sincos_table,
    spread_relative_positions,
)
from anyvit.rewrite.scales import BRANCHES, READERS, fold_layer_scale, fold_norms, unit_layer_scale

__all__ = [
    "BRANCHES",
    "HEAD_NORM_EPS",
    "MLP_LAST",
    "READERS",
    "SMALL",
    "Tensors",
    "block_numbers",
    "drop_key_bias",
    "drop_rope_periods",
    "drop_zero_biases",
    "fold_head_norm",
    "fold_layer_scale",
    "fold_norms",
    "fold_patch_bias",
    "head_as_projection",
    "is_zero",
    "narrowed_head",
    "on_reading",
    "ones",
    "prefix_rows",
    "projection_as_head",
    "repeat_grouped",
    "rope_periods",
    "sincos_table",
    "spread_relative_positions",
    "unit_layer_scale",
    "widened_head",
    "zero_biases",
    "zero_key_bias",
    "zero_mask_token",
    "zeros",
]

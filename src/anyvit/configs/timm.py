"""timm's hub config.json, written so that `timm.create_model("local-dir:OUT", pretrained=True)` opens the folder."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from anyvit.configs import preprocess
from anyvit.configs.rows import Given, brief, read_rows, settle, to_int, to_size, write_rows
from anyvit.configs.timm_args import CALLABLES, norm_word, registered, table
from anyvit.configs.timm_eva_args import ROPE_KEYS
from anyvit.configs.timm_forms import FFN_ROW, FORMS, READERS, Form
from anyvit.spec import Fact, Spec, pair


def read(config: Any, source: str = "config.json") -> Given:
    """What timm's hub config.json says: of the registered architecture, overridden by model_args.

    Example:
        >>> given = read({"architecture": "vit_small_patch16_224", "model_args": {"img_size": 64}})
        >>> given.facts["num_heads"].value, given.facts["image_size"].value, given.facts["image_size"].source
        (6, 64, 'config.json: img_size')
    """
    if not isinstance(config, Mapping) or not isinstance(config.get("architecture"), str):
        return Given(notes=(f"{source} names no architecture",))
    name, found = config["architecture"], registered(config["architecture"])
    inner = config.get("pretrained_cfg")
    pretrained = inner if isinstance(inner, Mapping) else config
    notes: tuple[str, ...] = ()
    given = read_rows(preprocess.TIMM, pretrained, source)
    if found is None:
        return Given(given.facts, (*given.notes, f"{source}: timm's {brief(name)} is no Vision Transformer known here"))
    args = config.get("model_args")
    if args is not None and not isinstance(args, Mapping):
        notes, args = (f"{source}: model_args is no table of keys",), {}
    said = _pretrained_args(config, pretrained)
    said.update(args or {})
    built = of_name(name, said, source)
    recipe = {"resample": Fact("timm", "given", f"{source}: timm's {name}")}
    return Given({**given.facts, **built.facts, **recipe}, (*given.notes, *notes, *built.notes))


def of_name(name: str, args: Mapping[str, Any], source: str) -> Given:
    """The facts of a registered name with some arguments of its own."""
    found = registered(name)
    if found is None:
        return Given()
    cls, defaults = found
    rows = (*READERS[cls], *([FFN_ROW] if "mlp_layer" in defaults else []))
    usual = {key: value for key, value in defaults.items() if key not in args}
    whole = {**usual, **args}
    given = read_rows(rows, args, source, usual, f"timm's {name}")
    facts = dict(given.facts)
    # None is a word here: the class's default norm, no LayerScale.
    for field, key in (
        ("norm", "norm_layer"),
        ("eps", "norm_layer"),
        ("act", "act_layer"),
        ("layer_scale", "init_values"),
    ):
        if field not in facts and key in whole and whole[key] is None:
            value = {"norm": "layernorm", "eps": norm_word(None)[1], "act": "gelu", "layer_scale": False}[field]
            facts[field] = Fact(value, "given", f"default of timm's {name}")
    final = next((row for row in rows if row.field == "final_norm"), None)
    if final is not None and "final_norm" not in facts:
        facts["final_norm"] = Fact(final.values.read(None, whole), "given", f"default of timm's {name}")
    if "num_classes" in args:
        facts["num_classes"] = Fact(args["num_classes"], "given", f"{source}: num_classes")
    return Given(facts, given.notes)


def _pretrained_args(config: Mapping[str, Any], pretrained: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments that timm takes from the config's other keys.

    Source: huggingface/pytorch-image-models v1.0.31 timm/models/_builder.py _update_default_model_kwargs.
    """
    args: dict[str, Any] = {}
    try:
        size = pretrained.get("input_size")
        if isinstance(size, list | tuple) and len(size) == 3:
            args["in_chans"] = to_int(size[0])
            if pretrained.get("fixed_input_size") is True:
                args["img_size"] = to_size(list(size[1:]))
        classes = config.get("num_classes", pretrained.get("num_classes"))
        if classes is not None:
            args["num_classes"] = to_int(classes)
    except ValueError:
        pass
    if isinstance(pretrained.get("global_pool"), str):
        args["global_pool"] = pretrained["global_pool"]
    return args


def form_of(spec: Spec, dialect: str) -> Form | None:
    """How a dialect's models are built, None where it is none of timm's."""
    if dialect == "timm" and spec.dist_token:
        return FORMS["timm-distilled"]
    if dialect == "timm" and spec.diff_attn:
        return FORMS["timm-diff"]
    if dialect == "timm-relpos" and spec.block_norm == "post":
        return FORMS["timm-relpos-rpn"]
    return FORMS.get(dialect)


def write(spec: Spec, dialect: str, names: Collection[str] = ()) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """timm's hub config.json for a Spec, and what it cannot say.

    Arguments:
        spec: the architecture.
        dialect: a dialect of timm's.
        names: canonical names of the tensors that are written.
    """
    spec = settle(spec, names)
    form = form_of(spec, dialect)
    assert form is not None, dialect
    wanted, unsaid = arguments(spec, form, names)
    name, args, missing = nearest(form, wanted)
    unsaid.update(missing)
    height, width = pair(spec.image_size) if spec.image_size else (224, 224)
    classes = spec.num_classes if "head.weight" in names or not names else 0
    distilled = form.cls == "VisionTransformerDistilled"
    pretrained = {
        "custom_load": False, "input_size": [spec.in_chans, height, width], "fixed_input_size": True,
        "interpolation": spec.interpolation, "crop_pct": spec.crop_pct, "crop_mode": "center", "mean": list(spec.mean),
        "std": list(spec.std), "num_classes": classes, "pool_size": None, "first_conv": "patch_embed.proj",
        "classifier": ["head", "head_dist"] if distilled else "head",
    }  # fmt: skip
    config = {"architecture": name, "num_classes": classes, "num_features": spec.embed_dim, "model_args": args,
              "pretrained_cfg": pretrained}  # fmt: skip
    return {"config.json": config}, unsaid


def arguments(spec: Spec, form: Form, names: Collection[str] = ()) -> tuple[dict[str, Any], dict[str, str]]:
    """Constructor arguments for a Spec, and what the class cannot be told."""
    unsaid: dict[str, str] = {}
    pool = _pool(spec, form, names, unsaid)
    wanted, refused = write_rows(form.rows, replace(spec, pool=pool))
    wanted.update(form.fixed)
    unsaid.update(refused)
    if "embed_norm_layer" in wanted and spec.patch_norm:
        wanted["embed_norm_layer"] = f"{spec.norm}@{spec.eps:g}"
    said = {row.field for row in form.rows} - ({"qkv_bias"} if form.cls in ("Eva", "Beit") else set())
    for field, allowed in form.always.items():
        value = getattr(spec, field)
        if (field not in said) and value not in allowed:
            words = " or ".join(brief(choice) for choice in allowed)
            unsaid[field] = f"timm's {form.cls} always has {words} in this form, not {brief(value)}"
    if form.cls in ("VisionTransformer", "Eva") and spec.patch_bias == spec.pre_norm:
        unsaid["patch_bias"] = f"timm's {form.cls} has a patch bias exactly where it has no norm before the blocks"
    if form.cls == "VisionTransformerSAM":
        unsaid.pop("final_norm", None)
    if spec.num_heads and spec.heads_dim * spec.num_heads != spec.embed_dim:
        unsaid["head_dim"] = "heads divide the width evenly there"
    return wanted, unsaid


def _pool(spec: Spec, form: Form, names: Collection[str], unsaid: dict[str, str]) -> str:
    """The pool that is asked for, or one that the class has where no head depends on it."""
    pool = "cls" if spec.pool == "cls+dist" and form.cls == "VisionTransformerDistilled" else spec.pool
    if form.cls != "Eva" and pool == "map" and (spec.pool_heads or spec.num_heads) != spec.num_heads:
        unsaid["pool_heads"] = "the attention pool has as many heads as the trunk there"
    if form.cls != "Eva" and pool == "map" and (spec.pool_mlp_dim or spec.mlp_dim) != spec.mlp_dim:
        unsaid["pool_mlp_dim"] = "the attention pool's MLP is as wide as the trunk's there"
    usable = pool in ("avg", "map", "none") or (pool == "cls" and spec.num_cls > 0)
    if usable:
        return pool
    if "head.weight" in names or (not names and spec.num_classes):
        unsaid["pool"] = f"timm has no pool {pool}"
    return "cls" if spec.num_cls else "avg"


def nearest(
    form: Form, wanted: Mapping[str, Any], only: str | None = None
) -> tuple[str, dict[str, Any], dict[str, str]]:
    """The registered name that needs the fewest other arguments, these, and what its callables have otherwise.

    Arguments:
        form: the class.
        wanted: all arguments, callables as words.
        only: a registered name of this class, where no other will do.
    """
    best: tuple[Any, str, dict[str, Any], dict[str, str]] | None = None
    for name, (cls, _) in table()["models"].items():
        if cls != form.cls or (name != only if only else "radio" in name or "flexi" in name):
            continue
        # timm loads a siglip name without its attention pool non-strictly.
        if not only and "siglip" in name and wanted.get("global_pool") != "map":
            continue
        found = registered(name)
        assert found is not None
        has = found[1]
        wrong = _wrong(form, wanted, has)
        usual = {
            **has,
            **{key: _unless_said(key, {**has, **wanted}) for key in NORM_SWITCHES if has.get(key, 0) is None},
        }
        other = _other(wanted, usual, table()["classes"][form.cls])
        if not {"norm", "eps"} & wrong.keys() and _norm(has["norm_layer"]) != _norm(wanted["norm_layer"]):
            other["norm_layer"] = norm_word(wanted["norm_layer"])[0]
        cost = (len(wrong.keys() - {"norm", "eps"}), "norm" in wrong, "eps" in wrong, len(other), len(name))
        if best is None or cost < best[0]:
            best = (cost, name, other, wrong)
    assert best is not None, form
    return best[1], _readable(best[2]), best[3]


HARMLESS = (
    "num_classes", "img_size", "use_rope", "use_abs_pos", "use_rel_pos", "rel_pos_type", "rel_pos_dim",
    "shared_rel_pos", "head_hidden_size", "attn_type", "attn_pool_num_heads", "attn_pool_mlp_ratio", *ROPE_KEYS,
)  # fmt: skip
"""Arguments that are given elsewhere, that the class's names settle, or that do nothing where nobody asks for them."""
CLASS_FIELDS = {"mlp_layer": "ffn", "block_fn": "block_norm", "attn_layer": "qk_norm", "embed_norm_layer": "patch_norm"}
NORM_SWITCHES = ("fc_norm", "use_fc_norm", "use_post_transformer_norm")


def _unless_said(key: str, args: Mapping[str, Any]) -> bool:
    """What a norm's switch means where it is None. Source: VisionTransformer.__init__, Eva.__init__."""
    after = args["global_pool"] in ("avg", "avgmax", "max")
    return not args.get("use_fc_norm", after) if key == "use_post_transformer_norm" else after


def _wrong(form: Form, wanted: Mapping[str, Any], has: Mapping[str, Any]) -> dict[str, str]:
    """Spec fields that a registered name's callables have otherwise."""
    wrong: dict[str, str] = {}
    (kind, eps), (got, got_eps) = _norm(wanted["norm_layer"]), _norm(has["norm_layer"])
    by_word = form.cls in ("VisionTransformer", "VisionTransformerDistilled", "VisionTransformerRelPos") and eps == 1e-6
    if not by_word:
        if kind != got:
            wrong["norm"] = f"timm has no registered {form.cls} of this form with {kind}"
        if eps != got_eps:
            cause = f"no registered {form.cls} of this form has eps {eps:g}, and a config cannot give it"
            wrong["eps"] = f"{cause}; it would be {got_eps:g}"
    for key, field in CLASS_FIELDS.items():
        if key in wanted and _word(wanted[key]) != _word(has[key]):
            wrong[field] = f"no registered {form.cls} has {key} {wanted[key]} in this form"
    return wrong


def _norm(word: Any) -> tuple[str, float]:
    """Kind and eps of any registered norm; timm has more kinds than a Vision Transformer is read with."""
    try:
        return norm_word(word)
    except ValueError:
        return str(word), 0.0


def _word(value: Any) -> Any:
    return value.partition("@")[0] if isinstance(value, str) else value


def _other(wanted: Mapping[str, Any], usual: Mapping[str, Any], plain: Mapping[str, Any]) -> dict[str, Any]:
    """The wanted arguments that a registered name does not have anyway."""
    other = {key: value for key, value in wanted.items() if key not in CALLABLES and not _equal(key, value, usual[key])}
    # What nobody asked for is as the class has it.
    other.update(
        {key: plain[key] for key in plain.keys() - wanted.keys() - {*CALLABLES, *HARMLESS} if usual[key] != plain[key]}
    )
    if "mlp_ratio" in other and int(wanted["embed_dim"] * usual["mlp_ratio"]) == int(
        wanted["embed_dim"] * other["mlp_ratio"]
    ):
        del other["mlp_ratio"]
    return other


def _equal(key: str, wanted: Any, has: Any) -> bool:
    if key == "init_values":
        return (wanted is None) == (has is None)
    if key == "act_layer":
        return wanted == (has or "gelu")
    if key in ("img_size", "patch_size", "ref_feat_shape") and wanted is not None and has is not None:
        return pair(wanted) == pair(has)
    return wanted == has and isinstance(wanted, bool) == isinstance(has, bool)


ORDER = ("img_size", "patch_size", "in_chans", "embed_dim", "depth", "num_heads", "mlp_ratio")


def _readable(args: Mapping[str, Any]) -> dict[str, Any]:
    """Sizes first, and whole ratios as such."""
    keys = [*(key for key in ORDER if key in args), *(key for key in args if key not in ORDER)]
    return {key: args[key] for key in keys}

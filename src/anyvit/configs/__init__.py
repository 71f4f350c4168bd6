"""Configs as tables: what lies beside weights or inside a file, read into facts and written from a Spec.

`read` gathers what a checkpoint's siblings, metadata and extras say; `write` makes the files that a peer opens. The
peer's vocabulary stands in tables that are read both ways (`hf_types`, `timm_args`, `open_clip`), so that what is
written is read back as it was.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from anyvit.configs import args, hf, keras, open_clip, open_clip_trunk, preprocess, stamp, timm
from anyvit.configs.args import reconcile
from anyvit.configs.constructors import constructors
from anyvit.configs.hf import head_pool
from anyvit.configs.rows import Given
from anyvit.configs.stamp import provenance
from anyvit.lazy import Checkpoint
from anyvit.spec import Fact, Spec

__all__ = ["Given", "Written", "constructors", "head_pool", "model_types", "provenance", "read", "reconcile", "write"]


@dataclass(frozen=True)
class Written:
    """Files that belong beside weights.

    Arguments:
        files: file name → content, for JSON.
        unsaid: Spec field → why the target cannot say its value; with an entry the opened model may compute otherwise.
        notes: why a file that the target has elsewhere was not made.
    """

    files: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    unsaid: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def read(checkpoint: Checkpoint, dialect: str = "") -> Given:
    """The facts that a checkpoint's configs, metadata and training arguments state.

    The later of these has the last word: what an ONNX graph computes, training arguments in the pickle, config.json,
    open_clip_config.json, preprocessor_config.json, the Spec in the metadata of a file that anyvit wrote.
    Contradictions are noted.

    Arguments:
        checkpoint: an opened file or folder.
        dialect: the recognised dialect; where a folder holds configs of two ecosystems, its own has the last word.
    """
    siblings = checkpoint.siblings
    found = [_graph(checkpoint), args.believable(args.read(checkpoint.extras), checkpoint.tensors)]
    configs = [_config(siblings[name], name) for name in ("config.json",) if name in siblings]
    if "model_config" in checkpoint.extras and keras.is_keras(checkpoint.extras["model_config"]):
        configs.append(keras.read(checkpoint.extras["model_config"], "model_config"))
    if "open_clip_config.json" in siblings:
        configs.append(open_clip.read(siblings["open_clip_config.json"]))
    if dialect.startswith(("timm", "hf-")):
        configs.reverse()
    found += configs
    if "preprocessor_config.json" in siblings:
        found.append(preprocess.read_hf(siblings["preprocessor_config.json"]))
    if stamp.KEY in checkpoint.metadata:
        found.append(stamp.read(checkpoint.metadata[stamp.KEY]))
    given = Given()
    for one in found:
        given = given.under(one)
    return given


def model_types(checkpoint: Checkpoint) -> tuple[str, ...]:
    """The model_types that a checkpoint's config.json names."""
    return hf.model_types(checkpoint.siblings.get("config.json"))


def _graph(checkpoint: Checkpoint) -> Given:
    """What the nodes of an ONNX model compute, which no tensor says."""
    if checkpoint.container != "onnx":
        return Given()
    said: Mapping[str, tuple[Any, str]] = checkpoint.extras["graph"]
    known = ("num_heads", "eps", "act")
    return Given({name: Fact(value, "measured", why) for name, (value, why) in said.items() if name in known})


def _config(config: Any, source: str) -> Given:
    """A config.json, which timm, Hugging Face and open_clip all write under this name."""
    if keras.is_keras(config):
        return keras.read(config, source)
    if isinstance(config, Mapping) and isinstance(config.get("architecture"), str):
        return timm.read(config, source)
    if isinstance(config, Mapping) and ("model_cfg" in config or "vision_cfg" in config):
        return open_clip.read(config, source)
    given = hf.read(config, source)
    inner = config.get("args") if isinstance(config, Mapping) else None
    # RADIO's Hugging Face repositories repeat the training arguments.
    return args.read({"args": inner}).under(given) if isinstance(inner, Mapping) and "cpe_max_size" in inner else given


def write(spec: Spec, dialect: str, names: Collection[str] = ()) -> Written:
    """The config files that a dialect's own loader wants beside the weights.

    Hugging Face dialects and InternViT get config.json and preprocessor_config.json (for `from_pretrained(folder)`),
    timm's a hub config.json (for `timm.create_model("local-dir:OUT", pretrained=True)`), open_clip an
    open_clip_config.json of the image tower, timm's towers where a registered name is just this model; the others nothing.

    Arguments:
        spec: the architecture that is written.
        dialect: the target's dialect.
        names: canonical names of the tensors that are written; they tell which head, pooler or projection there is.

    Example:
        >>> write(Spec(image_size=224), "hf-vit", ["head.weight"]).files["config.json"]["architectures"]
        ['ViTForImageClassification']
    """
    if hf.model_type(dialect):
        return Written(*hf.write(spec, dialect, names))
    if timm.form_of(spec, dialect):
        return Written(*timm.write(spec, dialect, names))
    if dialect in open_clip.DIALECTS:
        files, unsaid = open_clip.write(spec, names)
        return Written(files if dialect == "open_clip" else {}, unsaid)
    if dialect in open_clip_trunk.TRUNKS:
        files, notes = open_clip.write_trunk(spec, dialect, names)
        return Written(files, notes=notes)
    return Written()

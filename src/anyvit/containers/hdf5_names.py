"""What Keras calls the weights in an HDF5 file, from the paths at which they lie.

Three layouts: the legacy one (`layer_names` at a group: below it, `<layer>/<name of the weight>`), Keras 3's (numbered
`vars` in a group per layer), and files of anybody else, whose paths are their names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

INDEX = ":0"
"""TensorFlow puts the number of an operation's output behind the name of a variable; it is always 0."""
LISTED = ("", "model_weights")
"""Groups that may list layers: the root, and the one that holds the weights where a whole model was saved."""


def spelt(paths: Collection[str], layers: Mapping[str, Sequence[str]], titles: Mapping[str, str]) -> dict[str, str]:
    """Path → name, each name once.

    Arguments:
        paths: where the arrays lie.
        layers: group → the names of the layers below it (legacy layout).
        titles: path of a layer → what its model calls it (Keras 3, where noted).

    Example:
        >>> spelt(["vit/tf_vi_t_model/vit/layernorm/gamma:0"], {"": ["vit"]}, {})
        {'vit/tf_vi_t_model/vit/layernorm/gamma:0': 'tf_vi_t_model/vit/layernorm/gamma'}
        >>> spelt(["layers/dense/vars/0"], {}, {"layers/dense": "head"})
        {'layers/dense/vars/0': 'layers/head/vars/0'}
    """
    plain = {path: _titled(path.removesuffix(INDEX), titles) for path in paths}
    layer = {path: _layer(name, layers) for path, name in plain.items()}
    short = {path: name[len(layer[path]) :] for path, name in plain.items()}
    # where two layers have a weight of one name, both keep their layers' names
    shared = {name for name, count in Counter(short.values()).items() if count > 1}
    full = {layer[path] for path, name in short.items() if name in shared}
    names = {path: plain[path] if layer[path] in full else name for path, name in short.items()}
    return names if len(set(names.values())) == len(names) else {path: path for path in paths}


def _layer(path: str, layers: Mapping[str, Sequence[str]]) -> str:
    """What stands before the name of the weight itself: the groups of its layer; "" where there are none.

    The name of a layer may hold "/" itself, as vit-keras' do before 0.2.
    """
    for group in LISTED:
        head = f"{group}/" if group else ""
        if group in layers and path.startswith(head):
            inner = path[len(head) :]
            return head + max(
                (f"{name}/" for name in layers[group] if inner.startswith(f"{name}/")), key=len, default=""
            )
    return ""


def _titled(path: str, titles: Mapping[str, str]) -> str:
    """The path with the layers of a model called as the model calls them and not by their class and number.

    Only members of a `layers` list are: attributes of a layer (`mha`, `dense_1`) have names of their own in any case.
    """
    if not titles:
        return path
    parts = path.split("/")
    return "/".join(
        titles.get("/".join(parts[: i + 1]), part) if i and parts[i - 1] == "layers" else part
        for i, part in enumerate(parts)
    )

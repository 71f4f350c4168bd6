"""Takes every kind of tensor out of every released checkpoint: from all blocks, from one, from the last. Which are missed?

    python scripts/lost_kinds.py --part 0 --parts 2

Prints how many files were made, and those that are read without a word about what they lost, by kind. Names and shapes
alone are read (ANYVIT_SHARED, the manifests); tests/test_companions.py does the same with a sample, and has the reasons.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))


def losses(tensors: dict[str, tuple[str, ...]], depth: int) -> Iterator[tuple[str, str, frozenset[str]]]:
    """How many blocks lose a kind, the kind, and the names of the file that go; each set of names once.

    Arguments:
        tensors: canonical name → the names in the file that it is made of.
        depth: blocks.
    """
    groups: dict[tuple[str, str], set[str]] = defaultdict(set)
    for name, origin in tensors.items():
        kind = re.sub(r"^blocks\.\d+\.", "", name)
        if kind.startswith(("head", "proj.")):
            continue
        groups["all", kind].update(origin)
        for word, number in (("one", 1), ("last", depth - 1)):
            if name.startswith(f"blocks.{number}."):
                groups[word, kind].update(origin)
    seen = set()
    for (word, kind), names in groups.items():
        if (key := frozenset(names)) not in seen:
            seen.add(key)
            yield word, kind, key


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", type=int, default=0)
    parser.add_argument("--parts", type=int, default=1)
    args = parser.parse_args()
    from support.truth import checkpoint_of, manifest, manifests

    from anyvit.reading import understand

    made: Counter[str] = Counter()
    silent: dict[tuple[str, str], list[str]] = defaultdict(list)
    for path in manifests()[args.part :: args.parts]:
        content = manifest(path)
        if content["kind"] != "positive" or not content.get("arch"):
            continue
        checkpoint = checkpoint_of(content)
        whole = understand(checkpoint)
        if whole.spec is None or not whole.report().ok:
            continue
        origins = {name: tensor.origin for name, tensor in whole.tensors.items()}
        for word, kind, names in losses(origins, whole.spec.depth):
            rest = {name: tensor for name, tensor in checkpoint.tensors.items() if name not in names}
            report = understand(replace(checkpoint, tensors=rest)).report()
            made[word] += 1
            if report.ok and not report.of("missing"):
                silent[word, kind].append(path.name.removesuffix(".json.gz"))
    print(dict(made), "files;", sum(map(len, silent.values())), "read without a word about what they lost")
    for (word, kind), names in sorted(silent.items(), key=lambda found: -len(found[1])):
        print(f"{len(names):4} {word} {kind}: {', '.join(names[:3])}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

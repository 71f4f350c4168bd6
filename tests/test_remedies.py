"""What remedies name exists: functions, arguments, commands, options; and those of real refusals run as typed."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="remedies build models")

import torch
from support import modules
from support import peers as tiny
from support.remedies import HOLE, faults, remedies

import anyvit
from anyvit import cli, cli_options
from anyvit.errors import AnyvitError


@pytest.mark.usefixtures("peers")
def test_what_remedies_name_exists() -> None:
    assert len(remedies()) > 100
    wrong = {f"{where}: {text}": found for where, text in remedies() if (found := faults(text))}
    assert not wrong


@pytest.mark.parametrize(
    ("remedy", "fault"),
    [
        ("anyvit.lode(path)", "anyvit.lode does not exist"), ("anyvit.load(path, head=3)", "anyvit.load takes no head="),
        ("haeds=3 insists", "no call takes haeds="), ("anyvit inspekt FILE", "anyvit has no command inspekt"),
        ("anyvit load FILE --head 3", "no command has the option --head"), ("vit.preproces(x)", "vit.preproces does not exist"),
        ('pip install "anyvit[cuda]"', "there is no extra cuda"), ("timm.create_modle(…)", "timm.create_modle does not exist"),
        ("anyvit.AdaLN(dim=16, kind=3)", "anyvit.AdaLN takes no kind="),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("peers")
def test_a_wrong_remedy_would_be_found(remedy: str, fault: str) -> None:
    assert fault in faults(remedy)
    assert faults(f'anyvit.load(path, heads={HOLE}) or --heads 3, weights="student", anyvit inspect FILE') == []


def vit(**options: Any) -> Any:
    return tiny.shaken(modules.Dino(**options), 3, std=0.3)


def plain(**options: Any) -> dict[str, torch.Tensor]:
    return {n: t for n, t in vit(scaled=False, **options).state_dict().items() if n != "mask_token"}


TWO = {
    f"{at}.{name}": tensor for at, seed in (("left", 1), ("right", 2)) for name, tensor in vit().state_dict().items()
}
FORK = {re.sub("^blocks", "layers", name): tensor for name, tensor in plain().items()}
REFUSED: dict[str, tuple[dict[str, torch.Tensor], dict[str, Any]]] = {
    "two towers": (TWO, {}),
    "no such weight set": ({f"teacher.{n}": t for n, t in plain().items()}, {"weights": "ema"}),
    "a grid that is no square": ({**plain(), "pos_embed": torch.randn(1, 16 + 7, 12)}, {}),
    "heads that do not divide": (plain(), {"heads": 5}),
    "another dialect": (plain(), {"dialect": "hf-vit"}),
    "a fork": (FORK, {}),
    "a size that is no multiple": (plain(), {"image_size": 15}),
    "no such recipe": (plain(), {"image_size": 16, "resample": "bilinear"}),
    "no positions": ({n: t for n, t in plain().items() if n != "pos_embed"}, {}),
}
"""What is wrong → a file and the arguments with which it is refused."""


@pytest.mark.parametrize("name", REFUSED)
def test_the_argument_that_a_refusal_names_makes_the_load_go(name: str, tmp_path: Path) -> None:
    state, given = REFUSED[name]
    path = tmp_path / "a file.pth"
    torch.save(state, path)
    with pytest.raises(AnyvitError) as caught:
        anyvit.load(path, **given)
    remedy = caught.value.remedy or ""
    (word, value), *_ = re.findall(r"(\w+)=(\"[^\"]*\"|'[^']*'|\([^()]*\)|\{[^{}]*\}|\d+)", remedy)
    assert anyvit.load(path, **{**given, word: eval(value)}), remedy
    option = re.search(r"--[a-z-]+ \S+", cli_options.typed(remedy))
    assert option is not None
    kept = [f"--{n.replace('_', '-')}={v}" for n, v in given.items() if n != word]
    assert cli.main(["load", str(path), *kept, *shlex.split(option[0])]) == 0


def test_the_arguments_of_assumptions_are_taken() -> None:
    report = anyvit.inspect({**plain(), "pos_embed": torch.randn(1, 9, 12)})
    values = {"eps": "1e-5", "act": '"quick_gelu"'}
    said = {f.names[0]: f.remedy for f in report.of("assumed") if f.remedy and f.remedy.startswith("facts=")}
    assert set(said) == set(values)
    for name, remedy in said.items():
        given = eval(f"dict({str(remedy).replace('…', values[name])})")
        fact = anyvit.load(plain(), **given).spec.facts[name]
        assert (fact.how, fact.value) == ("given", eval(values[name]))

"""A report as text: once each, within its width, the same with and without colours."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

import anyvit
from anyvit.demo import CHECKPOINT
from anyvit.report import Finding, Report
from anyvit.show import Style, hang, plain, sentence, table, text

PAINT = re.compile(r"\033\[\d+m")


@pytest.fixture(scope="module")
def report() -> Report:
    return anyvit.inspect(CHECKPOINT)


def test_an_ordinary_file_takes_one_page(report: Report) -> None:
    lines = str(report).splitlines()
    assert len(lines) <= 48
    assert max(map(len, lines)) <= 100
    assert lines[0] == f"✓ {CHECKPOINT}"


def test_says_what_it_is_from_whom_and_what_else_is_there(report: Report) -> None:
    shown = str(report)
    assert sentence(report.spec) in shown
    assert report.match.dialect.title in shown
    assert "dinov2-chunked" in shown and '"teacher.backbone."' in shown and "student.module.backbone." in shown
    assert "81 outside" in shown and "65 carried" in shown


def test_every_fact_stands_with_how_it_is_known(report: Report) -> None:
    rows = [line.split() for line in str(report).splitlines()]
    told = {row[0]: row[2] for row in rows if len(row) > 2 and row[2] in ("measured", "given", "assumed")}
    for name in ("embed_dim", "depth", "patch_size", "num_heads", "eps", "act"):
        assert told[name] == report.spec.facts[name].how


def test_a_source_that_many_facts_share_is_printed_once(report: Report) -> None:
    source = report.spec.facts["eps"].source.partition(": ")[2]
    assert sum(fact.source.endswith(source) for fact in report.spec.facts.values()) > 2
    shown = " ".join(str(report).split())
    assert shown.count(" ".join(source.split())) == 1
    assert len(re.findall(r"lineage dinov2 \[\d\]", shown)) >= 2


def test_assumptions_share_one_line(report: Report) -> None:
    assert len([f for f in report.findings if f.kind == "assumed"]) == 3
    lines = [line for line in str(report).splitlines() if line.strip().startswith("· assumed")]
    assert len(lines) == 1
    assert "num_heads 2" in lines[0] and "eps 1e-06" in lines[0] and "act gelu" in lines[0]


def test_an_assumption_that_is_no_shown_fact_keeps_its_own_line(report: Report) -> None:
    shown = str(report.adding([Finding("assumed", ("pos_embed.weight",), "read as 14 × 14", "grid=(13, 15)")]))
    assert "assumed: read as 14 × 14 [pos_embed.weight]" in shown and "→ grid=(13, 15)" in shown


def test_colours_change_nothing_but_colours(report: Report) -> None:
    painted = text(report, Style(100, colour=True))
    assert PAINT.search(painted)
    assert PAINT.sub("", painted) == text(report, Style(100))
    assert "\033" not in str(report)


@pytest.mark.parametrize("width", [60, 80, 110])
def test_wraps_at_the_width(report: Report, width: int) -> None:
    for line in text(report, Style(width)).splitlines():
        assert len(line) <= width or len(max(line.split(), key=len)) > width - 50, line


def test_a_file_that_cannot_be_loaded_says_what_and_what_to_do() -> None:
    fatal = Finding("missing", ("blocks.3.norm1.weight",), "a block lacks its norm", "download it again", fatal=True)
    shown = str(Report(findings=(fatal,), container="torch", path="x.pth", tensors=(3, 1000)))
    assert shown.startswith("✗ x.pth")
    assert "no Vision Transformer that can be loaded" in shown
    assert "✗ missing: a block lacks its norm [blocks.3.norm1.weight]" in shown
    assert "→ download it again" in shown


def test_constructor_lines_name_the_file_and_only_where_it_can_be_loaded(report: Report) -> None:
    assert f'anyvit.load("{CHECKPOINT}")' in "".join(line.strip() for line in str(report).splitlines())
    broken = report.adding([Finding("missing", ("norm.weight",), "no norm", fatal=True)])
    assert "anyvit.load(" not in str(broken)


def test_constructor_lines_are_few_but_all_named(report: Report) -> None:
    many = {name: f"{name}.build()" for name in ("anyvit", "timm", "a", "b", "c", "d", "dinov2")}
    shown = str(replace(report, constructors=many))
    assert "timm.build()" in shown and "dinov2.build()" in shown
    assert "also c, d" in shown and "c.build()" not in shown


def test_what_is_incomplete_is_counted(report: Report) -> None:
    shown = str(replace(report, coverage={"mlp": (1000, 2000), "norm": (10, 10)}))
    assert "mlp 1.0 k of 2.0 k" in shown


def test_mean_and_std_of_two_sources_keep_two_rows(report: Report) -> None:
    spec = report.spec.with_facts("given", "preprocessor_config.json", mean=(0.1, 0.2, 0.3))
    shown = str(replace(report, spec=spec))
    assert re.search(r"mean +0\.1, 0\.2, 0\.3 +given", shown) and re.search(r"std +0\.229, 0\.224, 0\.225", shown)


def test_hang_keeps_a_unit_with_its_number() -> None:
    assert hang("aaaa 1\u00a0k", "  ", Style(40)) == ["  aaaa 1 k"]
    assert hang("a" * 35 + " 1\u00a0kB", "  ", Style(40)) == ["  " + "a" * 35, "  1 kB"]


def test_table_and_plain() -> None:
    assert table([]) == []
    assert table([("a", "10"), ("bb", "1")], right=[1]) == ["a   10", "bb   1"]
    assert plain(None) == "none" and plain(False) == "no" and plain((1, 0.5)) == "1, 0.5"


def test_the_other_reading_of_a_position_table_keeps_its_own_line() -> None:
    import numpy as np
    from support.toys import toy

    report = anyvit.inspect(
        {**toy(0), "pos_embed": np.random.default_rng(0).normal(size=(1, 16, 128)).astype("float32")}
    )
    (lines,) = [line for line in str(report).split("\n  · ") if line.startswith("assumed: the position table")]
    assert "3 × 5 with a row for cls" in " ".join(lines.split()) and "→ grid=(3, 5)" in lines
    assert 'heads=…, facts={"eps": …, "act": …} where it is otherwise' in " ".join(str(report).split())


def test_many_classes_of_a_pickle_are_one_line(report: Report) -> None:
    few = replace(report, findings=tuple(Finding("inert", (), f"a.C{n}, not executed") for n in range(2)))
    many = replace(report, findings=tuple(Finding("inert", (), f"a.C{n}, not executed") for n in range(5)))
    assert str(few).count("not executed") == 2
    assert str(many).count("not executed") == 1 and "a.C0, a.C1" in str(many)
    attack = Finding("inert", (), "posix.system, not executed: it runs", "trust nothing")
    assert "→ trust nothing" in str(many.adding([attack]))


def test_what_was_filled_is_told_instead_of_what_could_be_built(report: Report) -> None:
    filled = replace(report, target="the module Net")
    assert f"into    the module Net, {len(report.trails)} tensors: {len(report.trails)} carried" in str(filled)
    assert "To build a model" in str(report) and "To build a model" not in str(filled)


def test_a_notebook_shows_the_text(report: Report) -> None:
    shown = replace(report, path="<b>.pth")._repr_html_()
    assert shown.startswith("<pre>") and "&lt;b&gt;.pth" in shown

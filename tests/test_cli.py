"""The command line: exit codes, JSON, plain text when piped, and what a command imports."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import anyvit
from anyvit import cli, cli_options
from anyvit.demo import CHECKPOINT
from anyvit.errors import FileError
from anyvit.report import Report
from anyvit.show import Style, text

FILE = str(CHECKPOINT)


def call(*words: object) -> int:
    """The exit code of a command."""
    try:
        return cli.main([str(word) for word in words])
    except SystemExit as leave:
        return int(leave.code or 0)


def ask(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, dict[str, Any]]:
    """Exit code and JSON of a command; stdout holds nothing else."""
    code = call(*words, "--json")
    return code, json.loads(capsys.readouterr().out)


def process(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, its output piped."""
    command = [sys.executable, "-W", "error", "-m", "anyvit", *words]
    source = str(Path(anyvit.__file__).parents[1])
    variables = {**os.environ, "PYTHONPATH": source, "PYTHONUTF8": "1", **environment}
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", env=variables, timeout=120)


@pytest.fixture
def mlp(tmp_path: Path) -> Path:
    """A readable file that is no Vision Transformer."""
    path = tmp_path / "mlp.npz"
    np.savez(path, **{"fc1.weight": np.zeros((4, 4), "float32"), "fc2.weight": np.zeros((4, 4), "float32")})
    return path


def test_module_runs_and_prints_plain_text() -> None:
    done = process("inspect", FILE)
    assert (done.returncode, done.stderr) == (0, "")
    written = text(anyvit.inspect(FILE), Style(typed=cli_options.typed))
    assert done.stdout == written + "\n"
    assert "\033" not in done.stdout


@pytest.mark.parametrize("words", [["inspect", FILE], ["inspect", FILE, "--json"], ["dialects", "timm"]])
def test_imports_neither_torch_nor_numpy(words: list[str]) -> None:
    heavy = ("torch", "numpy", "ml_dtypes", "scipy", "onnx", "transformers", "timm")
    code = (
        "import sys, anyvit.cli as cli\n"
        f"code = cli.main({words!r})\n"
        f"print([name for name in {heavy!r} if name in sys.modules], file=sys.stderr)\n"
        "sys.exit(code)"
    )
    source = str(Path(anyvit.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": source}
    )
    assert (done.returncode, done.stderr.strip()) == (0, "[]")


def test_a_reader_that_leaves_early_makes_no_noise() -> None:
    command = [sys.executable, "-m", "anyvit", "dialects", "--json"]
    source = str(Path(anyvit.__file__).parents[1])
    made = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": source}
    )
    assert made.stdout is not None and made.stderr is not None
    made.stdout.close()
    assert made.wait(timeout=60) == 1
    assert made.stderr.read() == b""
    made.stderr.close()


def test_inspect(capsys: pytest.CaptureFixture[str]) -> None:
    code, found = ask(capsys, "inspect", FILE)
    assert code == 0 and found["ok"] is True
    assert found["dialect"] == "dinov2-chunked" and found["spec"]["embed_dim"] == 128
    code, other = ask(capsys, "inspect", FILE, "--weights", "student")
    assert code == 0 and other["prefix"] == "student.module.backbone."


def test_inspect_check_reads_every_byte(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, found = ask(capsys, "inspect", FILE, "--check")
    assert code == 0 and [f for f in found["findings"] if f["kind"] == "checked"]
    data = bytearray(CHECKPOINT.read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "cut.pth").write_bytes(data)
    assert ask(capsys, "inspect", tmp_path / "cut.pth")[0] == 0
    code, found = ask(capsys, "inspect", tmp_path / "cut.pth", "--check")
    assert code == 1 and found["ok"] is False


def test_inspect_check_of_a_container_without_checksums(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert call("convert", FILE, tmp_path / "a.safetensors", "--to", "dinov2") == 0
    capsys.readouterr()
    code, found = ask(capsys, "inspect", tmp_path / "a.safetensors", "--check")
    kinds = {finding["kind"] for finding in found["findings"]}
    assert code == 0 and kinds & {"checked", "unchecked"}


def test_a_file_that_is_no_vit_is_answered_with_one(capsys: pytest.CaptureFixture[str], mlp: Path) -> None:
    assert call("inspect", mlp) == 1
    assert capsys.readouterr().out.startswith("✗ ")
    code, found = ask(capsys, "inspect", mlp)
    assert code == 1 and found["ok"] is False and found["findings"]


@pytest.mark.parametrize("words", [["inspect", "/no/such/file"], ["load", "/no/such/file"]])
def test_errors_have_no_traceback(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    assert call(*words) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("anyvit: /no/such/file does not exist") and "Traceback" not in err
    code, found = ask(capsys, *words)
    assert code == 1 and found["ok"] is False
    assert found["kind"] == FileError.__name__ and "does not exist" in found["error"]


WRONG = [
    [], ["nonsense"], ["inspect"], ["convert", FILE, "out"], ["load", FILE, "--image-size", "big"],
    ["load", FILE, "--grid", "4"], ["convert", FILE, "out", "--to", "timm", "--shard-size", "2 parsecs"],
    ["load", FILE, "--image-size", "1,2,3"], ["load", FILE, "--patch-size", "0"], ["load", FILE, "--check", "later"],
]  # fmt: skip


@pytest.mark.parametrize("words", WRONG, ids=" ".join)
def test_a_wrong_command_is_two(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    assert call(*words) == 2
    assert "usage" in capsys.readouterr().err
    code, found = ask(capsys, *words)
    assert code == 2 and found["ok"] is False and found["kind"] == "usage"


def test_interrupt_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> Report:
        raise KeyboardInterrupt

    monkeypatch.setattr("anyvit.api.inspect", interrupted)
    assert call("inspect", FILE) == 130


def test_load_runs_a_picture(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("load", FILE) == 0
    assert re.search(r"tokens +\(1, 17, 128\)", capsys.readouterr().out)
    code, found = ask(capsys, "load", FILE, "--image-size", "24,16", "--num-classes", "0", "--in-chans", "1",
                      "--dtype", "bfloat16")  # fmt: skip
    assert code == 0 and found["pixels"] == [1, 1, 24, 16] and found["grid"] == [6, 4]
    assert found["shapes"]["tokens"] == [1, 25, 128] and "logits" not in found["shapes"]
    assert {"resized"} <= {finding["kind"] for finding in found["report"]["findings"]}


def test_load_says_what_is_no_type(capsys: pytest.CaptureFixture[str]) -> None:
    code, found = ask(capsys, "load", FILE, "--dtype", "load")
    assert code == 1 and "no element type is called 'load'" in found["error"]


def test_convert_passes_every_option_on(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "out.pth"
    code, found = ask(
        capsys, "convert", FILE, out, "--to", "dinov2-chunked", "--chunks", "4", "--dtype", "float32", "--weights",
        "student", "--image-size", "32", "--num-classes", "0", "--durable", "--heads", "4", "--resample", "dinov2",
    )  # fmt: skip
    assert code == 0 and found["files"] == {"out.pth": out.stat().st_size}
    report = anyvit.inspect(out, weights=None)
    assert report.ok and report.spec.image_size == 32 and report.spec.num_classes == 0
    sources = {source for trail in found["report"]["trails"] for source in trail["sources"]}
    assert sources and all(source.startswith("student.") for source in sources)
    assert found["report"]["spec"]["num_heads"] == 4
    from anyvit.containers import open_checkpoint

    tensors = open_checkpoint(out).tensors
    assert any("blocks.3.3." in name for name in tensors) and {t.dtype for t in tensors.values()} == {"float32"}


def test_convert_to_shards(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert call("convert", FILE, tmp_path / "folder", "--to", "hf-dinov2", "--shard-size", "300kB") == 0
    out = capsys.readouterr().out
    assert "model-00001-of-0000" in out and "config.json" in out
    assert len(list((tmp_path / "folder").glob("model-*.safetensors"))) > 2
    assert anyvit.inspect(tmp_path / "folder").ok


def test_convert_refuses_with_one(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, found = ask(capsys, "convert", FILE, tmp_path / "out", "--to", "sam")
    assert code == 1 and found["kind"] == "Unsayable" and not (tmp_path / "out").exists()


def test_verify(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pytest.importorskip("anyvit.verification", reason="the verb is not there yet")
    assert call("convert", FILE, tmp_path / "same.safetensors", "--to", "timm") == 0
    assert call("convert", FILE, tmp_path / "other.safetensors", "--to", "timm", "--weights", "student") == 0
    capsys.readouterr()
    code, found = ask(capsys, "verify", FILE, tmp_path / "same.safetensors", "--image-size", "16")
    assert code == 0 and found["ok"] is True
    code, found = ask(capsys, "verify", FILE, tmp_path / "other.safetensors")
    assert code == 1 and found["ok"] is False


def test_dialects(capsys: pytest.CaptureFixture[str]) -> None:
    from anyvit.dialects import ALL

    assert call("dialects") == 0
    out = capsys.readouterr().out
    assert all(dialect.name in out for dialect in ALL) and f"{len(ALL)} dialects" in out
    code, found = ask(capsys, "dialects", "dinov2")
    assert code == 0 and found["name"] == "dinov2" and len(found["rules"]) > 10 and found["source"]
    assert call("dialects", "dinov2") == 0
    out = capsys.readouterr().out
    assert "blocks.{i}.attn.qkv.{p}" in out and "(parts o) ... -> parts o ..." in out and "(read only)" in out


def test_dialects_check_judges_the_tables(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    code, found = ask(capsys, "dialects", "timm", "--check")
    assert code == 0 and found["ok"] is True and found["faults"] == []
    monkeypatch.setattr("anyvit.laws.check", lambda dialect: ["norm.{p}: is odd"] if dialect.name == "timm" else [])
    code, found = ask(capsys, "dialects", "--check")
    assert code == 1 and found["ok"] is False
    assert [d["name"] for d in found["dialects"] if d["faults"]] == ["timm"]
    assert call("dialects", "--check") == 1
    assert "✗ timm: norm.{p}: is odd" in capsys.readouterr().out


def test_colours_only_for_a_terminal_that_wants_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "500")
    assert cli_options.style() == Style()
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert cli_options.style() == Style(cli_options.WIDEST, colour=True)
    monkeypatch.setenv("COLUMNS", "72")
    assert cli_options.style().width == 72
    monkeypatch.setenv("NO_COLOR", "1")
    assert cli_options.style().colour is False
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert cli_options.style().colour is False

"""The commands that train, from a folder of pictures to a verdict and a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="models are trained")
pytest.importorskip("lightning_fabric", reason="finetune runs on Lightning Fabric")
Image = pytest.importorskip("PIL.Image", reason="pictures are read by Pillow")

from test_cli import FILE, ask, call  # noqa: E402

import anyvit  # noqa: E402


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of three pictures: dark and bright noise."""
    draw = np.random.default_rng(0)
    for name, low in (("dark", 0), ("bright", 150)):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for n in range(3):
            picture = draw.integers(low, low + 100, (20, 18, 3), dtype=np.uint8)
            Image.fromarray(picture).save(tmp_path / "pictures" / name / f"{n}.png")
    return tmp_path / "pictures"


def test_finetune_writes_a_model_and_goes_on(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    words = ["finetune", FILE, folder, "--out", out, "--epochs", "6", "--batch-size", "6", "--lr", "3e-4", "--device", "cpu",
             "--validation", folder, "--registers", "1", "--train", "last:1", "--augment", "crop+flip"]  # fmt: skip
    code, found = ask(capsys, *words)
    assert code == 0 and found["steps"] == 6 and found["losses"][-1] < found["losses"][0]
    assert found["classes"] == ["bright", "dark"] and found["resumed"] == 0
    told = anyvit.inspect(out)
    assert told.ok and told.spec is not None and (told.spec.num_classes, told.spec.num_registers) == (2, 1)
    assert any("fine-tuned for 6 steps" in change[2] for change in told.provenance["earlier"])
    assert call(*words) == 0
    text = capsys.readouterr().out
    assert "6 steps, resumed at 6" in text and "accuracy on the validation pictures" in text
    code, found = ask(capsys, *words[:-1], "mixup", "--anew")
    assert code == 1 and "no augmentation" in found["error"]


def test_overfit_check_passes_and_fails_with_its_cause(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = ask(capsys, "overfit-check", FILE, "--data", folder, "--num-classes", "2")
    assert code == 0 and found["ok"] and found["pictures"] == 6 and not found["made"]
    assert call("overfit-check", FILE, "--condition", "dit", "--train", "head.,norm.") == 1
    text = capsys.readouterr().out
    assert text.startswith("✗") and "the modulation is frozen" in text

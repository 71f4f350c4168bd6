from __future__ import annotations
from pathlib import Path
DATA = Path(__file__).parent / "data"
CHECKPOINT = DATA / "digits_vit.pth"
DIGITS = DATA / "digits.npz"
def pixels(digits, mean, std):
    import torch
    x = torch.from_numpy(digits).float().unsqueeze(1) / 16
    x = torch.nn.functional.interpolate(x, size=(16, 16), mode="bilinear", align_corners=False).expand(-1, 3, -1, -1)
    m, s = (torch.tensor(v).view(1, 3, 1, 1) for v in (mean, std))
    return (x - m) / s
def accuracy(logits, labels):
    return float((logits.argmax(1).numpy() == labels).mean())

"""The 16 numbers of a camera, and the laws of its rays."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="cameras are tensors")

from support import adapting  # noqa: E402

import anyvit  # noqa: E402
from anyvit.errors import BadArgument  # noqa: E402


def pose(seed: int = 0, count: int = 1) -> torch.Tensor:
    """Random rotations and positions, (count, 4, 4)."""
    noise = torch.Generator().manual_seed(seed)
    q, _ = torch.linalg.qr(torch.randn(count, 3, 3, generator=noise, dtype=torch.float64))
    q = q * torch.linalg.det(q).sign()[:, None, None]
    out = torch.eye(4, dtype=torch.float64).repeat(count, 1, 1)
    out[:, :3, :3], out[:, :3, 3] = q, torch.randn(count, 3, generator=noise, dtype=torch.float64) * 2
    return out


def test_the_order_of_the_numbers() -> None:
    matrix = pose()[0]
    numbers = anyvit.camera(matrix, focal=(1.1, 1.2), center=(0.4, 0.6))
    assert numbers.dtype == torch.float32 and numbers.shape == (16,)
    assert torch.allclose(numbers[:12].view(3, 4), matrix[:3].float())
    assert numbers[12:].tolist() == pytest.approx([1.1, 1.2, 0.4, 0.6])
    assert torch.equal(anyvit.camera(matrix[:3], focal=(1.1, 1.2), center=(0.4, 0.6)), numbers)


def test_instantmesh_own_cameras() -> None:
    """Zero123++'s six views: fov 30 degrees, focal 0.5 / tan(15°) = 1.8660."""
    numbers = anyvit.camera(pose(count=6).view(2, 3, 4, 4), fov=30.0)
    assert numbers.shape == (2, 3, 16)
    assert numbers[..., 12:14].flatten().tolist() == pytest.approx([1.8660254] * 12)
    wide = anyvit.camera(torch.eye(4), fov=90.0, aspect=2.0)
    assert wide[12:14].tolist() == pytest.approx([0.25, 0.5])
    each = anyvit.camera(pose(count=2), fov=torch.tensor([60.0, 90.0]))
    assert each[:, 13].tolist() == pytest.approx([0.8660254, 0.5])


@pytest.mark.parametrize(("matrix", "options", "words"), [
    (torch.eye(3), {"fov": 60}, "camera-to-world"), (torch.zeros(16), {"fov": 60}, "camera-to-world"),
    (2 * torch.eye(4), {"fov": 60}, "no rotation"), (torch.eye(4), {}, "fov or focal"),
    (torch.eye(4), {"fov": 60, "focal": 1.0}, "fov or focal"), (torch.eye(4), {"fov": 200}, "between 0 and 180"),
    (torch.eye(4), {"focal": 525.0}, "pixels"), (torch.full((4, 4), torch.nan), {"fov": 60}, "no rotation"),
])  # fmt: skip
def test_what_is_no_camera_is_refused(matrix: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(BadArgument, match=words):
        anyvit.camera(matrix, **options)


def test_rays_are_unit_directions_and_moments_orthogonal_to_them() -> None:
    cameras = anyvit.camera(pose(1, 6).view(2, 3, 4, 4), focal=(1.3, 0.9), center=(0.45, 0.55))
    rays = anyvit.pluecker(cameras, (6, 8))
    assert rays.shape == (6, 6, 6, 8) and rays.dtype == torch.float32
    direction, moment = rays[:, :3], rays[:, 3:]
    assert torch.allclose(direction.norm(dim=1), torch.ones(6, 6, 8), atol=1e-6)
    assert float((direction * moment).sum(1).abs().max()) < 1e-6
    # the moment's length is the distance of the ray from the origin, wherever on the ray it is taken
    origin = cameras.view(6, 3 * 4 + 4)[:, [3, 7, 11], None, None].expand_as(direction)
    later = torch.linalg.cross(origin + 2.5 * direction, direction, dim=1)
    assert torch.allclose(later, moment, atol=1e-5)
    near = origin - (origin * direction).sum(1, keepdim=True) * direction
    assert torch.allclose(moment.norm(dim=1), near.norm(dim=1), atol=1e-5)


def test_a_point_projects_to_the_pixel_whose_ray_meets_it() -> None:
    matrix = pose(2)[0]
    camera = anyvit.camera(matrix, focal=(1.3, 0.9), center=(0.45, 0.55))
    rays, (row, column) = anyvit.pluecker(camera, (6, 8)), (4, 1)
    point = matrix[:3, 3] + 3.0 * rays[0, :3, row, column].double()
    x, y, z, _ = torch.linalg.inv(matrix) @ torch.cat((point, torch.ones(1, dtype=torch.float64)))
    assert z < 0  # in front of a camera that looks along -z
    u, v = 1.3 * float(x / -z) + 0.45, -0.9 * float(y / -z) + 0.55
    assert (u * 8, v * 6) == pytest.approx((column + 0.5, row + 0.5), abs=1e-5)


def test_moving_the_world_moves_the_rays() -> None:
    matrix, turn = pose(3)[0], pose(4)[0]
    turn[:3, 3] = 0
    one, two = (anyvit.pluecker(anyvit.camera(m, fov=50.0), 4) for m in (matrix, turn @ matrix))
    for part in (slice(0, 3), slice(3, 6)):
        assert torch.allclose(
            torch.einsum("ij,bjhw->bihw", turn[:3, :3].float(), one[:, part]), two[:, part], atol=1e-5
        )


@torch.no_grad()
def test_rays_as_further_channels_start_as_nothing() -> None:
    plain = anyvit.load(adapting.state(), heads=2)
    vit = anyvit.load(adapting.state(), heads=2, in_chans=anyvit.Channels(9, "zero"))
    pixels, rays = adapting.pixels(), anyvit.pluecker(anyvit.camera(pose(5, 2), fov=50.0), 12)
    adapting.close(vit(torch.cat((pixels, rays), 1)).tokens, plain(pixels).tokens)


@pytest.mark.parametrize(("cameras", "size"), [(torch.zeros(2, 12), 4), (torch.zeros(()), 4), (torch.zeros(16), 0)])
def test_rays_of_nothing_are_refused(cameras: Any, size: int) -> None:
    with pytest.raises(BadArgument):
        anyvit.pluecker(cameras, size)

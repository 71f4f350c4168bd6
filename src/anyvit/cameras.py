"""Cameras as a model is conditioned on them: 16 numbers, or the ray of every pixel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from anyvit.errors import BadArgument
from anyvit.spec import pair

if TYPE_CHECKING:
    import torch

NUMBERS = 16
"""Three rows of the camera-to-world matrix, then fx, fy, cx, cy."""


def camera(
    pose: Any, *, fov: Any = None, focal: Any = None, center: Any = (0.5, 0.5), aspect: float = 1.0
) -> torch.Tensor:
    """The 16 numbers of InstantMesh and OpenLRM.

    The first three rows of the camera-to-world matrix, row by row (12 numbers; OpenGL axes: x right, y up, z backward,
    so the camera looks along its negative z; positions in the scene's own unit), then fx, fy, cx, cy as fractions of
    the picture's width and height.

    Arguments:
        pose: (…, 3, 4) or (…, 4, 4) camera-to-world.
        fov: vertical field of view in degrees, a number or (…); instead of `focal`.
        focal: (…, 2) fx as a fraction of the width and fy of the height; or one number for both of a square picture.
        center: (…, 2) principal point as fractions of width and height.
        aspect: width / height of the picture, of which a horizontal focal length follows from `fov`.

    Returns:
        (…, 16) float32.

    Raises:
        BadArgument: no matrix of that shape, no rotation in it, or neither or both of fov and focal.

    Example:
        >>> import torch
        >>> camera(torch.eye(4), fov=90.0)[12:]
        tensor([0.5000, 0.5000, 0.5000, 0.5000])

    Source: TencentARC/InstantMesh@08822c5: src/utils/camera_util.py (get_zero123plus_input_cameras,
    FOV_to_intrinsics); 3DTopia/OpenLRM: openlrm/datasets/cam_utils.py build_camera_principle
    """
    import torch

    matrix = torch.as_tensor(pose, dtype=torch.float64)
    if matrix.ndim < 2 or tuple(matrix.shape[-2:]) not in ((3, 4), (4, 4)):
        raise BadArgument("a camera's pose is a camera-to-world matrix", found=tuple(matrix.shape),
                          expected="(…, 3, 4) or (…, 4, 4)")  # fmt: skip
    matrix = matrix[..., :3, :]
    _check_rotation(matrix[..., :3])
    if (fov is None) == (focal is None):
        raise BadArgument("fov or focal says how wide a camera sees", found=f"fov={fov}, focal={focal}")
    if fov is not None:
        angle = torch.deg2rad(torch.as_tensor(fov, dtype=torch.float64))
        if not bool(((angle > 0) & (angle < torch.pi)).all()):
            raise BadArgument("fov is an angle in degrees", found=fov, expected="between 0 and 180")
        vertical = 0.5 / torch.tan(angle / 2)
        lengths = torch.stack((vertical / aspect, vertical), -1)
    else:
        lengths = torch.as_tensor(focal, dtype=torch.float64)
        lengths = lengths.expand(2) if lengths.ndim == 0 else lengths
        if float(lengths.max()) > 20:
            raise BadArgument("focal lengths are fractions of the picture's sides", found=lengths.tolist(),
                              usual="pixels", remedy="focal=(fx / width, fy / height)")  # fmt: skip
    middle = torch.as_tensor(center, dtype=torch.float64)
    lead = matrix.shape[:-2]
    parts = [matrix.reshape(*lead, 12), lengths.expand(*lead, 2), middle.expand(*lead, 2)]
    return torch.cat(parts, -1).float()


def _check_rotation(axes: torch.Tensor) -> None:
    import torch

    product = axes.transpose(-1, -2) @ axes
    off = float((product - torch.eye(3, dtype=axes.dtype)).abs().max())
    if not off < 1e-3:
        raise BadArgument("the pose holds no rotation: its axes are not orthogonal and of length 1", found=f"off by {off:.3g}",
                          usual="a scaled or transposed matrix")  # fmt: skip


def pluecker(cameras: Any, size: int | tuple[int, int]) -> torch.Tensor:
    """The ray of every pixel in Plücker coordinates: its direction, and its moment about the origin.

    As channels beside the picture they condition any model: `load(path, in_chans=anyvit.Channels(9, "zero"))` takes
    `torch.cat((pixels, rays), 1)` and starts as the unconditioned model.

    Arguments:
        cameras: (…, 16), see `camera`; all leading axes are flattened to B.
        size: of the picture in pixels, int or (height, width).

    Returns:
        (B, 6, H, W) float32: direction d (unit length, world axes), moment o × d with o the camera's position, for
        the centre of each pixel.

    Raises:
        BadArgument: no cameras of 16 numbers, or no such size.

    Example:
        >>> import torch
        >>> rays = pluecker(camera(torch.eye(4), fov=90.0), 2)
        >>> rays.shape, bool((rays[:, 2] < 0).all()), float(rays[:, 3:].abs().max())
        (torch.Size([1, 6, 2, 2]), True, 0.0)

    Source: Sitzmann et al. 2021, Light Field Networks, https://arxiv.org/abs/2106.02634, section 3.1
    """
    import torch

    given = torch.as_tensor(cameras)
    if not given.ndim or given.shape[-1] != NUMBERS:
        raise BadArgument(
            "a camera is 16 numbers", found=tuple(given.shape), expected="(…, 16)", remedy="anyvit.camera(…)"
        )
    height, width = pair(size)
    if height < 1 or width < 1:
        raise BadArgument("a picture has pixels", found=size)
    rows = given.reshape(-1, NUMBERS).double()  # (B, 16)
    pose, (fx, fy, cx, cy) = rows[:, :12].reshape(-1, 3, 4), rows[:, 12:, None, None].unbind(1)
    across = ((torch.arange(width, device=rows.device) + 0.5) / width).expand(1, height, width)
    down = ((torch.arange(height, device=rows.device) + 0.5) / height)[:, None].expand(1, height, width)
    x, y = (across - cx) / fx, -(down - cy) / fy  # (B, H, W) at depth 1; y points up
    local = torch.stack((x, y, -torch.ones_like(x)), 1)  # (B, 3, H, W)
    direction = torch.einsum("bij,bjhw->bihw", pose[..., :3], local)
    direction = direction / direction.norm(dim=1, keepdim=True)
    origin = pose[..., 3, None, None].expand_as(direction)  # (B, 3, H, W)
    return torch.cat((direction, torch.linalg.cross(origin, direction, dim=1)), 1).float()

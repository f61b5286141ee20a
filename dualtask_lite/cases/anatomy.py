"""A synthetic abdomen: the tissue of every voxel, for one patient drawn at random.

Positions are in mm from a point in front of the spine at the level of the pancreas: x to the patient's right, y to
the front, z to the head. Organs are ellipsoids and tubes, painted one after the other; a smooth warp of space and a
scaling of the body make each patient different.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

import numpy as np
from scipy.interpolate import CubicSpline

from dualtask_lite.errors import DualTaskError

LARGER = "give more voxels along each axis, such as 48 48 24"

Point = Sequence[float] | np.ndarray
TumourKind = Literal["solid", "iso", "cystic"]


class Tissue(IntEnum):
    """The tissue of a voxel."""

    AIR = 0
    FAT = 1
    MUSCLE = 2
    BONE = 3
    MARROW = 4
    FLUID = 5  # content of stomach, bowel, gall bladder and spinal canal
    GAS = 6
    WALL = 7  # of stomach and bowel
    AORTA = 8  # and the arteries that leave it
    VEINS = 9
    LIVER = 10
    SPLEEN = 11
    KIDNEY = 12
    PANCREAS = 13
    DUCT = 14
    TUMOUR = 15
    RIM = 16  # of a cystic tumour
    SUBCUTANEOUS = 17  # fat outside the muscles of the abdominal wall; no organ is painted on it


_SOFT = (Tissue.FAT, Tissue.FLUID, Tissue.GAS, Tissue.WALL, Tissue.LIVER, Tissue.SPLEEN)
_WARP = 4.0  # mm, largest shift of each of the two waves along each axis

# Centre line of the pancreas from the head beside the duodenum to the tail at the spleen, with its radius (mm).
_PANCREAS = np.array(
    [
        (46, 10, -24, 11),
        (44, 15, -5, 14),
        (19, 27, 5, 8.5),
        (-10, 27, 12, 10),
        (-40, 11, 20, 10),
        (-70, -8, 29, 8.5),
        (-93, -17, 37, 5),
    ],
    dtype=float,
)
_Z_STRETCH = 1.3  # the cross-section of the gland is taller than it is deep
_DUODENUM = [
    (25, 44, 16),
    (50, 34, 13),
    (67, 14, 4),
    (69, 4, -16),
    (63, 0, -36),
    (38, -5, -50),
    (5, 4, -50),
    (-22, 10, -38),
]
_COLON = [
    [(108, -6, -130), (108, -2, -70), (106, 4, -30)],
    [(100, 30, -26), (52, 74, -40), (0, 82, -46), (-52, 72, -32), (-106, 22, 0)],
    [(-112, -14, 4), (-113, -20, -60), (-112, -20, -130)],
]


@dataclass(frozen=True)
class Tumour:
    """One tumour to paint."""

    kind: TumourKind
    diameter_mm: float
    position: float  # on the centre line of the pancreas, from 0 (head) to 1 (tail)


class Canvas:
    """The tissue of every voxel, and methods that paint on it.

    Args:
        axes: positions (mm) of the voxels along x, y and z.
        rng: draws the patient's size and the warp of space.
    """

    def __init__(self, axes: Sequence[np.ndarray], rng: np.random.Generator) -> None:
        scale = rng.uniform(0.92, 1.08, 3)
        lines = [np.asarray(axis / s, np.float32) for axis, s in zip(axes, scale, strict=True)]
        self.lines = lines
        self.tissue = np.zeros([len(line) for line in lines], np.uint8)
        grids = np.meshgrid(*lines, indexing="ij", sparse=True)
        self.positions = [np.add(grid, _waves(grids, axis, rng)) for axis, grid in enumerate(grids)]

    def box(self, low: Point, high: Point) -> tuple[slice, slice, slice]:
        """The voxels that may lie between two corners (mm) under any warp."""
        margin = 2 * _WARP
        x, y, z = (
            slice(int(np.searchsorted(line, a - margin)), int(np.searchsorted(line, b + margin, "right")))
            for line, a, b in zip(self.lines, low, high, strict=True)
        )
        return x, y, z

    def ellipsoid(self, centre: Point, radii: Point, tissue: Tissue, over: Sequence[Tissue] = (Tissue.FAT,)) -> None:
        """Paint an ellipsoid; only voxels whose tissue is in ``over`` change."""
        box = self.box(np.subtract(centre, radii), np.add(centre, radii))
        parts = (((p[box] - c) / r) ** 2 for p, c, r in zip(self.positions, centre, radii, strict=True))
        self.paint(box, sum(parts) <= 1, tissue, over)

    def tube(
        self,
        points: Sequence[Point] | np.ndarray,
        radius: float,
        tissue: Tissue,
        over: Sequence[Tissue] = (Tissue.FAT,),
    ) -> None:
        """Paint a smooth tube through some points; only voxels whose tissue is in ``over`` change."""
        line = centre_line(points, radius)
        box, depth = self.around(line, np.full(len(line), radius))
        self.paint(box, depth <= 0, tissue, over)

    def around(
        self, line: np.ndarray, radius: np.ndarray, margin: float = 0.0, z_stretch: float = 1.0
    ) -> tuple[tuple[slice, slice, slice], np.ndarray]:
        """The box around a line of spheres, and the distance of its voxels to them (mm, negative inside)."""
        extent = radius[:, None] * (1, 1, z_stretch) + margin
        box = self.box((line - extent).min(0), (line + extent).max(0))
        x, y, z = (p[box] for p in self.positions)
        depth = np.full(x.shape, np.inf, np.float32)
        for (cx, cy, cz), r in zip(line, radius, strict=True):
            np.minimum(depth, np.sqrt((x - cx) ** 2 + (y - cy) ** 2 + ((z - cz) / z_stretch) ** 2) - r, out=depth)
        return box, depth

    def paint(self, box: tuple[slice, slice, slice], where: np.ndarray, tissue: Tissue, over: Sequence[Tissue]) -> None:
        """Paint those voxels of the mask ``where`` in a box whose tissue is in ``over``."""
        view = self.tissue[box]
        view[where & np.isin(view, over)] = tissue


def centre_line(points: Sequence[Point] | np.ndarray, radius: float) -> np.ndarray:
    """Centres of spheres on the smooth curve through some points, close enough to form a tube of this radius."""
    corners = np.asarray(points, float)
    length = np.linalg.norm(np.diff(corners, axis=0), axis=1).sum()
    return smooth(corners, 3 + int(2 * length / radius))


def smooth(points: np.ndarray, count: int) -> np.ndarray:
    """Place ``count`` points on the smooth curve through some points (N, D), evenly in the curve's parameter."""
    curve = CubicSpline(np.linspace(0, 1, len(points)), points)
    return np.asarray(curve(np.linspace(0, 1, count)))


def paint_patient(canvas: Canvas, tumour: Tumour | None, rng: np.random.Generator) -> None:
    """Paint a patient, from the abdominal wall to the pancreas and its tumour."""
    _body_wall(canvas, rng)
    _spine(canvas)
    _vessels(canvas)
    for side in (-1, 1):
        canvas.ellipsoid((62 * side, -42, -20 - 4 * side), (28, 30, 52), Tissue.KIDNEY)
        canvas.ellipsoid((50 * side, -38, -20 - 4 * side), (12, 11, 22), Tissue.FAT, (Tissue.KIDNEY,))
    _liver_and_spleen(canvas)
    _stomach_and_bowel(canvas, rng)
    _pancreas(canvas, tumour, rng)


def _waves(grids: Sequence[np.ndarray], axis: int, rng: np.random.Generator) -> np.ndarray:
    """A smooth shift along one axis (mm): a sum of products of waves along the two other axes."""
    u, v = (grid for other, grid in enumerate(grids) if other != axis)
    shift: np.ndarray = np.zeros((), np.float32)
    for _ in range(2):
        lengths, phases = rng.uniform(90, 180, 2), rng.uniform(0, 2 * np.pi, 2)
        a, b = (np.sin(2 * np.pi * w / length + p) for w, length, p in zip((u, v), lengths, phases, strict=True))
        shift = shift + np.float32(rng.uniform(0, _WARP)) * (a * b).astype(np.float32)
    return shift


def _body_wall(canvas: Canvas, rng: np.random.Generator) -> None:
    """Paint subcutaneous fat, the muscles of the wall with the ribs, and the fat inside."""
    x, y, z = canvas.positions
    fat, muscle = rng.uniform(8, 24), 9.0
    flat = np.where(y < 0, 0.9, 1.0)  # the back is flatter than the front

    def within(inset: float) -> np.ndarray:
        return (x / (165 - inset)) ** 2 + (y / (112 - inset) / flat) ** 2 <= 1

    tissue = canvas.tissue
    tissue[within(0)] = Tissue.SUBCUTANEOUS
    tissue[within(fat)] = Tissue.MUSCLE
    tissue[within(fat + muscle)] = Tissue.FAT
    ribs = (np.abs((z + 0.4 * y) % 30 - 15) < 5) & (np.abs(x) > 70) & (z > -45 - 0.3 * y)
    tissue[within(fat + 1) & ~within(fat + 7) & ribs] = Tissue.BONE


def _spine(canvas: Canvas) -> None:
    """Paint vertebrae with discs between them, the spinal canal, and the muscles beside them."""
    soft = (Tissue.FAT, Tissue.MUSCLE, Tissue.SUBCUTANEOUS)
    for side in (-1, 1):
        canvas.ellipsoid((34 * side, -82, 0), (28, 20, 400), Tissue.MUSCLE, soft)
        canvas.ellipsoid((38 * side, -52, -90), (17, 17, 75), Tissue.MUSCLE)
    box = canvas.box((-45, -112, -400), (45, -25, 400))
    x, y, z = (p[box] for p in canvas.positions)
    body = (x / 22) ** 2 + ((y + 52) / 17) ** 2
    disc = np.abs(z % 36 - 18) > 14
    process = ((np.abs(x) < 4) & (y < -80) & (y > -108) & ~disc) | (
        (np.abs(y + 74) < 4) & (np.abs(x) < 38) & (np.abs(z % 36 - 18) < 6)
    )
    bone = (*soft, Tissue.BONE, Tissue.MARROW)
    canvas.paint(box, process, Tissue.BONE, soft)
    canvas.paint(box, body <= 1, Tissue.BONE, bone)
    canvas.paint(box, (body <= 0.8) & ~disc, Tissue.MARROW, bone)
    canvas.paint(box, (body <= 1) & disc, Tissue.MUSCLE, bone)
    canvas.paint(box, x**2 + (y + 78) ** 2 <= 8**2, Tissue.FLUID, bone)


def _vessels(canvas: Canvas) -> None:
    """Paint the aorta, coeliac trunk and superior mesenteric artery; vena cava, mesenteric and portal vein."""
    canvas.tube([(-12, -24, -200), (-10, -23, 0), (-8, -26, 200)], 11, Tissue.AORTA)
    canvas.tube([(-8, -14, 24), (-8, 4, 27), (-2, 12, 26)], 4, Tissue.AORTA)
    canvas.tube([(-9, -14, 8), (-4, 6, -12), (-3, 14, -60), (-3, 20, -130)], 4.5, Tissue.AORTA)
    canvas.tube([(25, -24, -200), (24, -23, 0), (26, -10, 90)], 12, Tissue.VEINS)
    canvas.tube([(12, 20, -130), (12, 13, -30), (14, 12, 2), (34, 18, 28), (55, 22, 45)], 6.5, Tissue.VEINS)


def _liver_and_spleen(canvas: Canvas) -> None:
    """Paint the two lobes of the liver with veins and gall bladder, and the spleen."""
    canvas.ellipsoid((82, 8, 50), (72, 82, 78), Tissue.LIVER)
    canvas.ellipsoid((10, 55, 62), (70, 40, 36), Tissue.LIVER)
    for tip in ((110, -20, 60), (115, 40, 55), (70, 50, 75), (95, 0, 90)):
        canvas.tube([(52, 18, 48), np.add((52, 18, 48), tip) / 2 + (0, 0, 6), tip], 4, Tissue.VEINS, (Tissue.LIVER,))
    canvas.ellipsoid((58, 62, 0), (14, 17, 24), Tissue.FLUID, (Tissue.FAT, Tissue.LIVER))
    canvas.ellipsoid((-114, -26, 42), (27, 46, 44), Tissue.SPLEEN)


def _stomach_and_bowel(canvas: Canvas, rng: np.random.Generator) -> None:
    """Paint hollow organs: a wall, fluid, and gas at the front, because the patient lies on the back."""
    canvas.ellipsoid((-58, 44, 48), (46, 34, 44), Tissue.WALL)
    canvas.ellipsoid((-58, 44, 48), (42, 30, 40), Tissue.FLUID, (Tissue.WALL,))
    box = canvas.box((-110, 10, 0), (0, 80, 95))
    level = rng.uniform(48, 62)
    canvas.paint(
        box,
        (canvas.positions[1][box] > level) & (canvas.tissue[box] == Tissue.FLUID),
        Tissue.GAS,
        (Tissue.FLUID,),
    )
    _hollow(canvas, [(-38, 52, 22), (0, 58, 16), (25, 48, 16)], 13, rng, gas=0.2)
    _hollow(canvas, _DUODENUM, 11.5, rng, gas=0.15)
    for part in _COLON:
        _hollow(canvas, part, rng.uniform(15, 19), rng, gas=0.7)
    for _ in range(12):
        start = rng.uniform((-95, 15, -85), (35, 62, -28))
        bend = rng.uniform(-22, 22, (2, 3))
        _hollow(canvas, [start, start + bend[0], start + bend[0] + bend[1]], rng.uniform(9, 13), rng, gas=0.2)


def _hollow(
    canvas: Canvas, points: Sequence[Point] | np.ndarray, radius: float, rng: np.random.Generator, *, gas: float
) -> None:
    """Paint a piece of bowel; with probability ``gas`` its front half holds gas."""
    line = centre_line(points, radius)
    box, depth = canvas.around(line, np.full(len(line), radius))
    free = (depth <= 0) & (canvas.tissue[box] == Tissue.FAT)
    canvas.paint(box, free, Tissue.WALL, (Tissue.FAT,))
    canvas.paint(box, free & (depth <= -3), Tissue.FLUID, (Tissue.WALL,))
    if rng.random() < gas:
        front = canvas.positions[1][box] > np.mean(line[:, 1])
        canvas.paint(box, free & (depth <= -3) & front, Tissue.GAS, (Tissue.FLUID,))


def _pancreas(canvas: Canvas, tumour: Tumour | None, rng: np.random.Generator) -> None:
    """Paint the gland, the splenic vein, the duct and the tumour."""
    points = _PANCREAS.copy()
    points[:, :3] += rng.normal(0, 2.5, (len(points), 3))
    points[:, 3] *= rng.uniform(0.85, 1.15)
    line, radius = np.split(smooth(points, 41), [3], axis=1)
    radius = radius[:, 0]
    along = np.linspace(0, 1, len(line))
    upstream = along >= tumour.position if tumour and tumour.kind != "cystic" else np.zeros(len(line), bool)
    radius = np.where(upstream, 0.85 * radius, radius)  # the gland shrinks upstream of an obstructed duct
    canvas.tube(line[18::4] - (0, 11, 3), 4, Tissue.VEINS)  # the splenic vein runs behind it
    uncinate = np.linspace((40, 8, -20), (16, -2, -24), 8)
    spheres = np.concatenate([line, uncinate])
    box, depth = canvas.around(spheres, np.concatenate([radius, np.linspace(9, 6, 8)]), 4, _Z_STRETCH)
    depth += _lobules(canvas, box, rng)
    canvas.paint(box, depth <= 2, Tissue.FAT, _SOFT)  # a layer of fat around it
    canvas.paint(box, depth <= 0, Tissue.PANCREAS, (*_SOFT, Tissue.MUSCLE))
    if tumour is None:
        return
    at = int(tumour.position * (len(line) - 1))
    if upstream[:-2].sum() > 3:
        duct, inside = canvas.around(line[at:-1], np.linspace(rng.uniform(2, 3.5), 1.5, len(line) - 1 - at), 0)
        canvas.paint(duct, inside <= 0, Tissue.DUCT, (Tissue.PANCREAS,))
    _tumour(canvas, tumour, line[at] + rng.uniform(-0.4, 0.4, 3) * radius[at], rng)


def _lobules(canvas: Canvas, box: tuple[slice, slice, slice], rng: np.random.Generator) -> np.ndarray:
    """Height of the bumps on the lobulated surface of the gland, mm."""
    bumps: np.ndarray = np.zeros((), np.float32)
    for height, length in ((1.6, 22), (1.1, 13)):
        waves = (
            np.sin(2 * np.pi * p[box] / rng.uniform(0.8 * length, 1.2 * length) + rng.uniform(0, 2 * np.pi))
            for p in canvas.positions
        )
        bumps = bumps + height * np.prod(np.broadcast_arrays(*waves), axis=0)
    return bumps


def _tumour(canvas: Canvas, tumour: Tumour, centre: np.ndarray, rng: np.random.Generator) -> None:
    """Paint an ellipsoid with an irregular outline, smoother when cystic, of at least one voxel."""
    axes = tumour.diameter_mm / 2 * rng.uniform(0.85, 1.18, 3)
    box = canvas.box(centre - 1.4 * axes, centre + 1.4 * axes)
    offset = [(p[box] - c) / a for p, c, a in zip(canvas.positions, centre, axes, strict=True)]
    if 0 in canvas.tissue[box].shape:
        raise DualTaskError(f"size {canvas.tissue.shape} is too small: no voxel is near the tumour", LARGER)
    roughness = 0.05 if tumour.kind == "cystic" else 0.16
    outline = np.sqrt(sum(o**2 for o in offset)) - 1
    for frequency in (3.0, 5.5):
        waves = (np.sin(frequency * o + rng.uniform(0, 2 * np.pi)) for o in offset)
        outline = outline + roughness * np.prod(np.broadcast_arrays(*waves), axis=0)
    invaded = (
        Tissue.PANCREAS,
        Tissue.DUCT,
        Tissue.FAT,
        Tissue.WALL,
        Tissue.FLUID,
        Tissue.GAS,
        Tissue.VEINS,
    )
    centre_voxel = np.unravel_index(np.argmin(outline), outline.shape)
    canvas.paint(box, outline <= 0, Tissue.TUMOUR, invaded)
    if tumour.kind == "cystic":
        canvas.paint(box, outline > -2.5 / axes.mean(), Tissue.RIM, (Tissue.TUMOUR,))
    view = canvas.tissue[box]
    if view[centre_voxel] not in (Tissue.TUMOUR, Tissue.RIM):
        view[centre_voxel] = Tissue.TUMOUR

"""Moving pictures for the README, drawn without a browser: the temperature explorer, and a prediction in 3D."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from mpl_toolkits.mplot3d import Axes3D
from mpl_toolkits.mplot3d.art3d import Poly3DCollection
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter, zoom
from skimage.measure import marching_cubes

from dualtask_lite.cases.case import Scan
from dualtask_lite.cases.masks import Box, dice, target_mask
from dualtask_lite.cases.phantom import make_case
from dualtask_lite.engine.predict import predict_scan
from dualtask_lite.engine.records import read_rows
from dualtask_lite.engine.run import load_models
from dualtask_lite.resources import data_file
from dualtask_lite.rows import number
from dualtask_lite.show import palette
from dualtask_lite.show.controls.conversion import conversion_explorer
from dualtask_lite.show.picture import Picture

MODEL, ARM, CENTRE = "reference", "conversion+optimiser.steps=9600", "C"
WIDTH = 800  # px
NO_GRADIENT = "voxels without a gradient"  # a number of the explorer
VIEWS = 36  # of the turning prediction
FINER = 2  # steps of the surface in a voxel, along each axis
MARGIN = 4.0  # mm around the surfaces
SMOOTHING = 2.0  # mm, standard deviation; hides the steps between voxels
LAMP = np.array([0.3, -0.5, 0.81])


class Animation(NamedTuple):
    """A sequence of pictures, repeated without end."""

    name: str
    frames: list[Image.Image]
    seconds: float  # for each frame
    alt: str
    caption: str

    def save(self, folder: Path) -> Path:
        """Write an animated WebP and return its path."""
        path = folder / f"{self.name}.webp"
        first, *others = self.frames
        duration = round(1000 * self.seconds)
        first.save(path, save_all=True, append_images=others, duration=duration, loop=0, quality=75, method=6)
        return path

    def markdown(self) -> str:
        """The README's lines about it."""
        return f"![{self.alt}](data/results/{self.name}.webp)\n\n*{self.caption}*"


def draw() -> list[Animation]:
    """Draw all moving pictures of the README, in its order."""
    return [prediction(), explorer()]


def explorer() -> Animation:
    """Show the conversion explorer at each temperature, from soft to hard and back."""
    control = conversion_explorer()
    (temperature,) = (knob for knob in control.knobs if knob.name == "tau")
    options = list(reversed(temperature.options))
    images = [_image(control.picture_at(tau=option)) for option in options]
    dead = [control.frame(tau=temperature.options[option]).numbers[NO_GRADIENT] for option in options]
    return Animation(
        "conversion",
        [*images, *images[-2:0:-1]],
        0.7,
        f"The conversion explorer at {len(options)} temperatures: distance, probability of the mask, gradient. "
        f"{NO_GRADIENT.capitalize()}: {', '.join(map(' '.join, zip(options, dead, strict=True)))}.",
        "An explorer of lesson 02: with a low temperature the distance becomes a sharp mask, but few voxels get a "
        "gradient (right).",
    )


def prediction() -> Animation:
    """Turn the true and the predicted surfaces of the median case of the held-out hospital."""
    scan = median_case()
    result = predict_scan(load_models(MODEL, "cpu"), scan)
    voxel = math.prod(scan.spacing) / 1000  # ml
    true, predicted = (np.count_nonzero(mask == 2) * voxel for mask in (scan.label, result.mask))
    return Animation(
        "prediction",
        turning(scan, result.mask, np.arange(VIEWS) * 360 / VIEWS),
        0.12,
        f"Surfaces of case {scan.id}, turning about the body's axis. True labels: pancreas (blue, transparent), tumour "
        f"(orange) {true:.1f} ml. Prediction: pancreas (pale), tumour (magenta) {predicted:.1f} ml, "
        f"Dice {dice(result.targets['tumour'].mask, target_mask(scan.label, 'tumour')):.2f}.",
        f"A tumour of the held-out hospital {CENTRE} and its prediction by the model `{MODEL}`: the median by "
        "Dice of the 42 tumours there.",
    )


def median_case() -> Scan:
    """Load the case of the held-out hospital with the median tumour Dice in the reference table."""
    table = read_rows(data_file("results") / "reference" / "cases.csv")
    wanted = {"arm": ARM, "part": CENTRE, "seed": "0", "target": "tumour"}
    rows = [row for row in table if wanted.items() <= row.items()]
    ranked = sorted((number(row["dice"]), row["case"]) for row in rows if math.isfinite(number(row["dice"])))
    name = ranked[len(ranked) // 2][1]
    return make_case(CENTRE, int(name.removeprefix(f"{CENTRE}_"))).load()


def turning(scan: Scan, mask: NDArray[np.uint8], angles: Sequence[float]) -> list[Image.Image]:
    """Draw the labels of a scan beside a predicted mask, seen from several directions.

    Args:
        scan: with its label.
        mask: (X, Y, Z) of 0, 1, 2, the prediction.
        angles: of the views about the body's axis, degrees.
    """
    truth = np.asarray(scan.label)
    box = Box.around((truth > 0) | (mask > 0), MARGIN, scan.spacing) or Box.whole(scan.shape)
    figure = Figure(figsize=(WIDTH / 100, 4.4), dpi=100)
    sides = [
        _draw(figure, 1, "true labels", truth[box.slices], scan.spacing, (palette.PANCREAS, palette.TUMOUR)),
        _draw(figure, 2, "prediction", mask[box.slices], scan.spacing, (palette.PREDICTION_PALE, palette.PREDICTION)),
    ]
    frames = []
    for angle in angles:
        for axes in sides:
            axes.view_init(elev=12, azim=angle)
        frames.append(_rendered(figure))
    return frames


def _draw(
    figure: Figure, place: int, title: str, labels: NDArray[np.uint8], spacing: Sequence[float], colours: Sequence[str]
) -> Axes3D:
    """Draw the surface of the pancreas, transparent, around that of the tumour."""
    axes = figure.add_axes((0.5 * (place - 1), 0, 0.5, 0.92), projection="3d")
    axes.set_title(title, y=1.0, fontsize=11)
    axes.set_axis_off()
    sides = [n * mm for n, mm in zip(labels.shape, spacing, strict=True)]
    axes.set(xlim=(0, sides[0]), ylim=(0, sides[1]), zlim=(0, sides[2]))
    axes.set_box_aspect(sides, zoom=1.05)
    triangles, paints = [], []
    for value, colour, opacity in ((1, colours[0], 0.25), (2, colours[1], 1.0)):
        corners = _surface(labels >= value, spacing)
        triangles.append(corners)
        paints.append(_shaded(corners, colour, opacity))
    faces = Poly3DCollection(np.concatenate(triangles), facecolors=np.concatenate(paints), linewidths=0)
    axes.add_collection3d(faces)  # one collection, because matplotlib sorts the faces of each one alone by depth
    return axes


def _surface(mask: NDArray[np.bool_], spacing: Sequence[float]) -> NDArray[np.float64]:
    """Triangles (N, 3, 3) of a mask's smoothed surface, mm."""
    soft = zoom(np.pad(mask.astype(np.float32), 1), FINER, order=1)
    steps = [mm * (n + 1) / (m - 1) for n, m, mm in zip(mask.shape, soft.shape, spacing, strict=True)]
    soft = gaussian_filter(soft, SMOOTHING / np.asarray(steps))
    if soft.max() <= 0.5:
        return np.empty((0, 3, 3))
    corners, faces, _, _ = marching_cubes(soft, 0.5, spacing=steps)
    return (corners - np.asarray(spacing))[faces]


def _shaded(triangles: NDArray[np.float64], colour: str, opacity: float) -> NDArray[np.float64]:
    """Colours (N, 4) of triangles that a lamp lights from above."""
    normals = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-9)
    light = 0.7 + 0.3 * np.abs(normals @ LAMP)
    return np.column_stack([light[:, None] * to_rgb(colour), np.full(len(light), opacity)])


def _rendered(figure: Figure) -> Image.Image:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def _image(picture: Picture) -> Image.Image:
    image = Image.open(io.BytesIO(picture.png)).convert("RGB")
    return image.resize((WIDTH, round(image.height * WIDTH / image.width)), Image.Resampling.LANCZOS)

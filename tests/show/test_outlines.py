"""Outlines of masks, against the pixels that they enclose."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from matplotlib.figure import Figure
from matplotlib.path import Path

from dualtask_lite.show import outlines

masks = arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=7))


@given(masks)
def test_outlines_enclose_the_pixels_of_the_mask_alone(mask):
    rows, columns = np.indices(mask.shape) + 0.5
    middles = np.stack([columns.ravel(), rows.ravel()], axis=-1)
    lines = outlines.trace(mask)
    enclosing = sum((Path(line).contains_points(middles) for line in lines), np.zeros(mask.size, int))
    np.testing.assert_array_equal(enclosing.reshape(mask.shape) % 2, mask)


@given(masks)
def test_outlines_are_all_edges_between_mask_and_background_once(mask):
    padded = np.pad(mask, 1).astype(int)
    edges = sum(np.abs(np.diff(padded, axis=axis)).sum() for axis in (0, 1))
    steps = [np.abs(np.diff(line, axis=0)) for line in outlines.trace(mask)]
    assert sum(int(step.sum()) for step in steps) == edges
    for line, step in zip(outlines.trace(mask), steps, strict=True):
        assert (line[0] == line[-1]).all()
        assert ((step > 0).sum(axis=1) == 1).all(), "cuts a corner"
        across = step[:, 0] > 0
        assert (across != np.roll(across, 1)).all(), "has a point in the middle of a straight line"


@given(st.floats(0.5, 3), st.floats(0.5, 3), st.booleans())
def test_drawn_outline_covers_its_pixels_in_an_image_of_either_orientation(wide, high, upwards):
    mask = np.zeros((4, 6), bool)
    mask[1, 2:5] = True
    axes = Figure().subplots()
    left, right, first, last = -wide, 5 * wide, (0, 4 * high)[upwards], (4 * high, 0)[upwards]
    outlines.draw(axes, mask, (left, right, last, first), "red")
    (path,) = axes.collections[0].get_paths()
    (x0, y0), (x1, y1) = path.vertices.min(axis=0), path.vertices.max(axis=0)
    rows = (2, 3) if upwards else (1, 2)
    assert (x0, x1, y0, y1) == pytest.approx((wide, 4 * wide, rows[0] * high, rows[1] * high))
    assert axes.get_xlim() == axes.get_ylim() == (0, 1), "the limits of the axes changed"


@pytest.mark.parametrize("kind", [bool, np.uint8, np.float32])
def test_mask_of_any_type_is_traced_and_an_empty_one_has_no_outline(kind):
    (line,) = outlines.trace(np.ones((2, 3), kind))
    assert set(map(tuple, line)) == {(0, 0), (3, 0), (3, 2), (0, 2)}
    assert outlines.trace(np.zeros((2, 3), kind)) == []

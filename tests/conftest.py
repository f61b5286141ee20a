"""What several test modules share."""

from __future__ import annotations

import pytest

from dualtask_lite.cases.phantom import make_phantom

#: As command-line assignments: a run of seconds, in which only what the numbers are differs from a real one.
TINY_RUN = {
    "sample.patch": [16, 16, 16],
    "sample.spacing": [8, 8, 8],
    "optimiser.steps": 3,
    "optimiser.batch": 1,
    "machine.device": "cpu",
}


@pytest.fixture(scope="session")
def phantom_folder(tmp_path_factory):
    """Three centres of four small cases."""
    return make_phantom(tmp_path_factory.mktemp("phantom"), cases=4, size=(40, 40, 20))


@pytest.fixture(scope="session")
def tiny_run():
    """Settings by dotted name for a training of seconds."""
    return dict(TINY_RUN)

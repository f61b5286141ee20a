"""A step by itself: what it reads from the device."""

import pytest
import torch

from dualtask_lite.engine.bench.samples import synthetic_region
from dualtask_lite.engine.config import Settings
from dualtask_lite.engine.run import build_network
from dualtask_lite.engine.training.devices import make_fabric, set_up
from dualtask_lite.engine.training.step import Steps, make_optimiser
from dualtask_lite.errors import DualTaskError

FEW = {"seg": 1.0, "dist": 1.0}
MANY = {**FEW, "conv_mask": 1.0, "conv_distance": 1.0, "slice": 1.0, "out": 1.0}


def steps_of(weights):
    small = {"sample.patch": [16, 16, 16], "optimiser.steps": 1, "optimiser.batch": 1, "views.count": 2}
    settings = Settings.of("laptop", {**small, "objective.weights": weights, "machine.device": "cpu"})
    fabric, net = make_fabric(settings), build_network(settings)
    model, optimiser = set_up(fabric, net, make_optimiser(net, settings), settings)
    return Steps(fabric, net, model, optimiser, settings, [synthetic_region(settings)])


def test_more_terms_need_no_more_transfers(transfers):
    few, many = steps_of(FEW), steps_of(MANY)
    assert len(few.objective.weights) < len(many.objective.weights)
    few_values, many_values = (transfers(lambda steps=steps: list(steps.run(0))) for steps in (few, many))
    extra = len(list(many.net.parameters())) - len(list(few.net.parameters()))  # Adam counts the steps of each
    assert many_values - few_values <= extra


def test_the_first_term_that_is_not_finite_is_named():
    steps = steps_of(MANY)
    steps.objective.weights = {term: steps.objective.weights[term] for term in ("seg", "conv_mask", "slice")}
    terms = {"seg": torch.tensor(1.0), "conv_mask": torch.tensor(torch.nan), "slice": torch.tensor(torch.inf)}
    with pytest.raises(DualTaskError, match="step 3: term conv_mask is not finite on case a, b"):
        steps._check_finite(2, terms, {"case_id": ["a", "b"]})

"""Which card each process works on, and in what precision; the cards are made up."""

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor

import pytest
import torch

from dualtask_lite.engine.training.devices import dtype_of, select_card, visible_cards


@pytest.fixture
def four_cards(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_cards_are_named_as_the_driver_numbers_them(four_cards):
    assert visible_cards() == ["0", "1", "2", "3"]


def test_cards_that_the_user_chose_keep_their_names(four_cards, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-5a")
    assert visible_cards() == ["3", "GPU-5a"]


def test_without_a_card_there_is_none_to_take(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert visible_cards() == []
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    select_card(multiprocessing.Value("i", 0), [])
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_processes_take_the_cards_in_turn(monkeypatch):
    started, taken = multiprocessing.Value("i", 0), []
    for _ in range(5):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
        select_card(started, ["3", "GPU-5a"])
        taken.append(os.environ["CUDA_VISIBLE_DEVICES"])
    assert taken == ["3", "GPU-5a", "3", "GPU-5a", "3"]


def test_spawned_process_selects_its_card_first():
    context = multiprocessing.get_context("spawn")
    turn = (context.Value("i", 0), ["3", "4"])
    with ProcessPoolExecutor(2, mp_context=context, initializer=select_card, initargs=turn) as pool:
        taken = {future.result() for future in [pool.submit(os.getenv, "CUDA_VISIBLE_DEVICES") for _ in range(4)]}
    assert taken <= {"3", "4"}


def test_each_precision_has_one_type():
    types = [dtype_of(name) for name in ("32-true", "bf16-mixed", "16-mixed")]
    assert types == [torch.float32, torch.bfloat16, torch.float16]

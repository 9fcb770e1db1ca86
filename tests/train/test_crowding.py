"""The sentence on a busy machine: only where it helps."""

import os
import sys

import pytest
import torch

from toque.train.logs.crowding import crowded

CPU = torch.device("cpu")


@pytest.fixture
def load(monkeypatch):
    """A Linux machine with 4 torch threads, and a load average to set."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(sys, "platform", "linux")
    return lambda value: monkeypatch.setattr(os, "getloadavg", lambda: (value, 0.0, 0.0))


def test_other_work_is_told_with_the_remedy(load):
    load(2.5)
    said = crowded(CPU, 4, {})
    assert "2.5 of 4 cores" in said and "OMP_WAIT_POLICY=passive" in said


def test_nothing_is_said_where_it_would_not_help(load, monkeypatch):
    load(1.9)
    assert crowded(CPU, 4, {}) is None
    load(9.0)
    assert crowded(CPU, 4, {}) is not None
    assert crowded(torch.device("cuda"), 4, {}) is None
    assert crowded(CPU, 4, {"OMP_WAIT_POLICY": "passive"}) is None
    assert crowded(CPU, 4, {"GOMP_SPINCOUNT": "0"}) is None
    monkeypatch.setattr(sys, "platform", "darwin")
    assert crowded(CPU, 4, {}) is None
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert crowded(CPU, 4, {}) is None

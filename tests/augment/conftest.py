"""One test suite over all kernels: a test that uses `kernel` runs once for each this machine has."""

import pytest

from toque.augment import kernels


@pytest.fixture(params=kernels.available())
def kernel(request, monkeypatch):
    """Makes "auto" mean one kernel."""
    monkeypatch.setattr(kernels, "available", lambda: (request.param,))
    return request.param

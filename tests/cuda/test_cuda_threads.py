"""Several threads of Python on one device: what each launches is what it launches alone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from cases import Case
from cuda_support import EMULATED, Emulator, Trio, kernels  # noqa: F401


@pytest.fixture
def slow_calls():
    """Every call of the CUDA runtime takes a moment, in which the other thread makes one."""
    if EMULATED:
        Emulator().linger(100)
    yield
    if EMULATED:
        Emulator().linger(0)


def test_two_sizes_of_one_kernel(slow_calls):
    """Both ask for more shared memory than a kernel may have unasked, one for more of it."""
    large, small = (
        Trio(Case("gaussian", (64, 64), rows=rows, obs_dim=obs), grid=1).kernels
        for rows, obs in ((32, 11), (16, 11))
    )
    sizes = [operator.plan()["shared_bytes"] for operator in (large, small)]
    assert sizes[0] > sizes[1] > 48 * 1024
    assert large.plan()["tile_rows"] == small.plan()["tile_rows"]

    def products(operator):
        v = torch.ones_like(operator.theta)
        return [operator.fvp(v) for _ in range(40)]

    alone = [products(operator)[0] for operator in (large, small)]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(products, (large, small)))
    for each, expected in zip(found, alone, strict=True):
        assert all(torch.equal(product, expected) for product in each)

"""What the predicted time of a solve follows from."""

from __future__ import annotations

import pytest

from trpo_fast.backends.wide import predicted
from trpo_fast.backends.wide.predicted import DEVICES, LAUNCH_US, reference_us, solve_us
from trpo_fast.policy.spec import NetSpec

PRECISIONS = ("fp16x3", "bf16x3", "tf32", "fp32")
HUMANOID = NetSpec((348, 256, 256, 17), "tanh", "gaussian")
SHORT = NetSpec((64, 128, 8), "tanh", "categorical", (8,))


def load(name: str, precision: str = "fp16x3") -> predicted.Load:
    """One of the kernels of a product of SHORT on 1 000 tiles of rows."""
    found = predicted._product(SHORT, 128_000, precision, DEVICES["H200"])
    return next(each for each in found if each.name == name)


def test_flops_and_bytes_of_one_net_counted_by_hand():
    rows, three = 128_000, 3
    jvp, last, back, gradients = map(load, ("jvp_map", "last_map", "back_map", "weight_gradients"))
    assert jvp.flops == 2 * three * rows * 64 * 128
    assert jvp.row_bytes == 4 * rows * (64 + 128 + 128)  # h, slopes, tangents
    assert jvp.moved == jvp.row_bytes + 4 * 1000 * 128 * 64  # the weights, for every tile
    assert last.flops == 2 * three * rows * 32 * 128 * 2  # 8 outputs take 32 columns
    assert last.row_bytes == 4 * rows * (128 + 128 + 8 + 32)
    assert back.flops == 2 * three * rows * 32 * 128
    assert back.row_bytes == 4 * rows * (32 + 128 + 128)
    assert gradients.flops == 2 * three * rows * 128 * (128 + 128)  # a tile a map
    assert gradients.row_bytes == 4 * rows * (64 + 128 + 128 + 32)
    assert load("jvp_map", "tf32").flops == jvp.flops / three


def test_the_slowest_of_three_and_a_launch():
    h200 = DEVICES["H200"]
    many = predicted.Load("any", flops=1e12, row_bytes=1.0, moved=1.0)
    seconds = predicted._microseconds(many, "fp16x3", h200, False) - LAUNCH_US
    assert seconds == pytest.approx(1e18 / (h200.half * predicted.TENSOR_SHARE))
    bytes_ = predicted.Load("any", row_bytes=1e9, moved=1e9)
    slow = predicted._microseconds(bytes_, "fp16x3", h200, False) - LAUNCH_US
    assert slow == pytest.approx(1e15 / (h200.memory * predicted.MEMORY_SHARE))
    assert predicted._microseconds(bytes_, "fp16x3", h200, True) < slow  # it stays in the cache
    few = predicted.Load("any", flops=1e12, programs=33)
    idle = predicted._microseconds(few, "fp16x3", h200, False) - LAUNCH_US
    assert idle == pytest.approx(4 * seconds)  # of 132 multiprocessors


@pytest.mark.parametrize("precision", PRECISIONS)
def test_more_takes_longer(precision):
    def us(widths=(348, 256, 256, 17), rows=50_000, **options):
        return solve_us(NetSpec(widths, "tanh", "gaussian"), rows, precision, **options)

    assert (
        us() < us(rows=60_000) and us() < us(products=11) and us(device="H200") < us(device="A100")
    )
    assert us() < us(widths=(348, 512, 256, 17)) < us(widths=(348, 512, 256, 256, 17))
    once, twice, thrice = (us(rows=128 * 264 * n) for n in (4, 8, 12))
    assert thrice - twice == pytest.approx(twice - once, rel=0.02)


@pytest.mark.parametrize("device", DEVICES)
def test_split_precision_is_faster_than_float32_and_that_than_the_reference(device):
    split, single = (solve_us(HUMANOID, 50_000, p, device=device) for p in ("fp16x3", "fp32"))
    assert split < single < reference_us(HUMANOID, 50_000, device=device)
    assert reference_us(HUMANOID, 50_000, device=device, tf32=True) < single


def test_a_device_is_known_by_the_name_its_driver_gives():
    assert predicted.device_named("NVIDIA H200") == "H200"
    assert predicted.device_named("NVIDIA A100-SXM4-80GB") == "A100"
    assert predicted.device_named("Tesla T4") is None

"""What the kernels for wide nets follow from: shapes and architecture."""

from __future__ import annotations

import pytest

from trpo_fast.backends.wide.layout import NetLayout
from trpo_fast.backends.wide.tiles import TILES, architecture, cut_rows
from trpo_fast.policy.spec import NetSpec


@pytest.mark.parametrize(
    ("capability", "name"),
    [
        ((8, 0), "sm_80"),
        ((8, 6), "sm_86"),
        ((8, 9), "sm_86"),
        ((9, 0), "sm_90"),
        ((10, 0), "sm_100"),
        ((11, 0), "sm_100"),
        ((12, 0), "sm_86"),
    ],
)
def test_architectures(capability, name):
    assert architecture(capability) == name


@pytest.mark.parametrize("tiles", TILES.values(), ids=TILES.keys())
def test_rows_are_cut_into_whole_tiles(tiles):
    for row_tiles in (1, 2, 7, 100, 8000):
        for map_tiles in (1, 3, 40, 5000):
            cut = cut_rows(row_tiles, map_tiles, tiles)
            assert cut.rows % tiles.block == 0
            assert (cut.pieces - 1) * cut.rows < row_tiles * tiles.block <= cut.pieces * cut.rows
    assert tiles.block % tiles.depth == 0


def test_a_net_lies_in_a_flat_vector_as_the_policy_has_it():
    spec = NetSpec((11, 200, 129, 3), "tanh", "gaussian")
    layout = NetLayout(spec, TILES["sm_90"])
    assert layout.net == spec.size - spec.free
    assert layout.weights == (0, 12 * 200, 12 * 200 + 201 * 129)
    assert [b - w for w, b in zip(layout.weights, layout.biases, strict=True)] == [
        11 * 200,
        200 * 129,
        129 * 3,
    ]
    assert layout.first == (0, 2, 6) and layout.map_tiles == 8
    assert layout.output_width == 32 and layout.outputs_fit


@pytest.mark.parametrize("outputs", [1, 32, 33, 128, 129, 1000])
def test_outputs_fit_up_to_a_tile(outputs):
    layout = NetLayout(NetSpec((11, 200, outputs), "tanh", "gaussian_state"), TILES["sm_90"])
    assert layout.output_width >= outputs and layout.outputs_fit == (outputs <= 128)

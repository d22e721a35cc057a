"""Patches of several sizes: folding and its inverse, the laws of the initial layers, files, token grids."""

import dataclasses
import json
import math

import pytest
import torch
from einops import reduce
from torch.nn import functional

from pyramid.flops import WAN_DIMENSIONS, forward_tflops, schedule_cost, tokens
from pyramid.latent_shape import LatentShape
from pyramid.noise_pyramid import noise_pyramid
from pyramid.patches import (
    PREFIX,
    PatchLayers,
    embedding_matrix,
    fold,
    from_tensors,
    head_matrix,
    in_place_of,
    least_error,
    lifted,
    to_tensors,
    tokens_of,
    unfold,
)
from pyramid.sampling import into_stage, sample_pyramid, solver_stage
from pyramid.schedules import merge_schedule, stage_levels
from pyramid.sizes import VideoSize, check_shape, describe_stages
from pyramid.solvers import euler
from pyramid.stages import FORMAT, PATCHES_FORMAT, PRESETS, PyramidSpec

FULL = LatentShape(21, 56, 104)
PPF = PRESETS["ppf"]
CELLS = [(4, 4, 4), (2, 2, 2), (1, 2, 2), (2, 1, 1)]
WIDTH, CHANNELS = 12, 3


def latent(cell, cells=(3, 4, 6), seed=0):
    t, h, w = cell
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(
        2, CHANNELS, 1 + t * (cells[0] - 1), h * cells[1], w * cells[2], generator=generator, dtype=torch.float64
    )


def own_layers(seed=1):
    generator = torch.Generator().manual_seed(seed)
    sizes = ((WIDTH, CHANNELS, 1, 2, 2), (WIDTH,), (4 * CHANNELS, WIDTH), (4 * CHANNELS,))
    return PatchLayers(*(torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes))


def embedded(x, layers, cell):
    """Return the tokens of a stage, as the networks compute them."""
    return functional.linear(tokens_of(fold(x, cell)), embedding_matrix(layers.embedding), layers.embedding_bias)


def unpatched(rows, cell):
    """Return the latent of a stage from the outputs of its head, as Wan arranges them."""
    out = rows.unflatten(-1, (2, 2, -1))
    b, m, y, x, p, q, c = out.shape
    return unfold(out.permute(0, 6, 1, 2, 4, 3, 5).reshape(b, c, m, y * p, x * q), cell)


def averaged(x, cell):
    """Return the means of cells; frame 0 is a cell of its own in time."""
    t, h, w = cell
    space = reduce(x, "b c f (y h) (x w) -> b c f y x", "mean", h=h, w=w)
    rest = reduce(space[:, :, 1:], "b c (m t) y x -> b c m y x", "mean", t=t)
    return torch.cat([space[:, :, :1], rest], dim=2)


@pytest.mark.parametrize("cell", CELLS)
def test_unfolding_inverts_folding(cell):
    x = latent(cell)
    folded = fold(x, cell)
    assert folded.shape == (2, CHANNELS * math.prod(cell), 3, 4, 6)
    assert torch.equal(unfold(folded, cell), x)


def test_frame_0_stands_still_in_its_cell_and_the_others_keep_their_order():
    frames = torch.arange(9.0).reshape(1, 1, 9, 1, 1)
    assert fold(frames, (4, 1, 1))[0, :, :, 0, 0].T.tolist() == [[0, 0, 0, 0], [1, 2, 3, 4], [5, 6, 7, 8]]
    outputs = torch.tensor([[1.0, 2.0, 3.0, 6.0], [4.0, 5.0, 6.0, 7.0]]).T.reshape(1, 4, 2, 1, 1)
    assert unfold(outputs, (4, 1, 1)).flatten().tolist() == [3, 4, 5, 6, 7]


@pytest.mark.parametrize("cell", CELLS)
def test_the_initial_embedding_is_wans_on_the_averages(cell):
    x, own = latent(cell), own_layers()
    expected = functional.conv3d(averaged(x, cell), own.embedding, own.embedding_bias, stride=(1, 2, 2)).movedim(1, -1)
    assert torch.allclose(embedded(x, lifted(own, cell), cell), expected, atol=1e-12)


@pytest.mark.parametrize("cell", CELLS)
def test_an_embedding_is_one_convolution_with_a_large_stride(cell):
    x, t = latent(cell), cell[0]
    layers = lifted(own_layers(), cell)
    kernel = torch.randn(layers.embedding.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    layers = dataclasses.replace(layers, embedding=kernel)
    still = torch.cat([x[:, :, :1].expand(-1, -1, t - 1, -1, -1), x], dim=2)
    expected = functional.conv3d(still, kernel, layers.embedding_bias, stride=kernel.shape[2:]).movedim(1, -1)
    assert torch.allclose(embedded(x, layers, cell), expected, atol=1e-12)


@pytest.mark.parametrize("cell", CELLS)
def test_the_initial_head_is_wans_with_every_output_repeated(cell):
    own = own_layers()
    tokens_in = torch.randn(2, 3, 2, 3, WIDTH, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    layers = lifted(own, cell)
    rows = functional.linear(tokens_in, head_matrix(layers.head, cell), head_matrix(layers.head_bias, cell))
    small = unpatched(functional.linear(tokens_in, own.head, own.head_bias), (1, 1, 1))
    t, h, w = cell
    spread = small.repeat_interleave(h, 3).repeat_interleave(w, 4)
    expected = torch.cat([spread[:, :, :1], spread[:, :, 1:].repeat_interleave(t, 2)], dim=2)
    assert torch.allclose(unpatched(rows, cell), expected, atol=1e-12)


def test_the_rows_of_a_head_are_ordered_by_time_height_width_and_channel():
    """Each row of the head writes one latent of the patch, whose place is the index of the row."""
    cell = (2, 2, 2)
    rows = torch.arange(2 * 4 * 4 * CHANNELS, dtype=torch.float64)
    patch = unpatched(head_matrix(rows, cell).reshape(1, 1, 1, 1, -1).expand(1, 2, 1, 1, -1), cell)
    assert torch.equal(patch[0, :, 1:].movedim(0, -1), rows.reshape(2, 4, 4, CHANNELS))


def test_no_head_predicts_white_noise_that_has_more_numbers_than_a_token_is_wide():
    """With the best tokens that any blocks could compute, what is left of white noise is what ``least_error`` says."""
    cell = (2, 2, 2)
    generator = torch.Generator().manual_seed(0)
    head = torch.randn(math.prod(cell) * 4 * CHANNELS, WIDTH, generator=generator, dtype=torch.float64)
    matrix = head_matrix(head, cell)
    noise = torch.randn(400, 1, 1, 1, len(head), generator=generator, dtype=torch.float64)
    tokens_of_noise = torch.linalg.lstsq(matrix, noise.flatten(1).T).solution.T
    left = noise - functional.linear(tokens_of_noise, matrix).reshape(noise.shape)
    error = float(unpatched(left.expand(-1, 2, -1, -1, -1), cell)[:, :, 1:].square().mean())
    assert error == pytest.approx(least_error(WIDTH, cell, CHANNELS), abs=0.01) == pytest.approx(1 - 12 / 96, abs=0.01)


def test_the_widths_of_wan_and_their_patches():
    assert [least_error(1536, cell) for cell in ((4, 4, 4), (2, 2, 2), (1, 1, 1))] == [0.625, 0.0, 0.0]
    assert least_error(5120, (4, 4, 4)) == 0.0 and least_error(128, (4, 4, 4)) == pytest.approx(0.969, abs=5e-4)


def test_layers_survive_a_file():
    layers = [lifted(own_layers(stage), cell) for stage, cell in enumerate(CELLS[:2])]
    tensors = to_tensors(layers)
    assert tensors["patch_stages.0.patch_embedding.weight"].shape == (WIDTH, CHANNELS, 4, 8, 8)
    assert tensors["patch_stages.1.head.weight"].shape == (2 * 4 * 4 * CHANNELS, WIDTH)
    read = from_tensors({**tensors, "head.modulation": torch.zeros(1)}, "x.safetensors")
    assert list(read) == CELLS[:2]
    for cell, own in zip(CELLS, layers, strict=False):
        assert all(torch.equal(value, read[cell].named()[name]) for name, value in own.named().items())


def test_damaged_layers_are_one_sentence():
    tensors = to_tensors([lifted(own_layers(), (2, 2, 2))])
    without = {name: value for name, value in tensors.items() if not name.endswith("head.bias")}
    with pytest.raises(ValueError, match=r"x has no patch_stages\.0\.head\.bias: its patches are incomplete"):
        from_tensors(without, "x")
    damaged = {
        "head.weight": (7, WIDTH),
        "head.bias": (7,),
        "patch_embedding.bias": (WIDTH + 1,),
        "patch_embedding.weight": (WIDTH, CHANNELS, 0, 4, 4),
    }
    for name, size in damaged.items():
        with pytest.raises(ValueError, match="the patches of stage 0 have sizes that do not belong together"):
            from_tensors({**tensors, f"{PREFIX}0.{name}": torch.zeros(size)}, "x")


@pytest.mark.parametrize("sides", [(4, 8, 8), (5, 7, 8), (5, 8, 7)])
def test_a_latent_of_parts_of_cells_is_one_sentence(sides):
    named = "x".join(map(str, sides))
    with pytest.raises(ValueError, match=f"a latent of {named} .* cannot be read in cells of 2x2x2: it must have 1 plus"):
        fold(torch.zeros(1, 1, *sides), (2, 2, 2))


def test_stand_ins_leave_an_object_as_it_was_also_after_an_error():
    network = torch.nn.Module()
    network.layer, network.width = torch.nn.Linear(2, 2), 3
    before = dict(vars(network))
    stand_ins = [(network, "layer", torch.relu), (network, "width", 5)]
    with pytest.raises(RuntimeError, match="inside"), in_place_of(stand_ins):
        assert network.layer is torch.relu and network.width == 5 and "layer.weight" in network.state_dict()
        raise RuntimeError("inside")
    assert vars(network) == before and isinstance(network.layer, torch.nn.Linear)


def test_the_preset_reads_the_token_grids_of_the_pyramid_of_latents():
    assert [tokens(grid) for grid in PPF.grids(FULL)] == [546, 4004, 30576]
    assert PPF.shapes(FULL) == (FULL, FULL, FULL)
    stages = PPF.stages(FULL)
    assert [stage.cell for stage in stages] == [(4, 4, 4), (2, 2, 2), (1, 1, 1)]
    assert [fold(torch.zeros(1, 1, *FULL), stage.cell).shape[2:] for stage in stages] == [tuple(g) for g in PPF.grids(FULL)]
    assert PPF.starting_at(1).stages(FULL)[0].cell == (2, 2, 2)
    assert not PPF.for_stock_weights and PRESETS["training-free"].for_stock_weights


def test_a_run_costs_its_token_grids():
    dimensions = WAN_DIMENSIONS["1.3B"]
    patches, latents = (schedule_cost(spec, FULL, (2, 2, 1), dimensions) for spec in (PPF, PyramidSpec()))
    assert [cost.tokens for cost in patches] == [546, 4004, 30576]
    assert [cost.shape for cost in patches] == [FULL] * 3 and [cost.cell for cost in patches] == [
        (4, 4, 4),
        (2, 2, 2),
        (1, 1, 1),
    ]
    ends = 2 * dimensions.dim * 4 * 32 / 1e12
    for own, other, cell in zip(patches, latents, (64, 8, 1), strict=True):
        assert own.forward_tflops == pytest.approx(other.forward_tflops + own.tokens * ends * (cell - 1))
    assert forward_tflops(546, dimensions, cell=64) - forward_tflops(546, dimensions) == pytest.approx(0.0135, abs=1e-3)


def test_sizes_name_the_patches():
    with pytest.raises(ValueError, match="multiples of 64, frames 1 plus a multiple of 16"):
        check_shape(LatentShape(21, 60, 104), PPF)
    size = VideoSize(832, 448, 81)
    lines = describe_stages(size, size, PPF).splitlines()
    assert lines[1] == "low: 832x448 with 81 frames (latent 21x56x104 in patches of 4x8x8)"
    assert lines[3] == "high: 832x448 with 81 frames (latent 21x56x104 in patches of 1x2x2)"
    with pytest.raises(ValueError, match="20 latent frames cannot be halved"):
        PPF.stages(LatentShape(20, 56, 104))


def test_nothing_changes_at_a_boundary():
    """The output of a stage is the input of the next: same size, no new noise."""
    stages = PPF.stages(LatentShape(5, 8, 8))
    noise = torch.randn(1, 2, 5, 8, 8, dtype=torch.float64)
    first, *others = noise_pyramid(noise, stages)
    assert torch.equal(first, noise) and not any(torch.count_nonzero(part) for part in others)
    signal, fresh = into_stage(noise, stages[0], stages[1], others[0])
    assert torch.equal(signal, noise) and not torch.count_nonzero(fresh)


def test_a_staged_run_equals_one_run_through_all_levels():
    stages, shape = PPF.stages(LatentShape(5, 8, 8)), (1, 2, 5, 8, 8)
    noise = torch.randn(shape, dtype=torch.float64)
    levels = stage_levels(PPF, (3, 2, 4))

    def velocity(x, level, stage):
        return torch.tanh(x + level.conditioning) * math.prod(stage.cell)

    staged = sample_pyramid(solver_stage(velocity, euler, levels), noise_pyramid(noise, stages), stages)
    x, curve = noise, merge_schedule(levels)
    for here, there in zip(curve, curve[1:], strict=False):
        stage = next(stage for stage in stages if here > stage.clean.natural)
        x = x + (there - here) * velocity(x, stage.at(torch.tensor(here, dtype=torch.float64)), stage)
    assert torch.allclose(staged, x, atol=1e-12)


def test_json_of_pyramids_of_latents_is_that_of_earlier_versions():
    old = json.loads(PyramidSpec().to_json())
    assert old["format"] == FORMAT and "coarse" not in old
    assert PyramidSpec.from_json(json.dumps(old)) == PyramidSpec()
    new = json.loads(PPF.to_json())
    assert new["format"] == PATCHES_FORMAT and new["coarse"] == "patches"
    del new["coarse"]
    with pytest.raises(ValueError, match="missing fields in the pyramid spec: coarse"):
        PyramidSpec.from_json(json.dumps(new))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"field": "pyramidal"}, "field must be 'natural', got 'pyramidal'"),
        ({"timestep_source": "sigma"}, "timestep_source must be 'natural', got 'sigma'"),
        ({"resize": "dct"}, "resize must be 'haar', got 'dct'"),
        ({"first_frame": "per-frame"}, "first_frame must be 'shared'"),
        ({"downsample_axes": ("THW", "THW 2/3")}, "patches double from stage to stage, .* got 'THW 2/3'; use THW"),
        ({"downsample_axes": ("HW", "HW auto")}, "patches double from stage to stage, .* got 'HW auto'; use HW"),
        ({"coarse": "tokens"}, "unknown coarse 'tokens'; expected latents, patches"),
    ],
)
def test_a_pyramid_of_patches_follows_the_ordinary_flow(changes, words):
    values = {**vars(PPF), **changes}
    with pytest.raises(ValueError, match=words):
        PyramidSpec(**values)

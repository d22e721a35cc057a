"""What reaches a node is checked by the types in its schema: type, limits, NaN and infinity, each by name."""

import math

import numpy as np
import pytest
import torch
from comfyui_graph import GivenNoise, empty, prompt

from pyramidalwan.nodes import NODES
from pyramidalwan.nodes.latent import PyramidalWanEmptyLatent
from pyramidalwan.pyramid.stages import PRESETS
from pyramidalwan.samplers.comfyui.conditioning import check_finite_conds
from pyramidalwan.samplers.comfyui.node_inputs import MAX_BATCH, MAX_LEVELS, check_input
from pyramidalwan.samplers.noise import SeedNoise, full_noise

NAN = math.nan
BAD = torch.tensor([[[NAN]]])


class Opaque:
    """An object of no type that a node knows."""


@pytest.mark.parametrize("node", NODES, ids=lambda node: node.__name__)
def test_every_node_names_the_first_input_that_is_of_a_wrong_type(node):
    inputs = node.define_schema().inputs
    if not inputs:
        pytest.skip("it has no inputs")
    with pytest.raises(ValueError, match=rf"^{inputs[0].id} is of type Opaque; expected "):
        node.execute(**{described.id: Opaque() for described in inputs})


@pytest.mark.parametrize("node", NODES, ids=lambda node: node.__name__)
def test_no_number_of_a_node_takes_what_lies_outside_its_limits(node):
    for described in node.define_schema().inputs:
        if (kind := described.get_io_type()) not in ("INT", "FLOAT"):
            continue
        for value in (NAN, math.inf, -math.inf, described.min - 1, described.max + 1, 10**400, "5", None, True, [1], 1j):
            with pytest.raises(ValueError, match=f"^{described.id} is .*; expected a (whole )?number from ") as caught:
                check_input(described.id, kind, value, least=described.min, most=described.max)
            assert len(str(caught.value)) < 200
        check_input(described.id, kind, described.default, least=described.min, most=described.max)


def test_numbers_of_numpy_are_numbers():
    check_input("steps", "INT", np.int64(5), least=0, most=9)
    check_input("shift", "FLOAT", np.float32(5), least=0, most=9)
    check_input("shift", "FLOAT", 5, least=0, most=9)
    with pytest.raises(ValueError, match="expected a whole number from 0 to 9"):
        check_input("steps", "INT", 5.0, least=0, most=9)


def test_a_node_refuses_a_linked_value_beyond_the_limits_of_its_widget():
    with pytest.raises(ValueError, match="^width is 16400; expected a whole number from 16 to 16384$"):
        PyramidalWanEmptyLatent.execute(16400, 480, 81, 1, "nearest")
    with pytest.raises(ValueError, match="latent values; expected at most 2.15e[+]09"):
        PyramidalWanEmptyLatent.execute(16384, 16384, 1601, 4096, "nearest")


VIDEO = torch.zeros(1, 16, 3, 8, 8)
STRETCHED = torch.zeros(1).expand(2**40, 16, 1, 1, 1)
UNUSUAL = {
    "a sparse tensor": lambda tensor: tensor.to_sparse(),
    "a tensor without values": lambda tensor: tensor.to("meta"),
    "a quantized tensor": lambda tensor: torch.quantize_per_tensor(tensor.float(), 0.1, 0, torch.qint8),
    "a nested tensor": lambda tensor: torch.nested.nested_tensor([tensor]),
}
"""Tensors that PyTorch cannot compare, by the words for them."""


class Changed:
    """A MODEL, GUIDER or NOISE with all its attributes, of which some are given."""

    seed, model, original_conds = 0, None, None

    def __init__(self, **attributes):
        self.model_options = {}
        self.model_patcher = self
        vars(self).update(attributes)

    def clone(self):
        return self

    get_model_object = sample = generate_noise = encode = decode = get_sd = clone


WRONG = {
    "LATENT": [
        (None, "expected a LATENT"),
        ({}, "expected a LATENT"),
        ({"samples": [1]}, "the LATENT at x is a list of 1; expected a tensor"),
        ({"samples": VIDEO * NAN}, "the LATENT at x holds NaN or infinity"),
        ({"samples": VIDEO + math.inf}, "the LATENT at x holds NaN or infinity"),
        ({"samples": VIDEO.to(torch.complex64)}, "is of type complex64; expected numbers such as float32"),
        ({"samples": VIDEO.to(torch.float8_e4m3fn)}, "is of type float8_e4m3fn; expected numbers such as float32"),
        ({"samples": VIDEO[:0]}, "has size 0x16x3x8x8 and holds nothing"),
        (empty(noise_mask=BAD), "the noise mask at x holds NaN"),
        (empty(noise_mask="mask"), "the noise mask at x is 'mask'; expected a tensor"),
        (empty(noise_mask=torch.ones(())), "has 0 dimensions; expected 2 to 5"),
        (empty(batch_index=[10**12]), f"has the batch index {10**12}; expected 0 to {MAX_BATCH - 1}"),
        (empty(batch_index=[-1]), "the batch index -1"),
        (empty(batch_index=[0, 1]), "expected one for each of its 1 videos"),
        (empty(batch_index=5), "has batch indices 5"),
        ({"samples": STRETCHED}, f"the LATENT at x is a tensor of {2**44} values that are not stored"),
        (empty(downscale_ratio_spacial="x"), "has downscale_ratio_spacial 'x'; expected a number above 0, or none"),
        (empty(downscale_ratio_spacial=NAN), "has downscale_ratio_spacial nan"),
        (empty(downscale_ratio_temporal=0), "has downscale_ratio_temporal 0"),
    ],
    "CONDITIONING": [
        ([], "expected CONDITIONING"),
        ("prompt", "x is 'prompt'; expected CONDITIONING"),
        ([[BAD]], "a list of pairs"),
        ([[BAD, None]], "a list of pairs"),
        ([[BAD, {}]], "the embedding at x holds NaN"),
    ],
    "SIGMAS": [
        ([1.0, 0.0], "expected SIGMAS"),
        (torch.zeros(2, 2), "a tensor of 2 dimensions; expected SIGMAS"),
        (torch.ones(2, dtype=torch.complex64), "the SIGMAS at x is of type complex64; expected numbers"),
        (torch.linspace(1, 0, MAX_LEVELS + 1), f"has {MAX_LEVELS + 1} noise levels; expected at most {MAX_LEVELS}"),
    ],
    "IMAGE": [(torch.zeros(4, 4, 3), "of size 4x4x3; expected an IMAGE"), (torch.full((1, 2, 2, 3), NAN), "holds NaN")],
    "NOISE": [
        (Opaque(), "expected NOISE"),
        (SeedNoise("a"), "the seed of the NOISE at x is 'a'"),
        (SeedNoise(-1), "is -1"),
        (Changed(generate_noise=[]), "a method of x is a list of 0; expected NOISE"),
    ],
    "MODEL": [
        (Opaque(), "expected a MODEL"),
        (Opaque, "expected a MODEL"),
        (Changed(clone=5), "a method of x is 5; expected a MODEL"),
        (Changed(model_options=5), "the model_options of x are 5; expected a MODEL"),
    ],
    "GUIDER": [
        ({}, "expected a GUIDER"),
        (Changed(sample=5), "a method of x is 5; expected a GUIDER"),
        (Changed(model_options=None), "the model_options of the MODEL of x are None"),
        (Changed(model_patcher=5), "the MODEL of x is 5; expected a MODEL"),
    ],
    "SAMPLER": [("euler", "expected a SAMPLER"), (Changed(sample=None), "a method of x is None; expected a SAMPLER")],
    "VAE": [(5, "expected a VAE"), (Changed(get_sd={}), "a method of x is a dict of 0; expected a VAE")],
    "PYRAMID": [("training-free", "expected a PYRAMID, the output of 'Pyramid'")],
    "LIFT": [(Opaque(), "expected a LIFT, the output of 'Pyramidal Lift from VAE'")],
    "STRING": [(5, "expected a text"), ("x" * 1001, "1001 characters.*expected a text of at most 1000")],
    "COMBO": [(None, "x is None; expected a text")],
}


@pytest.mark.parametrize(
    ("kind", "value", "words"),
    [(kind, *case) for kind, cases in WRONG.items() for case in cases],
    ids=lambda value: str(value)[:30],
)
def test_a_wrong_value_is_named_in_one_sentence(kind, value, words):
    with pytest.raises(ValueError, match=words) as caught:
        check_input("x", kind, value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


@pytest.mark.parametrize("words", UNUSUAL)
def test_a_tensor_that_cannot_be_computed_with_is_named_wherever_it_enters(words):
    change = UNUSUAL[words]
    entries = [
        ("IMAGE", change(torch.zeros(1, 2, 2, 3)), "the IMAGE at x is"),
        ("LATENT", empty(noise_mask=change(torch.ones(1, 8, 8))), "the noise mask at x is"),
        ("CONDITIONING", [[change(torch.ones(1, 2, 3)), {}]], "the embedding at x is"),
        ("SIGMAS", change(torch.ones(3)), "the SIGMAS at x is"),
    ]
    if words != "a nested tensor":  # several LATENTs, which the pyramid rejects by name
        entries.append(("LATENT", {"samples": change(VIDEO)}, "the LATENT at x is"))
    for kind, value, start in entries:
        with pytest.raises(ValueError, match=f"^{start} {words}.*; expected plain numbers such as float32$"):
            check_input("x", kind, value)
    for noise, got in ((change(VIDEO), words), (VIDEO.to(torch.complex64), "complex numbers")):
        with pytest.raises(ValueError, match=f"^the NOISE draws {got}.* for a latent of 1x16x3x8x8; connect 'RandomNoise'$"):
            full_noise(GivenNoise(noise), {}, VIDEO.shape)
    with pytest.raises(
        ValueError, match="^the positive conditioning holds a tensor without plain numbers in 'mask'; encode it"
    ):
        check_finite_conds({"positive": [{"mask": [change(torch.ones(2))]}]})


def test_valid_values_pass():
    for kind, value in (
        ("LATENT", empty(batch=2, batch_index=[0, 7], noise_mask=torch.ones(1, 8, 8))),
        ("CONDITIONING", prompt()),
        ("SIGMAS", torch.linspace(1, 0, MAX_LEVELS)),
        ("IMAGE", torch.zeros(1, 2, 2, 3)),
        ("NOISE", SeedNoise(2**64 - 1)),
        ("PYRAMID", PRESETS["plain"]),
        ("SOMETHING", Opaque()),
    ):
        check_input("x", kind, value)

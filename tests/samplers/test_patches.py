"""Pyramids of patches in ComfyUI: what the network reads, the model afterwards, files, every form of a run, refusals."""

import json
import math

import comfy.model_management
import comfy.model_patcher
import comfy.samplers
import comfy.sd
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from comfyui_graph import GivenNoise, empty, guider, prompt
from safetensors.torch import save_file

from pyramidalwan.nodes.files import PyramidalWanFromFile, PyramidalWanPatches
from pyramidalwan.nodes.sampler import PyramidalWanSampler
from pyramidalwan.pyramid.latent_shape import LatentShape
from pyramidalwan.pyramid.patches import coarse_cells, fold, lifted, to_tensors, unfold, wan_layers
from pyramidalwan.pyramid.schedules import levels_to_metadata, merge_schedule, stage_levels
from pyramidalwan.pyramid.stages import METADATA_KEY, PRESETS, PyramidSpec
from pyramidalwan.samplers.any_sampler import pyramidal_model
from pyramidalwan.samplers.comfyui import patch_files
from pyramidalwan.samplers.comfyui.lora_file import load_lora_file
from pyramidalwan.samplers.comfyui.patch_files import patch_set
from pyramidalwan.samplers.comfyui.stage_lora import StageLora, add_stage_lora
from pyramidalwan.samplers.comfyui.stage_model import bind_stage
from pyramidalwan.samplers.comfyui.stage_patches import attach_patches, patch_stages
from pyramidalwan.samplers.hand_wired import stage_model, stage_sigmas, stage_start, stage_transition
from pyramidalwan.samplers.noise import SeedNoise
from pyramidalwan.samplers.run import PyramidRun
from pyramidalwan.samplers.schedule import levels_by_stage
from pyramidalwan.samplers.supported_samplers import FEW_STEP, make_sampler
from tiny_wan.checkpoints import i2v_state_dict, t2v_state_dict
from tiny_wan.variants import VARIANTS, state_dict

PPF = PRESETS["ppf"]
SIZE = LatentShape(5, 16, 16)


def tensors_of(weights, spec=PPF, seed=0):
    """Return random layers for the coarse stages of a checkpoint: the initial ones with noise of their own."""
    generator = torch.Generator().manual_seed(seed)
    tensors = to_tensors([lifted(wan_layers(weights), cell) for cell in coarse_cells(spec)])
    return {name: value + 0.02 * torch.randn(value.shape, generator=generator) for name, value in tensors.items()}


def patches_of(weights, spec=PPF, name="ppf.safetensors", **metadata):
    return patch_set(tensors_of(weights, spec), {**spec.to_metadata(), **metadata}, name)


@pytest.fixture(scope="module")
def ppf(t2v_model):
    return attach_patches(t2v_model, patches_of(t2v_state_dict()))[0]


@pytest.fixture(scope="module")
def ppf_i2v(i2v_model):
    return attach_patches(i2v_model, patches_of(i2v_state_dict()))[0]


def sample(model, name="euler", steps="2-2-1", latent=None, positive=None, **changes):
    values = dict(
        seed=5, steps=steps, cfg="1", sampler_name=name, denoise=1.0, grid="auto", shift=5.0, start_stage="auto",
        end_stage="auto", pyramid=None,
    )  # fmt: skip
    inputs = (model, positive or prompt(1), prompt(2), latent or empty())
    return PyramidalWanSampler.execute(*inputs, **{**values, **changes}).args[0]["samples"]


def tokens_read(model, run):
    """Return the number of tokens in every call of the network's first block."""
    seen = []
    block = model.model.diffusion_model.blocks[0]
    hook = block.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[1]))
    try:
        run()
    finally:
        hook.remove()
    return seen


def grids(steps=(2, 2, 1), size=SIZE):
    counts = [math.prod(grid) // 4 for grid in PPF.grids(size)]
    return [count for count, own in zip(counts, steps, strict=True) for _ in range(own)]


@pytest.mark.parametrize("name", ["euler", FEW_STEP])
def test_every_stage_reads_its_token_grid(ppf, name):
    assert tokens_read(ppf, lambda: sample(ppf, name)) == grids() == [8, 8, 48, 48, 320]


@pytest.mark.parametrize("kind, channels", [("t2v", 16), ("i2v", 36)])
def test_a_stage_is_the_network_on_the_cells_of_the_latent(request, kind, channels):
    """Against a convolution with a large stride and a linear layer with the weights of the file, on all input channels."""
    stage, generator = PPF.stages(SIZE)[0], torch.Generator().manual_seed(0)
    x, context = torch.randn(1, channels, *SIZE, generator=generator), torch.randn(1, 7, 4096, generator=generator)
    model, weights = request.getfixturevalue(f"{kind}_model"), {"t2v": t2v_state_dict, "i2v": i2v_state_dict}[kind]()
    comfy.model_management.load_models_gpu([model])
    network, tensors = model.model.diffusion_model, tensors_of(weights)
    kernel, rows = tensors["patch_stages.0.patch_embedding.weight"], tensors["patch_stages.0.head.weight"]
    still = torch.cat([x[:, :, :1].expand(-1, -1, 3, -1, -1), x], dim=2)
    tokens = torch.nn.functional.conv3d(still, kernel, tensors["patch_stages.0.patch_embedding.bias"], stride=(4, 8, 8))
    seen = {}
    hook = network.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.update(tokens=inputs[0]))
    head = network.head.register_forward_pre_hook(lambda _, inputs: seen.update(last=inputs))
    read = comfy.model_patcher.comfy.patcher_extension.WrapperExecutor.new_class_executor(
        network._forward, network, [patches_of(weights).stages[stage.cell].call]
    )
    out = read.execute(x, torch.tensor([900.0]), context, None, None, {})
    hook.remove(), head.remove()
    assert torch.allclose(seen["tokens"], tokens.flatten(2).transpose(1, 2), atol=1e-5)
    inner = {}
    hook = network.head.head.register_forward_pre_hook(lambda _, inputs: inner.update(x=inputs[0]))
    network.head(*seen["last"])
    hook.remove()
    made = torch.nn.functional.linear(inner["x"], rows, tensors["patch_stages.0.head.bias"])
    t, y, z = (side // cell for side, cell in zip((8, 16, 16), (4, 8, 8), strict=True))
    full = made.reshape(1, t, y, z, 4, 8, 8, 16).permute(0, 7, 1, 4, 2, 5, 3, 6).reshape(1, 16, 8, 16, 16)
    assert torch.allclose(out[:, :, 1:], full[:, :, 4:], atol=1e-5)
    assert torch.allclose(out[:, :, :1], full[:, :, :4].mean(2, keepdim=True), atol=1e-5)


def test_the_initial_layers_read_averages_like_the_network_itself(t2v_model):
    """Without trained layers a low stage is Wan on the averages, spread over the cells again."""
    layers = patch_set(
        to_tensors([lifted(wan_layers(t2v_state_dict()), (2, 2, 2))]), {}, "x"
    ).stages[(2, 2, 2)]  # fmt: skip
    comfy.model_management.load_models_gpu([t2v_model])
    network, generator = t2v_model.model.diffusion_model, torch.Generator().manual_seed(0)
    x, context = torch.randn(1, 16, *SIZE, generator=generator), torch.randn(1, 7, 4096, generator=generator)
    arguments = (torch.tensor([700.0]), context, None, None, {})
    executor = comfy.model_patcher.comfy.patcher_extension.WrapperExecutor
    ours = executor.new_class_executor(network._forward, network, [layers.call]).execute(x, *arguments)
    small = fold(x, (2, 2, 2)).unflatten(1, (16, 8)).mean(2)
    expected = network(small, *arguments).repeat_interleave(8, 1)
    assert torch.allclose(ours, unfold(expected, (2, 2, 2)), atol=1e-5)


def test_a_run_loads_the_model_once_and_leaves_it_as_it_was(ppf, monkeypatch):
    comfy.model_management.unload_all_models()
    loads, network = [], ppf.model.diffusion_model
    before = {name: value.clone() for name, value in network.state_dict().items()}
    attributes = [dict(vars(network)), dict(vars(network.head))]
    load = comfy.model_patcher.ModelPatcher.load
    monkeypatch.setattr(comfy.model_patcher.ModelPatcher, "load", lambda own, *a, **k: loads.append(1) or load(own, *a, **k))
    for _ in range(3):
        sample(ppf)
    assert len(loads) == 1
    assert [set(vars(network)), set(vars(network.head))] == [set(own) for own in attributes]
    assert network.out_dim == attributes[0]["out_dim"] and "patch_embedding" not in vars(network)
    after = network.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[name], value) for name, value in before.items())


def test_an_error_in_the_network_leaves_nothing_behind(ppf, t2v_model):
    def fail(*_):
        raise RuntimeError("out of memory")

    network = t2v_model.model.diffusion_model
    names = [set(vars(network)), set(vars(network.head)), network.out_dim]
    plain = sample(t2v_model, pyramid=PRESETS["plain"], steps="2")
    hook = network.blocks[0].register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory") as caught:
        sample(ppf)
    hook.remove()
    assert [set(vars(network)), set(vars(network.head)), network.out_dim] == names
    assert caught.tb  # until here its frames live, whose collection would end generators that were left open
    assert not ppf.get_wrappers(WrappersMP.DIFFUSION_MODEL, "pyramidal_wan_patches")
    assert torch.equal(sample(t2v_model, pyramid=PRESETS["plain"], steps="2"), plain)


@pytest.mark.parametrize("name", ["euler", "heun", "dpmpp_sde", "uni_pc", "lcm", FEW_STEP, "dpmpp_2m"])
def test_every_kind_of_sampler_runs(ppf, name):
    video = sample(ppf, name, steps="2-2-2")
    assert video.shape == (1, 16, *SIZE) and video.isfinite().all() and video.std() > 0.1


@pytest.mark.one_version
@pytest.mark.parametrize("name", [name for name in comfy.samplers.SAMPLER_NAMES if name != "dpm_adaptive"])
def test_on_gaussian_data_every_sampler_ends_where_it_ends_without_a_pyramid(ppf, t2v_model, name):
    """Every stage follows the ordinary flow at full size; where a multistep sampler starts anew it may only come closer."""
    levels = stage_levels(PPF, (8, 8, 16))
    plain = PRESETS["plain"], [tuple(merge_schedule(levels))]
    staged, whole = _gaussian_deviation(ppf, name, PPF, levels), _gaussian_deviation(t2v_model, name, *plain)
    assert staged == pytest.approx(whole, abs=0.02) or abs(staged - 0.4) < abs(whole - 0.4)


def _gaussian_deviation(model, name, spec, levels):
    """Return the standard deviation that a run on white data of deviation 0.4 ends with."""

    def answer(executor, x, timestep, context, clip_fea=None, time_dim_concat=None, transformer_options=None, **kwargs):
        sigma = transformer_options["sigmas"].flatten()[0]
        return x * (sigma - (1 - sigma) * 0.16) / (sigma**2 + (1 - sigma) ** 2 * 0.16)

    model = model.clone()
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "gaussian_data", answer)
    noise = GivenNoise(torch.randn(1, 16, *SIZE, generator=torch.Generator().manual_seed(0)), seed=3)
    run = PyramidRun(guider(model), noise, make_sampler(name), levels, spec)
    return float(model.model.process_latent_in(run.sample(empty()).output["samples"]).std())


@pytest.mark.parametrize("name", ["euler", "heun", "lcm"])
def test_the_staged_run_is_one_run_of_the_ordinary_sampler(ppf, name):
    """'Pyramidal Model' in a sampler of ComfyUI, at the levels of the stages, makes the video of 'Pyramidal Sampler'."""
    levels = stage_levels(PPF, (2, 2, 1))
    sigmas = torch.tensor(merge_schedule(levels))
    reports = []
    model = pyramidal_model(ppf, None, reports.append)
    seen = tokens_read(ppf, lambda: reports.append(_stock(model, name, sigmas)))
    assert reports[0].startswith("low 128x128 in patches of 4x8x8 · 2 steps; mid 128x128 in patches of 2x4x4 · 2 steps; high")
    if name == "euler":
        assert seen == grids()
        assert torch.allclose(reports[1], sample(ppf), atol=2e-4)
    assert reports[1].isfinite().all()


def _stock(model, name, sigmas, latent=None, positive=None):
    own = guider(model, positive=positive)
    latent = latent or empty()
    noise = SeedNoise(5).generate_noise(latent)
    mask = latent.get("noise_mask")
    return own.sample(noise, latent["samples"], make_sampler(name), sigmas, denoise_mask=mask, seed=5)


@pytest.mark.parametrize(
    "levels, expected", [([0.9, 0.8, 0.4, 0.0], [48, 320, 320]), ([1.0, 0.97, 0.9], [8, 8]), ([0.96, 0.7, 0.5], [8, 320])]
)
def test_a_partial_run_of_an_ordinary_sampler_reads_the_patches_of_its_levels(ppf, levels, expected):
    model = pyramidal_model(ppf, None, lambda text: None)
    latent = {"samples": torch.randn(1, 16, *SIZE, generator=torch.Generator().manual_seed(1))}
    seen = tokens_read(ppf, lambda: _stock(model, "euler", torch.tensor(levels), latent))
    assert seen == expected


def test_levels_belong_to_stages_without_moving():
    sigmas = torch.tensor([1.0, 0.97, 0.95, 0.9, 0.5, 0.0])
    low, mid, high = levels_by_stage(sigmas, PPF)
    assert merge_schedule([low, mid, high]) == sigmas.tolist()
    assert [len(low), len(mid), len(high)] == [3, 3, 2]
    assert levels_by_stage(torch.tensor([0.5, 0.0]), PPF) == [(), (), (0.5, 0.0)]


def test_an_image_folds_with_the_noise(ppf_i2v):
    generator = torch.Generator().manual_seed(3)
    image = torch.randn(1, 16, *SIZE, generator=generator)
    cond = {"concat_latent_image": image, "concat_mask": torch.ones(1, 4, 5, 16, 16)}
    one = sample(ppf_i2v, positive=prompt(1, **cond))
    other = sample(ppf_i2v, positive=prompt(1, **{**cond, "concat_latent_image": image.flip(-1)}))
    seen = tokens_read(ppf_i2v, lambda: sample(ppf_i2v, positive=prompt(1, **cond)))
    assert seen == grids() and one.isfinite().all() and (one - other).abs().max() > 1e-3


def test_a_mask_keeps_the_video_exactly(ppf):
    video = torch.randn(1, 16, *SIZE, generator=torch.Generator().manual_seed(4))
    mask = torch.zeros(1, 1, *SIZE)
    mask[..., 3:9, 5:11] = 1
    result = sample(ppf, latent={"samples": video, "noise_mask": mask})
    kept = mask.expand_as(video) == 0
    assert torch.allclose(result[kept], video[kept], atol=1e-5) and (result - video)[~kept].abs().max() > 0.1


def test_a_draft_is_finished_with_the_result_of_one_run(ppf):
    draft = PyramidalWanSampler.execute(
        ppf, prompt(1), prompt(2), empty(), 5, "2-2-1", "1", "euler", 1.0, "auto", 5.0, "auto", "mid"
    ).args[0]  # fmt: skip
    assert draft["samples"].shape == (1, 16, *SIZE)
    assert torch.allclose(sample(ppf, latent=draft), sample(ppf), atol=1e-5)


def test_a_run_wired_by_hand_is_the_same(ppf):
    noise, sigmas = SeedNoise(5), torch.tensor(merge_schedule(stage_levels(PPF, (2, 2, 1))))
    latent, own = stage_start(noise, empty(), PPF)
    for name in ("low", "mid", "high"):
        bound = guider(stage_model(ppf, PPF, name))
        samples = bound.sample(
            own.generate_noise(latent), latent["samples"], make_sampler("euler"), stage_sigmas(sigmas, PPF, name), seed=own.seed
        )
        latent = {**latent, "samples": samples}
        if name != "high":
            latent, own = stage_transition(latent, noise, PPF, name)
    assert torch.allclose(latent["samples"], sample(ppf), atol=1e-4)


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Put a checkpoint and a LoRA with layers for patches where the nodes look for files."""
    import folder_paths

    for folder in ("diffusion_models", "loras"):
        (tmp_path / folder).mkdir()
        paths = ([str(tmp_path / folder)], {".safetensors"})
        monkeypatch.setitem(folder_paths.folder_names_and_paths, folder, paths)
    weights = t2v_state_dict()
    layers = tensors_of(weights)
    metadata = PPF.to_metadata()
    save_file({**weights, **layers}, tmp_path / "diffusion_models/ppf.safetensors", metadata)
    save_file(weights, tmp_path / "diffusion_models/plain.safetensors", metadata)
    lora = {"blocks.0.ffn.0.lora_up.weight": torch.ones(256, 2), "blocks.0.ffn.0.lora_down.weight": torch.ones(2, 128) * 0.01}
    named = {f"diffusion_model.{name}": value.contiguous() for name, value in {**lora, **layers}.items()}
    save_file(named, tmp_path / "loras/ppf.safetensors", metadata)
    return tmp_path


def test_the_node_attaches_the_layers_of_a_file(files, t2v_model, ppf):
    (model,) = PyramidalWanPatches.execute(t2v_model, "diffusion_models/ppf.safetensors").args
    assert torch.equal(sample(model), sample(ppf))
    (spec,) = PyramidalWanFromFile.execute("diffusion_models/ppf.safetensors").args
    assert spec == PPF or spec.to_json() == PPF.to_json()
    with pytest.raises(ValueError, match=r"'diffusion_models/plain.safetensors' has no layers for larger patches"):
        PyramidalWanPatches.execute(t2v_model, "diffusion_models/plain.safetensors")


def test_a_lora_file_brings_its_layers(files, t2v_model, ppf):
    lora = StageLora(load_lora_file(files / "loras/ppf.safetensors", "ppf.safetensors"), 1.0, "all")
    model, report = add_stage_lora(t2v_model, lora)
    expected = "'ppf.safetensors': 1 of 1 modules applied; 'ppf.safetensors': layers for patches of 4x8x8, 2x4x4"
    assert report.startswith(expected)
    both, _ = add_stage_lora(ppf, StageLora(lora.file, 1.0, "all"))
    assert torch.equal(sample(model), sample(both)) and (sample(model) - sample(ppf)).abs().max() > 1e-3
    staged = sample(model)
    sigmas = torch.tensor(merge_schedule(stage_levels(PPF, (2, 2, 1))))
    assert torch.allclose(_stock(pyramidal_model(model, None, lambda text: None), "euler", sigmas), staged, atol=2e-4)
    again = guider(pyramidal_model(model, None, lambda text: None))
    carried = again.model_patcher
    again.sample(SeedNoise(5).generate_noise(empty()), empty()["samples"], make_sampler("euler"), sigmas, seed=5)
    assert again.model_patcher is carried
    partial, _ = add_stage_lora(t2v_model, StageLora(lora.file, 1.0, "low"))
    with pytest.raises(ValueError, match="the LoRA 'ppf.safetensors' is set to stages 'low', but 'Pyramidal Model'"):
        _stock(pyramidal_model(partial, None, lambda text: None), "euler", sigmas)


def test_a_checkpoint_that_comfyui_remembers_needs_no_node(files, ppf):
    path = files / "diffusion_models/ppf.safetensors"
    model = comfy.sd.load_diffusion_model(str(path))
    if getattr(model, "cached_patcher_init", None) is None:
        model.cached_patcher_init = (comfy.sd.load_diffusion_model, (str(path), {}))
    assert torch.allclose(sample(model), sample(ppf), atol=1e-5)
    path.unlink()
    assert list(patch_stages(model.clone())) == [(4, 4, 4), (2, 2, 2)]  # read once while the model lives


def test_no_other_tensor_of_a_checkpoint_is_read(files, monkeypatch):
    read = []
    monkeypatch.setattr(patch_files, "patch_set", lambda tensors, *_: read.extend(tensors))
    patch_files.read_patches(files / "diffusion_models/ppf.safetensors", "ppf")
    assert sorted(read) == sorted(tensors_of(t2v_state_dict()))


def test_layers_of_several_files_act_together_and_the_last_comes_first(t2v_model, ppf):
    """One file per stage, as the training exports LoRAs of a stage each; then a file with other layers for one of them."""
    tensors = tensors_of(t2v_state_dict())
    model = t2v_model
    for stage in ("0", "1"):
        own = {name: value for name, value in tensors.items() if name.startswith(f"patch_stages.{stage}.")}
        model, _ = attach_patches(model, patch_set(own, PPF.to_metadata(), stage))
    assert torch.equal(sample(model), sample(ppf))
    newer = patch_set(own, PPF.to_metadata(), "newer")
    stages = patch_stages(attach_patches(ppf, newer)[0])
    assert stages[2, 2, 2] is newer.stages[2, 2, 2] and stages[4, 4, 4] is patch_stages(ppf)[4, 4, 4]


def test_damaged_files_of_layers_are_one_sentence():
    tensors = tensors_of(t2v_state_dict())
    tensors["patch_stages.1.head.bias"][3] = torch.inf
    with pytest.raises(ValueError, match="'x' holds NaN or infinity: its patch_stages.1.head.bias"):
        patch_set(tensors, PPF.to_metadata(), "x")
    with pytest.raises(ValueError, match="^'x': .*the pyramid spec"):
        patch_set(tensors_of(t2v_state_dict()), {METADATA_KEY: "{"}, "x")


def test_a_distilled_model_runs_at_its_levels(t2v_model):
    levels = [(1.0, 0.97), (0.95, 0.9), (0.8,)]
    student = attach_patches(t2v_model, patches_of(t2v_state_dict(), **levels_to_metadata(levels)))[0]
    seen = []
    run = guider(pyramidal_model(student, None, lambda text: None))
    noise = SeedNoise(5).generate_noise(empty())
    stock = comfy.samplers.calculate_sigmas(student.get_model_object("model_sampling"), "simple", 5)
    run.sample(noise, empty()["samples"], make_sampler("lcm"), stock, seed=5, callback=lambda *_: None)
    probe = student.clone()
    probe.add_wrapper_with_key(
        WrappersMP.APPLY_MODEL, "probe", lambda executor, x, t, *a, **k: seen.append(float(t[0])) or executor(x, t, *a, **k)
    )
    _stock(pyramidal_model(probe, None, lambda text: None), "lcm", stock)
    assert seen == pytest.approx([level for stage in levels for level in stage], abs=1e-6)
    with pytest.raises(ValueError, match="was distilled to 5 steps in all, got 4; set the sampler's steps to 5"):
        four = comfy.samplers.calculate_sigmas(student.get_model_object("model_sampling"), "simple", 4)
        _stock(pyramidal_model(student, None, lambda text: None), "lcm", four)


@pytest.fixture
def dual_guider():
    custom_sampler = pytest.importorskip("comfy_extras.nodes_custom_sampler")
    if not hasattr(custom_sampler, "Guider_DualModel"):
        pytest.skip("this ComfyUI has no guider with two models")
    return custom_sampler.Guider_DualModel


@pytest.mark.parametrize("form", ["pyramidal model", "stages", "wired by hand"])
def test_a_model_for_the_negative_prompt_reads_with_its_own_layers(t2v_model, ppf, dual_guider, form):
    """ComfyUI's guider with two models calls both with one set of options."""
    network = {name: value + 0.01 for name, value in t2v_state_dict().items()}
    negative = comfy.sd.load_diffusion_model_state_dict(network)
    other, _ = attach_patches(negative, patch_set(tensors_of(t2v_state_dict(), seed=1), PPF.to_metadata(), "other"))
    levels = [(1.0, 0.95), (0.9, 0.8), (0.4, 0.0)]
    read = {"positive": [], "negative": []}
    networks = zip(read.values(), (ppf, negative), strict=True)
    hooks = [
        model.model.diffusion_model.blocks[0].register_forward_pre_hook(lambda _, inputs, own=own: own.append(inputs[0]))
        for own, model in networks
    ]
    noise = SeedNoise(5).generate_noise(empty())
    if form == "stages":
        PyramidRun(two_models(dual_guider, ppf, other), SeedNoise(5), make_sampler("euler"), levels, PPF).sample(empty())
    elif form == "pyramidal model":
        both = two_models(dual_guider, pyramidal_model(ppf, None, lambda text: None), other)
        both.sample(noise, empty()["samples"], make_sampler("euler"), torch.tensor([1.0, 0.9, 0.4, 0.0]), seed=5)
    else:
        for name, x in zip(("low", "mid", "high"), (noise, torch.randn_like(noise), torch.randn_like(noise)), strict=True):
            both = two_models(dual_guider, stage_model(ppf, PPF, name), stage_model(other, PPF, name))
            sigmas = stage_sigmas(torch.tensor(merge_schedule(levels)), PPF, name)
            both.sample(x, empty()["samples"], make_sampler("euler"), sigmas, seed=5)
    [hook.remove() for hook in hooks]
    assert [tokens.shape[1] for tokens in read["negative"]] == [tokens.shape[1] for tokens in read["positive"]] == [8, 48, 320]
    for own, model in zip(read.values(), (ppf, other), strict=True):
        expected = patch_stages(model)[4, 4, 4].embed(fold(noise, (4, 4, 4))).flatten(2).transpose(1, 2)
        assert torch.allclose(own[0].cpu(), expected, atol=1e-5)


def two_models(dual_guider, positive, negative):
    both = dual_guider(positive, negative)
    both.set_conds(prompt(1), prompt(2))
    both.set_cfg(3.0)
    return both


@pytest.mark.parametrize("negative", ["unbound", "another stage", "another pyramid"])
def test_a_model_for_the_negative_prompt_that_is_not_bound_to_the_stage_is_refused(t2v_model, ppf, dual_guider, negative):
    """ComfyUI would call it at levels of another stage, or with layers that it lacks."""
    models = {
        "unbound": ppf,
        "another stage": stage_model(ppf, PPF, "mid"),
        "another pyramid": stage_model(t2v_model, PRESETS["pyramidal-wan"], "low"),
    }
    both = two_models(dual_guider, stage_model(ppf, PPF, "low"), models[negative])
    sigmas = stage_sigmas(torch.tensor(merge_schedule(stage_levels(PPF, (2, 2, 1)))), PPF, "low")
    with pytest.raises(ValueError, match="negative prompt is not bound to stage 'low'.*a 'Pyramidal Stage Model' of its own"):
        both.sample(SeedNoise(5).generate_noise(empty()), empty()["samples"], make_sampler("euler"), sigmas, seed=5)


def test_what_is_not_a_number_is_refused_behind_pyramidal_model(t2v_model, ppf):
    levels, damaged = torch.tensor([1.0, 0.9, 0.4, 0.0]), tensors_of(t2v_state_dict())
    with pytest.raises(ValueError, match="the positive conditioning is an embedding of size 1x7x9, but this MODEL takes"):
        _stock(pyramidal_model(ppf, None, lambda text: None), "euler", levels, positive=[[torch.zeros(1, 7, 9), {}]])
    patches = patch_set(damaged, PPF.to_metadata(), "damaged")
    patches.stages[4, 4, 4].call = lambda executor, x, *args, **kwargs: x * torch.nan
    model, _ = attach_patches(t2v_model, patches)
    with pytest.raises(ValueError, match="the prediction of the run holds NaN or infinity"):
        _stock(pyramidal_model(model, None, lambda text: None), "euler", levels)


@pytest.mark.parametrize("name", ["node", "model", "stage"])
def test_missing_layers_are_one_sentence(t2v_model, name):
    runs = {
        "node": lambda: sample(t2v_model, pyramid=PPF),
        "model": lambda: _stock(pyramidal_model(t2v_model, PPF, lambda text: None), "euler", torch.tensor([1.0, 0.5, 0.0])),
        "stage": lambda: stage_model(t2v_model, PPF, "low"),
    }
    with pytest.raises(ValueError, match="in patches of 4x8x8.*, but this MODEL has no layers for larger patches; attach"):
        runs[name]()
    with pytest.raises(ValueError, match="has no layers for patches of 4x8x8; attach them with 'Pyramidal Patches from File'"):
        bind_stage(t2v_model, PPF.stages(SIZE)[0], 3)
    two_stages = PyramidSpec(**{**vars(PPF), "boundaries": (0.9,), "downsample_axes": ("THW",)})
    some = attach_patches(t2v_model, patches_of(t2v_state_dict(), two_stages))[0]
    with pytest.raises(ValueError, match="was trained for a different pyramid"):
        sample(some, pyramid=PPF)


def test_each_stage_needs_the_layers_of_its_own_patches_only(t2v_model, ppf):
    """A model per stage, as for Wan 2.2's experts, and stages that are left out."""
    mid = {name: value for name, value in tensors_of(t2v_state_dict()).items() if not name.startswith("patch_stages.0.")}
    finer, _ = attach_patches(t2v_model, patch_set(mid, PPF.to_metadata(), "mid"))
    whole = sample(finer, first_stage_model=ppf)
    assert torch.equal(whole, sample(ppf))
    assert torch.equal(sample(finer, steps="0-2-1"), sample(ppf, steps="0-2-1"))
    with pytest.raises(ValueError, match="in patches of 4x8x8, but this MODEL has layers for 2x4x4 only"):
        sample(finer)
    both = guider(ppf)
    both.uncond_model_patcher = t2v_model
    with pytest.raises(ValueError, match="in patches of 4x8x8, but this MODEL has no layers for larger patches"):
        PyramidRun(both, SeedNoise(5), make_sampler("euler"), stage_levels(PPF, (1, 1, 1)), PPF).sample(empty())


def test_layers_of_another_size_are_one_sentence(t2v_model, i2v_model):
    with pytest.raises(ValueError, match="is for a model of another size: its patches have width 128, 36 input and 16 output"):
        attach_patches(t2v_model, patches_of(i2v_state_dict()))


@pytest.mark.parametrize("variant, words", [("vace", "network is VaceWanModel"), ("fun_control_2.2", "with a reference frame")])
def test_networks_that_read_more_than_the_latent_are_refused(variant, words):
    weights = state_dict(VARIANTS[variant])
    model = comfy.sd.load_diffusion_model_state_dict(dict(weights))
    with pytest.raises(ValueError, match=f"need Wan's text-to-video or image-to-video network; this MODEL's.*{words}"):
        attach_patches(model, patches_of(weights))


def test_inputs_that_cannot_be_read_in_patches_are_refused(ppf):
    def context(length):
        model = ppf.clone()
        handler = type("Handler", (), {"context_length": length})()
        model.model_options["context_handler"] = handler
        return model

    with pytest.raises(ValueError, match="windows of 4 latent frames are not made of whole patches of 4 frames.*such as 5"):
        sample(context(4), latent=empty(frames=9))
    beside = prompt(1, time_dim_concat=torch.zeros(1, 16, 1, 16, 16))
    with pytest.raises(ValueError, match="frames that are read beside the video, which patches of several sizes cannot"):
        sample(ppf, positive=beside)
    levels = torch.tensor([1.0, 0.9, 0.4, 0.0])
    with pytest.raises(ValueError, match="windows of 4 latent frames are not made of whole patches of 4 frames.*such as 5"):
        _stock(pyramidal_model(context(4), None, lambda text: None), "euler", levels, empty(frames=9))
    with pytest.raises(ValueError, match="frames that are read beside the video, which patches of several sizes cannot"):
        _stock(pyramidal_model(ppf, None, lambda text: None), "euler", levels, positive=beside)
    with pytest.raises(ValueError, match="multiples of 64"):
        sample(ppf, latent=empty(height=20))


def test_the_lift_and_other_nodes_of_latents_are_refused(ppf):
    from pyramidalwan.samplers.analysis import calibrate
    from pyramidalwan.samplers.lift.video_lift import VideoLift
    from pyramidalwan.samplers.schedule import levels_for

    with pytest.raises(ValueError, match="a lift enlarges latents, but those of a pyramid of patches keep their size"):
        sample(ppf, lift=VideoLift("x", 16, {"THW": None}))
    with pytest.raises(ValueError, match="a lift enlarges latents, but those of a pyramid of patches keep their size"):
        sample(ppf, lift=VideoLift("pixels", 16, everywhere=lambda latent, size: latent))
    assert torch.equal(sample(ppf, lift=VideoLift("none", 16)), sample(ppf))
    with pytest.raises(ValueError, match="no boundary can be measured"):
        calibrate({"samples": torch.ones(1, 16, *SIZE)}, PPF, 0.1)
    with pytest.raises(ValueError, match="cannot read larger patches"):
        levels_for(PPF, "2-2-1", "distilled", 5.0)
    spec, levels = levels_for(PPF, "2-2-1", "auto", 5.0)
    assert spec == PPF and [stage[-1] for stage in levels] == [0.95, 0.8, 0.0]
    assert json.loads(spec.to_json())["coarse"] == "patches"

"""LoRAs per stage: every key format, run-time injection against patches, and a model that is left as it was."""

import gc

import comfy.lora
import comfy.model_management
import comfy.sd
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from comfyui_graph import empty, guider, prompt
from safetensors.torch import save_file

from pyramidalwan.nodes.files import PyramidalWanFromFile, PyramidalWanStageLoRA
from pyramidalwan.nodes.sampler import PyramidalWanSampler
from pyramidalwan.nodes.stages import PyramidalWanStageModel
from pyramidalwan.pyramid.latent_shape import LatentShape
from pyramidalwan.pyramid.schedules import levels_to_metadata
from pyramidalwan.pyramid.stage_names import stage_set
from pyramidalwan.pyramid.stages import PRESETS, PyramidSpec
from pyramidalwan.samplers.comfyui import lora_file, stage_lora
from pyramidalwan.samplers.comfyui.lora_file import load_lora_file
from pyramidalwan.samplers.comfyui.stage_lora import StageLora, add_stage_lora
from pyramidalwan.samplers.comfyui.stage_model import bind_stage
from pyramidalwan.samplers.supported_samplers import make_sampler

WAN = PRESETS["pyramidal-wan"]
MODULES = {  # ComfyUI's name: (diffusers' name, out, in)
    "blocks.0.self_attn.q": ("blocks.0.attn1.to_q", 128, 128),
    "blocks.0.self_attn.o": ("blocks.0.attn1.to_out.0", 128, 128),
    "blocks.1.cross_attn.v": ("blocks.1.attn2.to_v", 128, 128),
    "blocks.1.ffn.0": ("blocks.1.ffn.net.0.proj", 256, 128),
    "blocks.0.ffn.2": ("blocks.0.ffn.net.2", 128, 256),
    "text_embedding.0": ("condition_embedder.text_embedder.linear_1", 128, 4096),
}
RANKS = dict(zip(MODULES, (4, 8, 2, 4, 4, 1), strict=True))
ALPHAS = dict(zip(MODULES, (4.0, 2.0, 2.0, None, 1.0, 1.0), strict=True))


def low_rank(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        module: (
            torch.randn(out, RANKS[module], generator=generator) * 0.3,
            torch.randn(RANKS[module], into, generator=generator) * 0.1,
        )
        for module, (_, out, into) in MODULES.items()
    }


def file_tensors(style, seed=0):
    names = {
        "comfyui": lambda m: (f"diffusion_model.{m}", "lora_up.weight", "lora_down.weight"),
        "diffusers": lambda m: (f"transformer.{MODULES[m][0]}", "lora_B.weight", "lora_A.weight"),
        "peft": lambda m: (f"base_model.model.{m}", "lora_B.default.weight", "lora_A.default.weight"),
        "kohya": lambda m: (f"lora_unet_{m.replace('.', '_')}", "lora_up.weight", "lora_down.weight"),
        "kohya__": lambda m: (f"lora_unet__{m.replace('.', '_')}", "lora_up.weight", "lora_down.weight"),
        "bare": lambda m: (m, "lora_B.weight", "lora_A.weight"),
    }[style]
    tensors = {}
    for module, (up, down) in low_rank(seed).items():
        name, up_name, down_name = names(module)
        tensors |= {f"{name}.{up_name}": up, f"{name}.{down_name}": down}
        if ALPHAS[module] is not None:
            tensors[f"{name}.alpha"] = torch.tensor(ALPHAS[module])
    return tensors


@pytest.fixture
def write(tmp_path):
    def write(tensors, name="x.safetensors", metadata=None):
        save_file({key: value.contiguous() for key, value in tensors.items()}, tmp_path / name, metadata)
        return load_lora_file(tmp_path / name, name)

    return write


def sample(model, steps="2-2-1", **changes):
    values = dict(
        seed=5, steps=steps, cfg="1", sampler_name="euler", denoise=1.0, grid="auto", shift=5.0,
        start_stage="auto", end_stage="auto", pyramid=WAN,
    )  # fmt: skip
    return PyramidalWanSampler.execute(model, prompt(1), prompt(2), empty(), **{**values, **changes}).args[0]["samples"]


def merged(model, seed=0, strength=1.0):
    """The model with the LoRA in its weights, by ComfyUI's own ``add_patches``."""
    clone = model.clone()
    patches = {}
    for module, (up, down) in low_rank(seed).items():
        alpha = ALPHAS[module]
        scale = 1.0 if alpha is None else alpha / RANKS[module]
        patches[f"diffusion_model.{module}.weight"] = ("diff", (up @ down * scale,))
    assert len(clone.add_patches(patches, strength)) == len(MODULES)
    return clone


@pytest.mark.parametrize("style", ["comfyui", "diffusers", "peft", "kohya", "kohya__", "bare"])
def test_every_key_format_with_its_own_ranks_and_alphas(t2v_model, write, style):
    lora, report = add_stage_lora(t2v_model, StageLora(write(file_tensors(style)), 0.8, "all"))
    assert report == "'x.safetensors': 6 of 6 modules applied"
    wanted = sample(merged(t2v_model, strength=0.8))
    torch.testing.assert_close(sample(lora), wanted, atol=2e-4, rtol=1e-4)
    assert (wanted - sample(t2v_model)).abs().max() > 0.05


@pytest.mark.parametrize(
    ("stages", "active"), [("all", (0, 1, 2)), ("low", (0,)), ("mid,high", (1, 2)), ("0, 1", (0, 1)), ("2", (2,))]
)
def test_it_acts_in_its_stages_only(t2v_model, write, stages, active):
    """Against a run in which each stage has a model of its own: merged where the LoRA acts, the base elsewhere."""
    lora, _ = add_stage_lora(t2v_model, StageLora(write(file_tensors("comfyui")), 1.0, stages))
    models = {index: merged(t2v_model) if index in active else t2v_model for index in range(3)}
    wanted = sample(models[2], middle_stage_model=models[1], first_stage_model=models[0])
    torch.testing.assert_close(sample(lora), wanted, atol=2e-4, rtol=1e-4)


def test_they_chain_and_keep_other_patches(t2v_model, write):
    style = merged(t2v_model, seed=7, strength=0.5)
    both, _ = add_stage_lora(style, StageLora(write(file_tensors("comfyui", 1), "a.safetensors"), 0.5, "all"))
    both, _ = add_stage_lora(both, StageLora(write(file_tensors("kohya", 2), "b.safetensors"), 0.7, "all"))
    wanted = style.clone()
    for seed, strength in ((1, 0.5), (2, 0.7)):
        wanted = merged(wanted, seed=seed, strength=strength)
    torch.testing.assert_close(sample(both), sample(wanted), atol=3e-4, rtol=1e-4)


def test_patches_and_injections_agree(t2v_model, write, monkeypatch):
    lora, _ = add_stage_lora(t2v_model, StageLora(write(file_tensors("comfyui")), 1.0, "low,high"))
    injected = sample(lora)
    monkeypatch.setattr(stage_lora, "streams_weights", lambda model: True)
    bound = bind_stage(lora, WAN.stages(LatentShape(5, 16, 16))[0], 3)
    assert len(bound.patches) == 6 and not bound.injections
    torch.testing.assert_close(sample(lora), injected, atol=2e-4, rtol=1e-4)


def test_a_switch_patches_no_weight_and_moves_none(t2v_model, write, monkeypatch):
    lora, _ = add_stage_lora(t2v_model, StageLora(write(file_tensors("comfyui")), 1.0, "low,high"))

    def places():
        return {name: weight.data_ptr() for name, weight in t2v_model.model.state_dict().items()}

    sample(t2v_model)
    before = places()
    sample(t2v_model)
    stay = {name: place for name, place in places().items() if place == before[name]}  # newer ComfyUI moves a few in every run
    weights = {name: weight.clone() for name, weight in t2v_model.model.state_dict().items()}
    assert len(stay) > 0.9 * len(weights)

    def same():
        now = t2v_model.model.state_dict()
        in_place = all(now[name].data_ptr() == place for name, place in stay.items())
        return in_place and all(torch.equal(now[name], weight) for name, weight in weights.items())

    patched, checked = [], []
    original = type(t2v_model).patch_weight_to_device

    def patch_weight(self, key, *args, **kwargs):
        if key in self.patches:
            patched.append(key)
        return original(self, key, *args, **kwargs)

    monkeypatch.setattr(type(t2v_model), "patch_weight_to_device", patch_weight)
    monkeypatch.setattr(comfy.model_management, "throw_exception_if_processing_interrupted", lambda: checked.append(same()))
    sample(lora)
    assert not patched and len(checked) >= 3 and all(checked) and same()


@pytest.mark.parametrize("how", ["finished", "failed", "cancelled"])
def test_the_base_model_is_left_as_it_was(t2v_model, write, monkeypatch, how):
    def base():
        latent = torch.zeros(1, 16, 5, 16, 16)
        noise = torch.randn(1, 16, 5, 16, 16, generator=torch.Generator().manual_seed(0))
        return guider(t2v_model).sample(noise, latent, make_sampler("euler"), torch.tensor([1.0, 0.5, 0.0]))

    before = base()
    lora, _ = add_stage_lora(t2v_model, StageLora(write(file_tensors("comfyui")), 1.0, "all"))
    if how == "finished":
        sample(lora)
    else:
        import latent_preview

        error = RuntimeError if how == "failed" else comfy.model_management.InterruptProcessingException

        def fail(*_):
            raise error()

        with monkeypatch.context() as patch:
            patch.setattr(latent_preview, "prepare_callback", lambda *_: fail)
            with pytest.raises(error):
                sample(lora)
    assert torch.equal(base(), before)
    del lora
    gc.collect()
    assert torch.equal(base(), before)
    assert not [m for m in t2v_model.model.modules() if "forward" in m.__dict__]


def test_a_model_that_nobody_holds_leaves_nothing_behind(t2v_model, write):
    lora, _ = add_stage_lora(t2v_model, StageLora(write(file_tensors("comfyui")), 1.0, "all"))
    sample(lora)
    gc.collect()
    assert not [m for m in t2v_model.model.modules() if "forward" in m.__dict__]


def test_a_failed_run_leaves_nothing_behind(t2v_model, write):
    """The exception keeps the stage's model in a cycle, which is collected without being ejected."""
    before = sample(t2v_model)
    lora, _ = add_stage_lora(t2v_model, StageLora(write(file_tensors("comfyui")), 1.0, "all"))

    def fail(executor, x, *args, **kwargs):
        if x.shape[-1] == 16:
            raise RuntimeError("at full size")
        return executor(x, *args, **kwargs)

    lora.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "fail", fail)
    try:
        sample(lora)
    except RuntimeError as error:
        cycle = [error]
        cycle.append(cycle)
    del lora, fail, cycle
    gc.collect()
    assert torch.equal(sample(t2v_model), before)
    assert not [m for m in t2v_model.model.modules() if "forward" in m.__dict__]


def test_forwards_of_other_packs_come_back(t2v_model, write):
    module = t2v_model.model.diffusion_model.blocks[0].self_attn.q
    own = module.forward
    module.forward = lambda x, own=own: own(x) * 1.5
    theirs = module.forward
    try:
        lora, _ = add_stage_lora(t2v_model, StageLora(write(file_tensors("comfyui")), 1.0, "all"))
        sample(lora)
        gc.collect()
        assert module.__dict__["forward"] is theirs
    finally:
        module.__dict__.pop("forward", None)


def test_convolutions_and_biases_run_beside_the_weights(t2v_model, write):
    generator = torch.Generator().manual_seed(3)
    tensors = {
        "diffusion_model.patch_embedding.lora_down.weight": torch.randn(2, 16, 1, 2, 2, generator=generator) * 0.1,
        "diffusion_model.patch_embedding.lora_up.weight": torch.randn(128, 2, 1, 1, 1, generator=generator),
        "diffusion_model.patch_embedding.diff_b": torch.randn(128, generator=generator) * 0.2,
        "diffusion_model.blocks.0.self_attn.q.diff_b": torch.randn(128, generator=generator) * 0.2,
    }
    lora, _ = add_stage_lora(t2v_model, StageLora(write(tensors), 0.9, "all"))
    wanted = t2v_model.clone()
    wanted.add_patches(comfy.lora.load_lora(tensors, comfy.lora.model_lora_keys_unet(wanted.model, {})), 0.9)
    torch.testing.assert_close(sample(lora), sample(wanted), atol=2e-4, rtol=1e-4)
    bound = bind_stage(lora, WAN.stages(LatentShape(5, 16, 16))[0], 3)
    assert not bound.patches and bound.injections


def test_other_kinds_of_patches_stay_comfyuis(t2v_model, write):
    generator = torch.Generator().manual_seed(3)
    tensors = file_tensors("comfyui") | {
        "diffusion_model.blocks.0.self_attn.norm_q.diff": torch.randn(128, generator=generator)
    }
    lora, _ = add_stage_lora(t2v_model, StageLora(write(tensors), 1.0, "low"))
    bound = bind_stage(lora, WAN.stages(LatentShape(5, 16, 16))[0], 3)
    assert list(bound.patches) == ["diffusion_model.blocks.0.self_attn.norm_q.weight"]
    wanted = merged(t2v_model)
    wanted.add_patches({"diffusion_model.blocks.0.self_attn.norm_q.weight": ("diff", (list(tensors.values())[-1],))}, 1.0)
    torch.testing.assert_close(sample(lora), sample(t2v_model, first_stage_model=wanted), atol=2e-4, rtol=1e-4)


def test_strength_zero_is_nothing_at_all(t2v_model, write):
    same, report = add_stage_lora(t2v_model, StageLora(write(file_tensors("comfyui")), 0.0, "all"))
    assert same is t2v_model and "changes nothing" in report


def test_a_file_is_read_once_until_it_changes(t2v_model, tmp_path, monkeypatch):
    path = tmp_path / "x.safetensors"
    save_file(file_tensors("comfyui"), path)
    first = load_lora_file(path, "x")
    monkeypatch.setattr(lora_file.comfy.utils, "load_torch_file", lambda *_, **__: pytest.fail("read again"))
    assert load_lora_file(path, "x") is first
    monkeypatch.undo()
    save_file(file_tensors("comfyui", 1) | {"diffusion_model.head.head.alpha": torch.tensor(1.0)}, path)
    assert load_lora_file(path, "x") is not first


def test_nothing_that_matches_is_an_error_with_examples(t2v_model, write):
    with pytest.raises(
        ValueError,
        match="nothing in the LoRA 'x.safetensors' fits.*down_blocks_0.*the model has blocks.0",
    ):
        add_stage_lora(
            t2v_model,
            StageLora(
                write(
                    {
                        "lora_unet_down_blocks_0.lora_up.weight": torch.ones(2, 2),
                        "lora_unet_down_blocks_0.lora_down.weight": torch.ones(2, 2),
                    }
                ),
                1.0,
                "all",
            ),
        )


def test_partial_matches_are_reported(t2v_model, write, caplog):
    extra = {
        "diffusion_model.blocks.9.self_attn.q.lora_up.weight": torch.ones(128, 1),
        "diffusion_model.blocks.9.self_attn.q.lora_down.weight": torch.ones(1, 128),
    }
    _, report = add_stage_lora(t2v_model, StageLora(write(file_tensors("comfyui") | extra), 1.0, "all"))
    assert report == "'x.safetensors': 6 of 7 modules applied; skipped: blocks.9.self_attn.q (not in this model)"
    assert "skipped" in caplog.text


def test_a_file_that_is_no_file(t2v_model, tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"no")
    with pytest.raises(ValueError, match="the LoRA file 'x' cannot be read"):
        load_lora_file(tmp_path / "x.safetensors", "x")


def test_the_pyramid_comes_with_the_lora(t2v_model, write):
    spec = PyramidSpec((0.9, 0.5), timestep_source="sigma")
    lora, _ = add_stage_lora(t2v_model, StageLora(write(file_tensors("comfyui"), metadata=spec.to_metadata()), 1.0, "all"))
    torch.testing.assert_close(sample(lora, pyramid=None), sample(lora, pyramid=spec), atol=0, rtol=0)
    assert torch.isfinite(sample(lora, pyramid=spec, steps="0-2-1")).all()
    with pytest.raises(ValueError, match="'x.safetensors' was trained for a different pyramid.*boundaries"):
        sample(lora, pyramid=WAN)
    with pytest.raises(ValueError, match="'x.safetensors' was trained for a different pyramid"):
        PyramidalWanStageModel.execute(lora, WAN, "low")
    other = write(file_tensors("comfyui", 1), "y.safetensors", PyramidSpec().to_metadata())
    with pytest.raises(ValueError, match="'x.safetensors' and 'y.safetensors' were trained for different pyramids: boundaries"):
        add_stage_lora(lora, StageLora(other, 1.0, "all"))


@pytest.mark.parametrize("where", ["lora", "checkpoint"])
def test_a_distilled_model_runs_at_the_levels_it_was_trained_on(t2v_model, write, tmp_path, where):
    """Uneven ones, so that no grid makes them; other steps are refused, unless a grid is asked for."""
    spec = PyramidSpec((0.9, 0.5))
    header = {**spec.to_metadata(), **levels_to_metadata([[1.0, 0.97], [0.9, 0.6], [0.5]])}
    if where == "lora":
        model, _ = add_stage_lora(t2v_model, StageLora(write(file_tensors("comfyui"), metadata=header), 1.0, "all"))
    else:
        save_file({"x": torch.ones(1)}, tmp_path / "wan.safetensors", header)
        model = t2v_model
    timestep_source = []

    def wrapper(executor, x, timestep, *args, **kwargs):
        timestep_source.append(float(timestep[0]) / 1000)
        return executor(x, timestep, *args, **kwargs)

    model = model.clone()
    if where == "checkpoint":
        model.cached_patcher_init = (None, (str(tmp_path / "wan.safetensors"), {}))
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "test", wrapper)
    sample(model, pyramid=None, steps="2-2-1", cfg="1", sampler_name="pyramid_few_step")
    assert timestep_source == pytest.approx([1.0, 0.97, 0.9, 0.6, 0.5], abs=1e-4)
    with pytest.raises(ValueError, match="was distilled for steps 2-2-1, got 4-4-4; set steps"):
        sample(model, pyramid=None, steps="4-4-4")
    assert torch.isfinite(sample(model, pyramid=None, steps="1-1-1", grid="uniform")).all()


def test_the_pyramid_of_a_file(tmp_path, monkeypatch):
    import folder_paths

    save_file(file_tensors("comfyui"), tmp_path / "with.safetensors", WAN.to_metadata())
    save_file(file_tensors("comfyui"), tmp_path / "without.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"no")
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", ([str(tmp_path)], {".safetensors"}))
    assert PyramidalWanFromFile.execute("loras/with.safetensors").args == (WAN,)
    with pytest.raises(ValueError, match="'loras/without.safetensors': the file's metadata has no 'pyramid_spec'"):
        PyramidalWanFromFile.execute("loras/without.safetensors")
    with pytest.raises(ValueError, match="'loras/broken.safetensors' is not a readable"):
        PyramidalWanFromFile.execute("loras/broken.safetensors")


def test_stage_texts():
    assert stage_set("all", 3) == {0, 1, 2} and stage_set("mid", 5) == {1, 2, 3} and stage_set("high", 1) == {0}
    assert PyramidalWanStageLoRA.validate_inputs(stages="mid,high") is True
    assert "unknown stage 'top'" in PyramidalWanStageLoRA.validate_inputs(stages="low,top")
    with pytest.raises(ValueError, match="unknown stage 'mid' in a pyramid of 2 stages"):
        stage_set("mid", 2)


def test_attention_wrappers_and_cfg_functions_of_other_packs_act_in_every_stage(t2v_model, write):
    """What attention, compile, NAG and cfg packs hang on a MODEL: overrides, wrappers, post-cfg functions, object patches."""
    from comfy.patcher_extension import WrappersMP

    seen = {"attention": set(), "wrapper": set(), "post_cfg": set()}
    model = t2v_model.clone()

    def attention(function, q, *args, **kwargs):
        seen["attention"].add(q.shape[1])
        return function(q, *args, **kwargs)

    def wrapper(executor, x, *args, **kwargs):
        seen["wrapper"].add(tuple(x.shape[2:]))
        return executor(x, *args, **kwargs)

    def post_cfg(arguments):
        seen["post_cfg"].add(tuple(arguments["denoised"].shape[2:]))
        return arguments["denoised"]

    model.model_options["transformer_options"]["optimized_attention_override"] = attention
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "other_pack", wrapper)
    model.set_model_sampler_post_cfg_function(post_cfg)
    head = t2v_model.model.diffusion_model.head
    model.add_object_patch("diffusion_model.head", head)
    lora, _ = add_stage_lora(model, StageLora(write(file_tensors("comfyui")), 1.0, "low"))
    sample(lora)
    sizes = {(2, 4, 4), (3, 8, 8), (5, 16, 16)}
    assert seen["wrapper"] == seen["post_cfg"] == sizes
    assert {frames * height * width // 4 for frames, height, width in sizes} <= seen["attention"]
    for stage in WAN.stages(LatentShape(5, 16, 16)):
        assert bind_stage(lora, stage, 3).object_patches["diffusion_model.head"] is head


def test_the_pyramid_of_a_checkpoint_where_comfyui_remembers_the_file(t2v_model, tmp_path):
    """Newer versions of ComfyUI keep (function, arguments) of the loader on the MODEL; the tested one does not."""
    spec = PyramidSpec((0.9, 0.5), timestep_source="sigma")
    save_file({"x": torch.ones(1)}, tmp_path / "wan.safetensors", spec.to_metadata())
    save_file({"x": torch.ones(1)}, tmp_path / "stock.safetensors")
    model, stock = t2v_model.clone(), t2v_model.clone()
    model.cached_patcher_init = (None, (str(tmp_path / "wan.safetensors"), {}))
    stock.cached_patcher_init = (None, (str(tmp_path / "stock.safetensors"), {}))
    torch.testing.assert_close(sample(model, pyramid=None), sample(t2v_model, pyramid=spec), atol=0, rtol=0)
    with pytest.raises(ValueError, match="the checkpoint was trained for a different pyramid than the one given: boundaries"):
        sample(model, pyramid=WAN)
    with pytest.raises(ValueError, match="the checkpoint was trained for a different pyramid"):
        PyramidalWanStageModel.execute(model, WAN, "low")
    assert torch.isfinite(sample(stock, pyramid=WAN)).all()

"""What the templates test does to a template before it is queued, on small graphs and documents."""

import re

import pytest

from harness.templates import PYRAMID_NODE, high_noise_models, online_nodes, wan_templates, with_pyramid, with_saved_latents
from harness.templates.document import api_format
from harness.templates.exchange import exchange, variant_of
from harness.templates.results import MISSING, ONLINE, RUNS, Result, read, record, table, without_nodes
from harness.templates.shrink import few_frames, few_steps, shrink, small_size
from harness.workspace import default_workspace
from tools.templates_table import END, PAGE, START, with_table

SIMPLE = {
    "Add": {"input": {"required": {"a": ["INT", {"default": 1}], "seed": ["INT", {}], "b": ["INT", {"default": 5}]}}},
    "Show": {"input": {"required": {"value": ["INT", {"forceInput": True}]}}, "output_node": True},
}


def node(kind, **inputs):
    return {"class_type": kind, "inputs": inputs}


def saved(number, kind, values=(), inputs=(), mode=0):
    """A node as the front end saves it; inputs: (name, link, is a widget)."""
    sockets = [
        {"name": name, "type": "INT", "link": link, **({"widget": {"name": name}} if widget else {})}
        for name, link, widget in inputs
    ]
    outputs = [{"type": "INT"}]
    return {"id": number, "type": kind, "mode": mode, "widgets_values": list(values), "inputs": sockets, "outputs": outputs}


@pytest.mark.parametrize("pixels, small", [(832, 128), (480, 64), (720, 64), (1280, 128), (64, 64), (4000, 192)])
def test_sides_become_small_multiples(pixels, small):
    assert small_size(pixels) == small


@pytest.mark.parametrize("frames, few", [(81, 17), (121, 25), (5, 5), (1, 1), (25, 9), (149, 29), (4096, 4096)])
def test_clips_become_short_and_stay_whole_latent_frames(frames, few):
    assert few_frames(frames) == few


@pytest.mark.parametrize("steps, few", [(20, 4), (10, 2), (4, 4), (0, 0), (30, 6), (10000, 10000)])
def test_the_change_of_model_keeps_its_place(steps, few):
    assert few_steps(steps) == few


def test_values_are_shrunk_where_they_stand():
    graph = {
        "steps": {**node("PrimitiveInt", value=20), "_meta": {"title": "Steps"}},
        "few": {**node("PrimitiveInt", value=4), "_meta": {"title": "Steps"}},
        "switch": node("ComfySwitchNode", switch=False, on_false=["steps", 0], on_true=["few", 0]),
        "seconds": {**node("PrimitiveFloat", value=5.0), "_meta": {"title": "Duration"}},
        "fps": {**node("PrimitiveFloat", value=16.0), "_meta": {"title": "Float (FPS)"}},
        "frames": node("ComfyMathExpression", expression="a * b + 1", **{"values.a": ["seconds", 0], "values.b": ["fps", 0]}),
        "latent": node("EmptyHunyuanLatentVideo", width=832, height=480, length=["frames", 1]),
        "high": node("KSamplerAdvanced", steps=["switch", 0], start_at_step=0, end_at_step=10),
        "low": node("KSamplerAdvanced", steps=["switch", 0], start_at_step=10, end_at_step=10000),
    }
    shrink(graph)
    assert [graph[name]["inputs"]["value"] for name in ("steps", "few", "seconds", "fps")] == [4, 4, 1.0, 16.0]
    assert graph["latent"]["inputs"]["width"] == 128 and graph["latent"]["inputs"]["height"] == 64
    assert [graph[name]["inputs"]["start_at_step"] for name in ("high", "low")] == [0, 2]
    assert [graph[name]["inputs"]["end_at_step"] for name in ("high", "low")] == [2, 10000]


def test_loaders_of_fixed_size_become_stand_ins():
    graph = {
        "net": node("UNETLoader", unet_name="wan2.2_i2v_low_noise_14B_fp8_scaled.safetensors", weight_dtype="fp8_e4m3fn"),
        "vae": node("VAELoader", vae_name="wan2.2_vae.safetensors"),
        "checkpoint": node("CheckpointLoaderSimple", ckpt_name="sam3.1_multiplex_fp16.safetensors"),
        "words": node("CLIPTextEncode", text="cat", clip=["checkpoint", 1]),
        "detect": node("SAM3_Detect", model=["checkpoint", 0], conditioning=["words", 0], image=["image", 0]),
        "image": node("LoadImage", image="a.png"),
    }
    exchange(graph)
    assert graph["net"]["inputs"]["unet_name"] == "tiny_random_wan_i2v_2.2_second.safetensors"
    assert graph["vae"]["class_type"] == "TinyWan22VAELoader"
    assert graph["detect"] == node("MovingSquareMask", image=["image", 0])
    assert not {"checkpoint", "words"} & set(graph)


def test_an_unknown_diffusion_model_is_named():
    with pytest.raises(ValueError, match="no tiny variant for the diffusion model 'flux.safetensors'"):
        variant_of("flux.safetensors")


def test_the_node_stands_before_every_sampler_and_its_scheduler():
    graph = {
        "model": node("UNETLoader"),
        "shifted": node("ModelSamplingSD3", model=["model", 0]),
        "scheduler": node("BasicScheduler", model=["shifted", 0]),
        "other": node("BasicScheduler", model=["model", 0]),
        "guider": node("CFGGuider", model=["shifted", 0]),
        "sampler": node("SamplerCustomAdvanced", guider=["guider", 0], sigmas=["scheduler", 0]),
    }
    changed = with_pyramid(graph, preset="plain")
    (name,) = [name for name, found in changed.items() if found["class_type"] == PYRAMID_NODE]
    assert changed[name]["inputs"] == {"model": ["shifted", 0], "pyramid": ["pyramid", 0]}
    assert changed["guider"]["inputs"]["model"] == changed["scheduler"]["inputs"]["model"] == [name, 0]
    assert changed["other"] == graph["other"] and graph["guider"]["inputs"]["model"] == ["shifted", 0]


def test_of_two_experts_the_first_sampled_one_is_the_high_noise_expert():
    def sampler(latent, model):
        return node("KSamplerAdvanced", model=[model, 0], latent_image=latent)

    pair = {"a": sampler(["empty", 0], "high"), "b": sampler(["a", 0], "low"), "c": sampler(["b", 0], "low")}
    assert high_noise_models({**pair, "alone": sampler(["empty", 0], "other")}) == [("high", 0)]
    changed = with_pyramid(pair, models=[("high", 0)])
    assert changed["a"]["inputs"]["model"] == ["pyramidal high 0", 0]
    assert changed["b"] == pair["b"] and len(changed) == len(pair) + 1


def test_only_what_is_sampled_is_queued_for_the_latents_alone():
    graph = {"sampler": node("KSampler"), "decoded": node("VAEDecode", samples=["sampler", 0])}
    assert set(with_saved_latents(graph, "x", only=True)) == {"sampler", "saved sampler 0"}
    assert set(with_saved_latents(graph, "x")) == {"sampler", "saved sampler 0", "decoded"}


def test_both_latents_of_a_custom_sampler_are_saved():
    saved = with_saved_latents({"1:2": node("SamplerCustomAdvanced")}, "x", only=True)
    assert [saved[f"saved 1:2 {index}"]["inputs"]["samples"] for index in (0, 1)] == [["1:2", 0], ["1:2", 1]]


def test_bypassed_and_muted_nodes_are_left_out():
    links = [[1, 1, 0, 2, 0, "INT"], [2, 2, 0, 3, 0, "INT"], [3, 4, 0, 5, 0, "INT"]]
    nodes = [
        saved(1, "Add", [7, 3, "fixed", 9]),
        saved(2, "Add", [0, 0, "fixed", 0], [("a", 1, True)], mode=4),
        saved(3, "Show", inputs=[("value", 2, False)]),
        saved(4, "Add", mode=2),
        saved(5, "Show", inputs=[("value", 3, False)]),
    ]
    graph = api_format({"nodes": nodes, "links": links}, SIMPLE)
    assert {name: found["inputs"] for name, found in graph.items()} == {
        "1": {"a": 7, "seed": 3, "b": 9},
        "3": {"value": ["1", 0]},
        "5": {},
    }


@pytest.mark.parametrize("values, expected", [([], 4), ([6], 6)])
def test_a_promoted_widget_has_the_value_of_the_instance_or_else_its_own(values, expected):
    """It also reaches inputs without a widget that are linked to the same subgraph input."""
    inside = {
        "id": "inner",
        "inputs": [{"name": "a", "linkIds": [1, 2]}],
        "nodes": [saved(1, "Add", [4, 0, "fixed"], [("a", 1, True)]), saved(2, "Show", inputs=[("value", 2, False)])],
        "links": [
            {"id": 1, "origin_id": -10, "origin_slot": 0, "target_id": 1, "target_slot": 0},
            {"id": 2, "origin_id": -10, "origin_slot": 0, "target_id": 2, "target_slot": 0},
        ],
    }
    document = {"nodes": [saved(9, "inner", values)], "links": [], "definitions": {"subgraphs": [inside]}}
    graph = api_format(document, SIMPLE)
    assert graph["9:1"]["inputs"] == {"a": expected, "seed": 0, "b": 5} and graph["9:2"]["inputs"] == {"value": expected}


def test_the_table_has_the_latest_result_of_each_version(tmp_path):
    file = tmp_path / "results.jsonl"
    for result in (
        Result("0.30.0", "b", MISSING, "`X`"),
        Result("0.30.0", "b", RUNS),
        Result("0.3.75", "a", MISSING, "`X`"),
    ):
        record(result, file)
    lines = table(read(file)).splitlines()
    assert lines[0] == "| template | 0.3.75 | 0.30.0 |"
    assert lines[2:] == ["| `a` | nodes missing: `X` | not run |", "| `b` | not run | **runs** |"]


def test_nodes_of_online_services_are_not_called_missing():
    online = online_nodes(default_workspace().comfyui)
    assert "GeminiImageNode" in online and "KSampler" not in online
    assert without_nodes("1", "a", ["X", "Y"], online) == Result("1", "a", MISSING, "`X`, `Y`")
    assert without_nodes("1", "a", ["GeminiImageNode"], online) == Result("1", "a", ONLINE, "`GeminiImageNode`")
    both = without_nodes("1", "a", ["GeminiImageNode", "X"], online)
    assert both == Result("1", "a", ONLINE, "`GeminiImageNode`; nodes missing: `X`")


def test_the_page_has_a_row_for_each_template():
    rows = re.findall(r"^\| `(.+?)` \|", PAGE.read_text(encoding="utf-8").partition(START)[2].partition(END)[0], re.MULTILINE)
    assert rows == sorted(template.name for template in wan_templates())


def test_the_table_replaces_what_stands_between_the_markers():
    assert with_table(f"a\n{START}\nold\n{END}\nb", "new") == f"a\n{START}\nnew\n{END}\nb"
    with pytest.raises(ValueError, match="once each"):
        with_table("no markers", "new")

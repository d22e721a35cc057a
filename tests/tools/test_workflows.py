"""The workflow files: they are up to date, valid for the front end and ComfyUI, and their tiny twins run.

After a change of a graph: .venv/bin/python -m tools.build_workflows
"""

import asyncio
import json
import re
from collections import Counter

import comfyui_version
import pytest
import torch
from boxes import around, box, node_box, overlapping
from front_end import browser_program

from harness.server import ComfyUIServer
from harness.workspace import WEIGHTS, Workspace, default_workspace, prepare
from pyramidalwan.nodes import NODES
from tiny_wan.world.videos import decode
from tools.build_workflows import FOLDER, rendered
from tools.graphs import WORKFLOWS, api, build, has_trained, schemas, tiny_twin, title, write_inputs
from tools.graphs.graph import MUTED
from tools.graphs.parts import VAE22
from tools.graphs.routes import INSET, beneath
from tools.graphs.schemas import NOTE, node_schema
from tools.graphs.tiny import DROPPED, SMALLEST, TinySize
from tools.graphs.ui import COMFYUI_VERSION, CORNER, GROUP_TITLE, SCREEN, TITLE_HEIGHT, pack_version

FILES = {"unet_name", "clip_name", "vae_name", "lora_name", "file", "image"}
"""Widgets that list the files of the computer on which a graph is opened."""

LOADERS = {
    "UNETLoader": "unet_name",
    "CLIPLoader": "clip_name",
    "VAELoader": "vae_name",
    "CLIPVisionLoader": "clip_name",
    "LoraLoaderModelOnly": "lora_name",
}
REPOSITORY = r"https://huggingface\.co/Comfy-Org/(?:Wan_2\.1_ComfyUI_repackaged|Wan_2\.2_ComfyUI_Repackaged)"
PUBLIC = re.compile(REPOSITORY + r"/resolve/main/split_files/(\w+)/([\w.-]+)")
MIN_TEXT, TEXT = 8, 14
"""The classic design draws no text that would be smaller than this many pixels; its texts have so many at 100 %."""
BADGE = 150
LETTER = 10
"""Widths of the badge with the pack's name and of a letter of a group's title in the classic design, measured."""
ANY = "*"
OURS = {node.__name__ for node in NODES}


def on_disk():
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.json"))}


SHIPPED = on_disk()
OWN_WEIGHTS = [name for name in WORKFLOWS if any(node.kind == "UNETLoader" and not node.models for node in build(name).nodes)]
each_workflow = pytest.mark.parametrize("flow", SHIPPED.values(), ids=SHIPPED.keys())


def widgets_of(node):
    """Return (input, value) pairs of a saved node, without the values that the front end adds after a seed or an upload."""
    values, saved = iter(node["widgets_values"]), {given["name"] for given in node["inputs"]}
    pairs = []
    for given in node_schema(node["type"]).widgets:
        if given.optional and given.name not in saved:
            continue  # an input of a newer ComfyUI
        pairs.append((given, next(values)))
        if given.extra_widget:
            extra = next(values)
            assert extra in (("fixed", "randomize") if given.extra_widget == "control_after_generate" else ("image",))
    assert list(values) == [], node["type"]
    return pairs


def test_a_combo_with_inputs_of_its_own_is_saved_like_any_other():
    choices = [{"key": "auto", "inputs": {}}, {"key": "h264", "inputs": {"required": {"crf": ["FLOAT", {}]}}}]
    given = schemas._input("codec", ["COMFY_DYNAMICCOMBO_V3", {"options": choices}], optional=False)
    assert given.is_widget and given.type == "COMBO" and given.options["options"] == ["auto", "h264"]


def test_no_sampler_shows_other_values_than_those_of_its_quality():
    from pyramidalwan.samplers.quality import QUALITIES

    samplers = [node for flow in SHIPPED.values() for node in flow["nodes"] if node["type"] == "PyramidalWanSampler"]
    for values in ({given.name: value for given, value in widgets_of(node)} for node in samplers):
        chosen = vars(QUALITIES[values["quality"]]) if values["quality"] != "custom" else {}
        assert {name: values[name] for name in chosen} == chosen
    assert len(samplers) >= 5


def test_graphs_and_files_correspond():
    assert sorted(SHIPPED) == [title(name) for name in WORKFLOWS]


def test_titles_are_those_that_the_template_browser_shows_whole():
    """It shows about 34 characters, takes addresses from them, and replaces underscores; the numbers give their order."""
    assert all(re.fullmatch(r"\d\d [A-Z0-9][\w ,.-]{5,30}", name) and "_" not in name for name in SHIPPED)
    assert [int(name[:2]) for name in sorted(SHIPPED)] == list(range(1, len(SHIPPED) + 1))


def test_the_files_are_what_the_script_writes():
    from comfyui_version import __version__

    if __version__ != COMFYUI_VERSION:
        pytest.skip(f"the files are built with ComfyUI {COMFYUI_VERSION}, this one is {__version__}")
    for path, text in rendered().items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: run 'python -m tools.build_workflows'"


@each_workflow
def test_the_format_is_the_one_front_ends_read(flow):
    assert flow["version"] == 0.4 and "definitions" not in flow
    ids = [node["id"] for node in flow["nodes"]]
    assert len(set(ids)) == len(ids) and flow["last_node_id"] == max(ids)
    assert flow["last_link_id"] == max(link[0] for link in flow["links"])
    for node in flow["nodes"]:
        ours = node["type"].startswith("PyramidalWan")
        pack = ("pyramidalwan", pack_version()) if ours else ("comfy-core", COMFYUI_VERSION)
        assert (node["properties"]["cnr_id"], node["properties"]["ver"]) == pack
        assert node["properties"]["Node name for S&R"] == node["type"]


@each_workflow
def test_links_agree_with_both_of_their_ends(flow):
    nodes = {node["id"]: node for node in flow["nodes"]}
    order = {node["id"]: node["order"] for node in flow["nodes"]}
    for number, source, out, target, into, kind in flow["links"]:
        output, given = nodes[source]["outputs"][out], nodes[target]["inputs"][into]
        assert number in output["links"] and given["link"] == number
        assert kind == output["type"] and given["type"] in (kind, ANY)
        assert order[source] < order[target]
    known = {link[0] for link in flow["links"]}
    ends = [link for node in flow["nodes"] for output in node["outputs"] for link in output["links"] or []]
    starts = [given["link"] for node in flow["nodes"] for given in node["inputs"] if given["link"] is not None]
    assert sorted(ends) == sorted(starts) == sorted(known)


@each_workflow
def test_nodes_exist_with_these_inputs_and_outputs(flow):
    """Newer ComfyUI versions add outputs and optional inputs to their own nodes, which a saved graph does not need."""
    from comfyui_version import __version__

    for node in flow["nodes"]:
        if node["type"] == NOTE:
            continue
        schema = node_schema(node["type"])
        inputs, outputs = schema.sockets + schema.widgets, list(schema.outputs)
        saved = [given["name"] for given in node["inputs"]]
        if __version__ != COMFYUI_VERSION and not schema.ours:
            inputs = [given for given in inputs if not given.optional or given.name in saved]
            outputs = outputs[: len(node["outputs"])]
        assert saved == [given.name for given in inputs]
        assert [(output["name"], output["type"]) for output in node["outputs"]] == outputs
        linked = {given["name"] for given in node["inputs"] if given["link"] is not None}
        assert {given.name for given in schema.sockets if not given.optional} <= linked, node["type"]


@each_workflow
def test_widgets_have_values_that_comfyui_accepts(flow):
    for node in flow["nodes"]:
        for given, value in widgets_of(node):
            where, options = f"{node['type']}.{given.name} = {value!r}", given.options
            if given.type in ("INT", "FLOAT"):
                assert options.get("min", value) <= value <= options.get("max", value), where
            elif given.type == "STRING":
                assert isinstance(value, str), where
            elif given.type == "COMBO" and given.name not in FILES and options.get("options"):
                assert value in options["options"], where


@each_workflow
def test_the_nodes_validation_accepts_the_widgets(flow):
    import sys

    ours = sys.modules["pyramidalwan.nodes"].NODES
    checks = {node.__name__: node for node in ours if "validate_inputs" in vars(node)}
    for node in flow["nodes"]:
        if node["type"] in checks:
            values = {given.name: value for given, value in widgets_of(node)}
            check = checks[node["type"]].validate_inputs
            arguments = {name: values[name] for name in check.__code__.co_varnames[1 : check.__code__.co_argcount]}
            problem = check(**arguments)
            placeholder = FILES & arguments.keys() and "has no file 'my_" in str(problem)
            assert problem is True or placeholder, problem


@each_workflow
def test_nothing_overlaps(flow):
    nodes = {node["id"]: node_box(node["pos"], node["size"]) for node in flow["nodes"]}
    groups = {group["title"]: box(*group["bounding"]) for group in flow["groups"]}
    assert not overlapping(nodes) and not overlapping(groups)
    assert all(len(around(groups, node)) == 1 for node in nodes.values())


def notes_of(flow):
    return [node["widgets_values"][0] for node in flow["nodes"] if node["type"] == NOTE]


@each_workflow
def test_every_group_fits_the_screen_and_the_first_view_shows_the_whole_graph(flow):
    groups = [group["bounding"] for group in flow["groups"]]
    for (_, _, width, height), group in zip(groups, flow["groups"], strict=True):
        assert width <= SCREEN[0] and height <= SCREEN[1], group["title"]
    scale, offset = flow["extra"]["ds"]["scale"], flow["extra"]["ds"]["offset"]
    for axis, room in enumerate(SCREEN):
        assert scale * (min(group[axis] for group in groups) + offset[axis]) >= 0
        assert scale * (max(group[axis] + group[axis + 2] for group in groups) + offset[axis]) <= CORNER[axis] + 1.03 * room


def test_graphs_for_stock_weights_with_one_sampler_are_shown_at_almost_100_percent():
    scales = {name: SHIPPED[title(name)]["extra"]["ds"]["scale"] for name in WORKFLOWS}
    assert min(scales[name] for name in ("wan_any_graph", "wan_t2v_training_free")) >= 0.95
    assert min(scales[name] for name in ("wan22_5b_ti2v", "wan_i2v_training_free")) >= 0.8  # an image takes a column
    assert min(scales.values()) >= MIN_TEXT / TEXT


@each_workflow
def test_the_badge_of_a_node_covers_no_title_of_a_group(flow):
    """The classic design draws the pack's name above the right end of a node's title."""
    titles = {group["title"]: group["bounding"] for group in flow["groups"]}
    for node in flow["nodes"]:
        if node["type"].startswith("PyramidalWan"):
            left = node["pos"][0] + node["size"][0] - BADGE
            for title, (x, y, _, _) in titles.items():
                below = node["pos"][1] - TITLE_HEIGHT - y
                covered = 0 <= below <= GROUP_TITLE and x <= left <= x + INSET + LETTER * len(title)
                assert not covered, (title, node["type"])


@each_workflow
def test_no_link_passes_beneath_a_node(flow):
    nodes = {node["id"]: node for node in flow["nodes"]}
    boxes = [node_box(node["pos"], node["size"]) for node in flow["nodes"]]
    dots = {dot["id"]: dot for dot in flow["extra"].get("reroutes", [])}
    last = {end["id"]: end["parentId"] for end in flow["extra"].get("linkExtensions", [])}
    for number, source, out, target, into, _ in flow["links"]:
        way, dot = [], last.get(number)
        while dot is not None:
            assert dots[dot]["linkIds"] == [number]
            way.insert(0, tuple(dots[dot]["pos"]))
            dot = dots[dot].get("parentId")
        start, end = socket_of(nodes[source], out, "outputs"), socket_of(nodes[target], into, "inputs")
        assert not beneath(start, way, end, boxes), (nodes[source]["type"], nodes[target]["type"])


def socket_of(node, slot, side):
    """Return where a socket is in the old design; those of widgets are beside them."""
    sockets = [given for given in node["inputs"] if "widget" not in given]
    if side == "inputs" and slot >= len(sockets):
        slot = max(len(sockets), len(node["outputs"])) + (slot - len(sockets)) * 1.4
    x = node["pos"][0] + (10 if side == "inputs" else node["size"][0] - 10)
    return x, node["pos"][1] + 20 * (slot + 0.7)


@each_workflow
def test_notes_are_short_and_mark_words_in_bold(flow):
    """Code marks are nearly invisible in the new design's notes."""
    about, files = (re.sub(r"\]\(.*?\)", "]", note) for note in notes_of(flow))
    assert len(about.split()) <= 120 and len(files.split()) <= 75
    assert "`" not in about + files


def test_no_paragraph_of_more_than_two_lines_is_in_several_notes():
    paragraphs = Counter(line for flow in SHIPPED.values() for note in notes_of(flow) for line in set(note.split("\n")))
    assert not [line for line, count in paragraphs.items() if count > 1 and len(line.split()) > 24]


@pytest.mark.parametrize("name", [name for name in WORKFLOWS if name not in OWN_WEIGHTS])
def test_graphs_with_stock_weights_keep_texture_with_a_lift(name):
    graph = api(build(name))
    (lift,) = [key for key, node in graph.items() if node["class_type"] == "PyramidalWanLiftFromVAE"]
    for node in graph.values():
        sockets = node_schema(node["class_type"]).sockets
        if any(given.name == "lift" for given in sockets):
            assert node["inputs"]["lift"] == [lift, 0], node["class_type"]


@each_workflow
def test_notes_have_the_download_of_every_file(flow):
    notes = "\n".join(notes_of(flow))
    with_our_sampler = any(
        "Sampler" in node["type"] or "Stage" in node["type"] for node in flow["nodes"] if node["type"] in OURS
    )
    assert ("Steps are written low-" if with_our_sampler else "Steps are those of the sampler") in notes and "VRAM" in notes
    for node in flow["nodes"]:
        if node["type"] in LOADERS:
            name = dict((given.name, value) for given, value in widgets_of(node))[LOADERS[node["type"]]]
            check_file(node, name, notes)
    for url in re.findall(r"\((https://[^)]+)\)", notes):
        assert PUBLIC.fullmatch(url), url


def check_file(node, name, notes):
    """Check that a public file has its link on the loader and in the notes, and that the notes call any other a placeholder."""
    if "models" not in node["properties"]:
        assert name.startswith("my_")
        assert re.search(
            rf"\*\*{re.escape(name)}\*\*.*(is a placeholder|are placeholders)|\*\*Choose two LoRAs of your own", notes
        )
        return
    (model,) = node["properties"]["models"]
    assert model["name"] == name and model["url"] in notes
    assert PUBLIC.fullmatch(model["url"]).groups() == (model["directory"], name)


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_twin_is_the_same_graph(name):
    whole, twin = api(build(name)), tiny_twin(name)
    renamed = {"CLIPTextEncode": "PyramidalWanLoadConditioning"}
    kinds = {key: renamed.get(node["class_type"], node["class_type"]) for key, node in whole.items()}
    kinds |= {key: "TinyWan22VAELoader" for key, node in whole.items() if node["inputs"].get("vae_name") == VAE22}
    expected = {key: kind for key, kind in kinds.items() if kind not in DROPPED}
    assert {key: node["class_type"] for key, node in twin.items()} == expected
    for key, node in twin.items():
        for given, value in node["inputs"].items():
            if isinstance(value, list):
                assert value == whole[key]["inputs"][given] and value[0] in twin


@pytest.mark.parametrize("name", [name for name in WORKFLOWS if has_trained(name)])
def test_twins_with_trained_weights_use_files_that_are_shipped(name):
    twin = tiny_twin(name, TinySize(128, 128, 17, trained=True))
    for node in twin.values():
        for given in ("unet_name", "vae_name"):
            if given in node["inputs"]:
                assert (WEIGHTS / node["inputs"][given]).is_file()
        assert all(value[0] in twin for value in node["inputs"].values() if isinstance(value, list))


def test_models_that_the_tiny_wan_was_not_trained_for_have_no_trained_twin():
    names = ["wan22_5b_ti2v", "wan_vace_inpaint", "wan_t2v_ppf_2-2-1", "wan_t2v_tpdiff"]
    assert [name for name in WORKFLOWS if not has_trained(name)] == names
    with pytest.raises(ValueError, match="wan_vace_inpaint have no trained tiny twin"):
        tiny_twin("wan_vace_inpaint", TinySize(trained=True))


def test_the_trained_student_replaces_model_and_lora():
    twin = tiny_twin("wan_t2v_pyramid_2-2-1", TinySize(128, 128, 17, trained=True))
    kinds = {node["class_type"]: node["inputs"] for node in twin.values()}
    assert "PyramidalWanStageLoRA" not in kinds
    sampler = kinds["PyramidalWanSampler"]
    assert [twin[sampler[given][0]]["class_type"] for given in ("model", "pyramid")] == [
        "UNETLoader",
        "PyramidalWanFromFile",
    ]
    assert kinds["UNETLoader"]["unet_name"] == "tiny_wan_t2v_2-2-1.safetensors"


@pytest.mark.parametrize("name", ["wan22_t2v_two_experts", "wan22_i2v_two_experts", "wan22_flf2v_two_experts"])
def test_of_two_experts_the_high_noise_one_runs_first_and_is_pyramidal(name):
    graph = api(build(name))
    samplers = [node["inputs"] for node in graph.values() if node["class_type"] == "KSamplerAdvanced"]
    chains = [list(models_before(graph, sampler["model"][0])) for sampler in samplers]
    assert [chain.count("PyramidalWanModel") for chain in chains] == [1, 0]
    assert all(f"_{expert}_noise_" in chain[-1] for expert, chain in zip(("high", "low"), chains, strict=True))
    first, second = samplers
    assert graph[second["latent_image"][0]]["inputs"] is first and first["end_at_step"] == second["start_at_step"]


def models_before(graph, name):
    """Yield the classes of the nodes that a MODEL goes through, last to first, and the file that it comes from."""
    while name:
        node = graph[name]
        yield node["class_type"]
        name = node["inputs"].get("model", [None])[0]
    yield node["inputs"]["unet_name"]


def test_only_the_second_half_of_the_draft_workflow_is_muted():
    muted = {name for name, flow in SHIPPED.items() if any(node["mode"] == MUTED for node in flow["nodes"])}
    assert muted == {title("wan_draft_then_finish")}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("workflows")
    workspace = Workspace(default_workspace().comfyui, folder / "base", folder / "output")
    prepare(workspace)
    write_inputs(workspace)
    return workspace


def saved_video(workspace, name):
    """Return the only saved video of that name, (T, 3, H, W) in 0..255."""
    (path,) = workspace.output.rglob(f"{name}_0*.mp4")
    return torch.stack(list(decode(path))) * 255


def check_same_videos(workspace):
    """Check the notes: wired by hand, in two parts, or beside an ordinary run, the video is the same."""
    whole = saved_video(workspace, "wan_t2v_training_free")
    assert whole.shape == (SMALLEST.frames, 3, SMALLEST.height, SMALLEST.width)
    for same in ("wan_t2v_hand_wired", "wan_draft_then_finish", "wan_compare_plain_vs_pyramid_pyramid"):
        assert abs(saved_video(workspace, same) - whole).mean() < 0.5, same  # rounding can change what the codec does
    for other in ("wan_compare_plain_vs_pyramid_plain", "wan_t2v_stage_lora"):
        assert abs(saved_video(workspace, other) - whole).mean() > 1, other


@pytest.mark.skipif(
    browser_program() is not None and comfyui_version.__version__ != COMFYUI_VERSION,
    reason="tests/browser runs the same graphs on this version",
)
def test_every_twin_runs(workspace):
    async def run():
        async with ComfyUIServer(workspace) as server:
            return {name: await server.run(tiny_twin(name)) for name in WORKFLOWS}

    outputs = asyncio.run(run())
    for name, made in outputs.items():
        saving = {
            key for key, node in tiny_twin(name).items() if node["class_type"] in ("SaveVideo", "PreviewImage", "PreviewAny")
        }
        assert saving <= made.keys(), name
        for key in saving:
            assert any(made[key].values()), (name, key)
    check_same_videos(workspace)
    draft = saved_video(workspace, "wan_draft_then_finish_draft")
    assert draft.shape == (SMALLEST.frames, 3, SMALLEST.height // 2, SMALLEST.width // 2)

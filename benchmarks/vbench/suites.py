"""What the suites ask for: prompts, names of files, the models of their metrics, and how scores become totals.

Sources: the packages vbench 0.1.5 and vbench2 0.1.1, and the scripts ``cal_final_score.py`` of their repository.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

SCORER = Path(__file__).with_name("scorer.py")


@dataclass(frozen=True)
class Video:
    """A video of a suite.

    Attributes:
        prompt: The suite's prompt.
        index: Which of the videos of the prompt.
        name: Name of its file, without the ending.
    """

    prompt: str
    index: int
    name: str


@dataclass(frozen=True)
class Dimension:
    """One of the numbers of a suite.

    Attributes:
        group: The part of the total that it belongs to.
        weight: Its weight in that part.
        lowest: Score that counts as 0.
        highest: Score that counts as 1.
        models: Files in the suite's cache that it requires; a name that ends with a slash is a folder.
        note: What it requires besides.
    """

    group: str
    weight: float = 1.0
    lowest: float = 0.0
    highest: float = 1.0
    models: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Suite:
    """A suite.

    Attributes:
        name: Name of its package.
        title: Its name in tables.
        dimensions: Its numbers.
        groups: Weight of each part in the total.
        videos: Number of videos per prompt.
        more_videos: Number of videos per prompt of single dimensions.
        name_length: Characters of the prompt that the name of a file keeps; None for all.
        cache: Folder of its models, as in the environment variable ``cache_variable``.
        cache_variable: The variable that sets another folder.
    """

    name: str
    title: str
    dimensions: Mapping[str, Dimension]
    groups: Mapping[str, float]
    videos: int
    more_videos: Mapping[str, int]
    name_length: int | None
    cache: str
    cache_variable: str

    def videos_of(self, info: Path) -> list[Video]:
        """Return every video of the suite once, in the order of its prompts.

        Args:
            info: The suite's list of prompts and dimensions.

        Raises:
            ValueError: The list names a dimension that the suite does not have.
        """
        counts: dict[str, int] = {}
        for entry in json.loads(info.read_text(encoding="utf-8")):
            for dimension in entry["dimension"]:
                if dimension not in self.dimensions:
                    known = ", ".join(self.dimensions)
                    raise ValueError(f"{info} has the dimension '{dimension}', which is not one of {self.title}: {known}")
                count = self.more_videos.get(dimension, self.videos)
                counts[entry["prompt_en"]] = max(count, counts.get(entry["prompt_en"], 0))
        return [
            Video(prompt, index, f"{prompt[: self.name_length]}-{index}")
            for prompt, count in counts.items()
            for index in range(count)
        ]

    def totals(self, scores: Mapping[str, float]) -> dict[str, float | None]:
        """Return the parts and the total in percent; None where a dimension has no score.

        Args:
            scores: Scores of the dimensions, in 0..1.
        """
        parts: dict[str, float | None] = {}
        for group in self.groups:
            members = {name: one for name, one in self.dimensions.items() if one.group == group}
            if not members.keys() <= scores.keys():
                parts[group] = None
                continue
            weighted = [one.weight * (scores[name] - one.lowest) / (one.highest - one.lowest) for name, one in members.items()]
            parts[group] = 100 * sum(weighted) / sum(one.weight for one in members.values())
        present = {group: part for group, part in parts.items() if part is not None}
        complete = len(present) == len(self.groups)
        weight = sum(self.groups.values())
        total = sum(self.groups[group] * part for group, part in present.items()) / weight if complete else None
        return {**parts, "total": total}


def find_info(suite: Suite, python: str) -> Path:
    """Return the list of prompts in a suite's package, which is installed for a Python.

    Raises:
        FileNotFoundError: The package is not installed there.
    """
    done = subprocess.run([python, str(SCORER), "info", suite.name], capture_output=True, text=True, check=False)
    path = Path(done.stdout.strip())
    if done.returncode or not path.is_file():
        raise FileNotFoundError(
            f"the package {suite.name} is not installed for {python}; install benchmarks/vbench/requirements-{suite.name}.txt "
            "in an environment of its own and pass --python, or pass its list of prompts with --info"
        )
    return path


def this_python() -> str:
    """Return the Python that runs this script."""
    return sys.executable


CLIP_B, CLIP_L = "clip_model/ViT-B-32.pt", "clip_model/ViT-L-14.pt"
DINO = ("dino_model/dino_vitbase16_pretrain.pth", "dino_model/facebookresearch_dino_main/")
GRIT = ("grit_model/grit_b_densecap_objectdet.pth",)
RAFT = ("raft_model/models/raft-things.pth",)
VICLIP = ("ViCLIP/ViClip-InternVid-10M-FLT.pth", "ViCLIP/bpe_simple_vocab_16e6.txt.gz")
AESTHETIC = (CLIP_L, "aesthetic_model/emb_reader/sa_0_4_vit_l_14_linear.pth")
UMT = ("umt_model/l16_ptk710_ftk710_ftk400_f16_res224.pth",)
BERT = "the tokenizer bert-base-uncased in the cache of Hugging Face"

VBENCH = Suite(
    name="vbench",
    title="VBench",
    dimensions={
        "subject_consistency": Dimension("quality", lowest=0.1462, models=DINO),
        "background_consistency": Dimension("quality", lowest=0.2615, models=(CLIP_B,)),
        "temporal_flickering": Dimension("quality", lowest=0.6293),
        "motion_smoothness": Dimension("quality", lowest=0.706, highest=0.9975, models=("amt_model/amt-s.pth",)),
        "dynamic_degree": Dimension("quality", weight=0.5, models=RAFT),
        "aesthetic_quality": Dimension("quality", models=AESTHETIC),
        "imaging_quality": Dimension("quality", models=("pyiqa_model/musiq_spaq_ckpt-358bb6af.pth",)),
        "object_class": Dimension("semantic", models=GRIT, note=BERT),
        "multiple_objects": Dimension("semantic", models=GRIT, note=BERT),
        "human_action": Dimension("semantic", models=UMT),
        "color": Dimension("semantic", models=GRIT, note=BERT),
        "spatial_relationship": Dimension("semantic", models=GRIT, note=BERT),
        "scene": Dimension("semantic", highest=0.8222, models=("caption_model/tag2text_swin_14m.pth",), note=BERT),
        "appearance_style": Dimension("semantic", lowest=0.0009, highest=0.2855, models=(CLIP_B,)),
        "temporal_style": Dimension("semantic", highest=0.364, models=VICLIP),
        "overall_consistency": Dimension("semantic", highest=0.364, models=VICLIP),
    },
    groups={"quality": 4.0, "semantic": 1.0},
    videos=5,
    more_videos={},
    name_length=None,
    cache="~/.cache/vbench",
    cache_variable="VBENCH_CACHE_DIR",
)

LLAVA = ("lmms-lab/LLaVA-Video-7B-Qwen2/",)
QWEN = (*LLAVA, "Qwen/Qwen2.5-7B-Instruct/")
TRACKER = "facebookresearch/co-tracker (cotracker2) in the cache of torch.hub"
ANATOMY = (
    "YOLO-World/yolo_world_v2_xl_obj365v1_goldg_cc3mlite_pretrain-5daf1395.pth",
    "anomaly_detector/human.pth",
    "anomaly_detector/face.pth",
    "anomaly_detector/hand.pth",
)
YOLO = ("YOLO-World/yolo_world_v2_l_obj365v1_goldg_pretrain_1280ft-9babe3f6.pth",)

VBENCH2 = Suite(
    name="vbench2",
    title="VBench-2.0",
    dimensions={
        "Human_Anatomy": Dimension("human fidelity", models=ANATOMY),
        "Human_Identity": Dimension("human fidelity", models=("arcface/resnet18_110.pth",)),
        "Human_Clothes": Dimension("human fidelity", models=LLAVA),
        "Diversity": Dimension("creativity", note="vgg19 of torchvision in the cache of torch.hub"),
        "Composition": Dimension("creativity", models=LLAVA),
        "Dynamic_Spatial_Relationship": Dimension("controllability", models=LLAVA),
        "Dynamic_Attribute": Dimension("controllability", models=LLAVA),
        "Motion_Order_Understanding": Dimension("controllability", models=QWEN),
        "Human_Interaction": Dimension("controllability", models=QWEN),
        "Complex_Landscape": Dimension("controllability", models=QWEN),
        "Complex_Plot": Dimension("controllability", models=QWEN),
        "Camera_Motion": Dimension("controllability", note=TRACKER),
        "Motion_Rationality": Dimension("commonsense", models=LLAVA),
        "Instance_Preservation": Dimension("commonsense", models=YOLO),
        "Mechanics": Dimension("physics", models=LLAVA),
        "Thermotics": Dimension("physics", models=LLAVA),
        "Material": Dimension("physics", models=LLAVA),
        "Multi-View_Consistency": Dimension("physics", models=RAFT, note=TRACKER),
    },
    groups=dict.fromkeys(("creativity", "commonsense", "controllability", "human fidelity", "physics"), 1.0),
    videos=3,
    more_videos={"Diversity": 20},
    name_length=180,
    cache="~/.cache/vbench2",
    cache_variable="VBENCH2_CACHE_DIR",
)

SUITES = {suite.name: suite for suite in (VBENCH, VBENCH2)}

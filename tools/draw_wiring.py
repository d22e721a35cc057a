"""Draw the picture of every help page: the node, what is connected to it, and what it is connected to.

Run: .venv/bin/python -m tools.draw_wiring    (from the root of the checkout, after 'make set-up')

The connections are those of the workflows, then those of the graph with every node. The help panel of the front end is about
420 pixels wide, and shows pictures relative to web/docs. A test compares the files with what this writes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from .graphs.graph import Node

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "web" / "docs"
LANGUAGES = ("en", "zh")
CHINESE = {
    "CFGGuider": "CFG 引导器",
    "CLIPTextEncode": "CLIP 文本编码",
    "GetVideoComponents": "获取视频组件",
    "KSampler": "K 采样器",
    "KSamplerAdvanced": "K 采样器（高级）",
    "KSamplerSelect": "K 采样器选择",
    "ModelSamplingSD3": "采样算法（SD3）",
    "PreviewAny": "预览任意",
    "PreviewImage": "预览图像",
    "PrimitiveInt": "整数",
    "RandomNoise": "随机噪声",
    "SamplerCustomAdvanced": "自定义采样器（高级）",
    "UNETLoader": "加载扩散模型",
    "VAEDecode": "VAE 解码",
    "VAEEncode": "VAE 编码",
    "VAELoader": "加载 VAE",
    "WanImageToVideo": "Wan 图生视频",
}
"""Titles of ComfyUI's nodes in its Chinese front end."""
ENGLISH = {
    "CLIPTextEncode": "CLIP Text Encode",
    "KSamplerAdvanced": "KSampler (Advanced)",
    "PreviewAny": "Preview as Text",
    "PreviewImage": "Preview Image",
    "PrimitiveInt": "Int",
    "UNETLoader": "Load Diffusion Model",
    "VAEDecode": "VAE Decode",
    "VAEEncode": "VAE Encode",
    "VAELoader": "Load VAE",
}
"""Titles of ComfyUI's nodes that are not those of their classes."""
COLOURS = {
    "MODEL": "#b39ddb", "CONDITIONING": "#ffa931", "LATENT": "#ff9cf9", "VAE": "#ff6e6e", "IMAGE": "#64b5f6",
    "SIGMAS": "#cdffcd", "GUIDER": "#66ffff", "NOISE": "#b0b0b0", "SAMPLER": "#ecb4b4",
}  # fmt: skip
OTHER_COLOUR = "#9fb8a8"
WIDTH, ROW, TITLE, BOX, PAD = 420, 30, 28, 142, 8
MIDDLE = 104
"""Width of the node itself."""
LETTERS = {"en": 5.8, "zh": 11.0}
"""Width of a letter in pixels, to squeeze titles that would leave their box."""
NOT_IN_GRAPHS = {
    "PyramidalWanCompile": (
        [("model", "MODEL", "PyramidalWanStageLoRA")],
        [("model", "MODEL", "PyramidalWanModel"), ("model", "MODEL", "PyramidalWanSampler")],
    ),
    "PyramidalWanLoadDraft": ([], [("latent", "LATENT", "PyramidalWanSampler")]),
}
"""Nodes that are connected in no graph."""
MAX_ROWS = 6
"""Most rows on one side."""


@dataclass(frozen=True)
class Link:
    """A connection of a node: socket, type, and class of the node at the other end."""

    socket: str
    type: str
    other: str


def wiring() -> dict[str, tuple[list[Link], list[Link]]]:
    """Return for each node of the pack its connections on the left and on the right, the first that the graphs have."""
    from .graphs import build_all
    from .keep_graphs import every_node

    connections: dict[str, tuple[dict[tuple, Link], dict[tuple, Link]]] = {}
    for graph in [*build_all(), every_node()]:
        for node in graph.nodes:
            for name, source in node.links.items():
                output, kind = source.node.schema.outputs[source.slot]
                _sides(connections, node)[0].setdefault((name,), Link(name, kind, source.node.kind))
                right = _sides(connections, source.node)[1]
                if sum(output == known for known, _ in right) < 2:
                    right.setdefault((output, node.kind), Link(output, kind, node.kind))
    ours = sorted(name for name in connections if name.startswith("PyramidalWan"))
    sides = {name: (list(connections[name][0].values()), list(connections[name][1].values())) for name in ours}
    other = {
        name: ([Link(*link) for link in left], [Link(*link) for link in right]) for name, (left, right) in NOT_IN_GRAPHS.items()
    }
    return {**other, **sides}


def _sides(connections: dict, node: Node) -> tuple[dict, dict]:
    return connections.setdefault(node.kind, ({}, {}))


def titles(language: str) -> dict[str, str]:
    """Return titles of nodes: the pack's from its locales, others as ComfyUI shows them."""
    ours = json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))
    theirs = CHINESE if language == "zh" else ENGLISH
    return {**theirs, **{name: texts["display_name"] for name, texts in ours.items()}}


def picture(name: str, sides: tuple[list[Link], list[Link]], language: str) -> str:
    """Return the SVG of a node and its connections."""
    shown = titles(language)
    left, right = sides[0][:MAX_ROWS], sides[1][:MAX_ROWS]
    rows = max(len(left), len(right), 1)
    height = TITLE + rows * ROW + 2 * PAD
    middle = (WIDTH - MIDDLE) // 2
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
        'font-family="sans-serif" font-size="10.5">',
        f'<rect width="{WIDTH}" height="{height}" rx="8" fill="#202024"/>',
        f'<rect x="{middle}" y="{PAD + TITLE}" width="{MIDDLE}" height="{height - 2 * PAD - TITLE}" rx="6" fill="#2f4a5c"/>',
        _text(shown[name], WIDTH / 2, PAD + 15, "middle", 'fill="#fff" font-weight="bold"'),
    ]
    for number, link in enumerate(left):
        parts += _row(link, shown, number, box=PAD, dot=middle, anchor="start")
    for number, link in enumerate(right):
        parts += _row(link, shown, number, box=WIDTH - PAD - BOX, dot=middle + MIDDLE, anchor="end")
    return "\n".join([*parts, "</svg>", ""])


def _row(link: Link, shown: dict[str, str], number: int, *, box: int, dot: int, anchor: str) -> list[str]:
    """Return a node at the side, the line to the node in the middle, and the socket's name."""
    y = PAD + TITLE + number * ROW + ROW // 2
    edge, inward = (box + BOX, 8) if anchor == "start" else (box, -8)
    colour, title = COLOURS.get(link.type, OTHER_COLOUR), shown.get(link.other, link.other)
    return [
        f'<rect x="{box}" y="{y - 12}" width="{BOX}" height="24" rx="5" fill="#35353b"/>',
        _text(title, box + BOX / 2, y + 4, "middle", f'fill="#ddd"{_squeezed(title, BOX - 8)}'),
        f'<line x1="{edge}" y1="{y}" x2="{dot}" y2="{y}" stroke="{colour}" stroke-width="2.5"/>',
        f'<circle cx="{dot}" cy="{y}" r="4" fill="{colour}"/>',
        _text(link.socket, dot + inward, y + 4, anchor, 'fill="#cfe3f0" font-size="10"'),
    ]


def _text(text: str, x: float, y: float, anchor: str, style: str) -> str:
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" {style}>{escape(text)}</text>'


def _squeezed(title: str, width: int) -> str:
    """Return the attributes that fit a title into a width, if it is longer."""
    letter = LETTERS["zh" if any(ord(letter) > 0x2E80 for letter in title) else "en"]
    return f' textLength="{width}" lengthAdjust="spacingAndGlyphs"' if len(title) * letter > width else ""


def rendered() -> dict[Path, str]:
    """Return the content of every file. ComfyUI must be importable: ``harness.in_process.use_comfyui``."""
    return {
        PAGES / name / f"{language}.svg": picture(name, sides, language)
        for name, sides in wiring().items()
        for language in LANGUAGES
    }


def main() -> None:
    """Write the files."""
    from harness.in_process import use_comfyui

    use_comfyui()
    for path, text in rendered().items():
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()

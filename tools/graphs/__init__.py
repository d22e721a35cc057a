"""The graphs for artists, described once: as workflow files, and as tiny twins that run on a CPU in seconds.

for graph in build_all(): ...        # every Graph
tiny_twin("wan_t2v_training_free")   # API format, with the models and inputs of tiny.write_inputs
ui(tiny_graph("wan_t2v_training_free"))   # the same for the front end
"""

from .graph import Graph, api
from .graphs import WORKFLOWS, build, build_all, title
from .tiny import SMALLEST, TinySize, has_trained, tiny_graph, tiny_twin, write_inputs
from .ui import ui

__all__ = [
    "SMALLEST", "WORKFLOWS", "Graph", "TinySize", "api", "build", "build_all", "has_trained", "tiny_graph", "tiny_twin",
    "title", "ui", "write_inputs",
]  # fmt: skip

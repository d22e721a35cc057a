"""ComfyUI's own front end in a real browser, for tests: a workspace with every file that the workflows name, and a page."""

import json
import shutil
from contextlib import contextmanager
from pathlib import Path

from boxes import around, box, node_box, overlapping
from playwright.sync_api import Page, expect

from harness.workspace import ROOT, Workspace, prepare
from tools.graphs import write_inputs

WORKFLOWS = ROOT / "workflows"
SAVED = ROOT / "tests" / "browser" / "saved"
SCREENSHOTS = ROOT / "output" / "screenshots"
PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking")
PATIENCE = 60_000
"""Timeout in milliseconds, for a machine that is busy with other tests."""

WINDOW = {"width": 2400, "height": 1350}

SETTINGS = {"Comfy.TutorialCompleted": True, "Comfy.Minimap.Visible": False}
"""No template browser at the first start, and no map in the corner."""

FOLDERS = {
    "UNETLoader": "diffusion_models",
    "CLIPLoader": "text_encoders",
    "VAELoader": "vae",
    "CLIPVisionLoader": "clip_vision",
    "PyramidalWanStageLoRA": "loras",
    "LoraLoaderModelOnly": "loras",
    "PyramidalWanFromFile": "",
    "PyramidalWanLoadConditioning": "../input/conditioning",
    "PyramidalWanLoadDraft": "../input/drafts",
    "LoadImage": "../input",
    "LoadVideo": "../input",
}
"""Folder of the file in a node's first widget, relative to the models folder."""

UP = """() => window.app?.vueAppReady && app.extensionManager.workflow.activeWorkflow
  && app.graph?.nodes.length && !document.querySelector('.p-blockui-mask')"""
"""The front end has started and opened its initial graph, which would replace a graph that is opened earlier."""

RECORD = """() => {
  window.seen = []
  const note = (kind, more) => { const entry = {kind, ...more}; window.seen.push(entry); return entry }
  const shown = id => app.graph.getNodeById(id)?.progress
  const on = (kind, listener) => app.api.addEventListener(kind, event => listener(event.detail))
  on('progress', ({node, value, max}) => note('progress', {node, value, max, shown: shown(node)}))
  on('progress_state', ({nodes}) => {
    for (const {node_id: node, value, max} of Object.values(nodes)) note('state', {node, value, max})
  })
  on('b_preview_with_metadata', async ({blob, nodeId: node}) => {
    const entry = note('preview', {node})
    const image = await createImageBitmap(blob)
    const paint = new OffscreenCanvas(16, 16).getContext('2d')
    paint.drawImage(image, 0, 0, 16, 16)
    entry.colours = new Set(new Uint32Array(paint.getImageData(0, 0, 16, 16).data.buffer)).size
  })
  on('executed', ({node, output}) => note('executed', {node, output}))
  on('progress_text', ({nodeId: node, text}) => note('text', {node, text}))
  on('execution_error', ({exception_message: message, node_id: node}) => note('error', {message, node}))
  on('execution_interrupted', () => note('interrupted'))
  on('execution_success', () => note('success'))
  const {fetch} = window
  window.fetch = async (...given) => {
    const answer = await fetch(...given)
    if (String(given[0].url ?? given[0]).endsWith('/interrupt')) note('cancelled')
    return answer
  }
}"""
"""Record the server's events in order, with their effect on the page."""

NODES = """() => app.graph.nodes.map(node => ({
  refused: (node.widgets ?? []).filter(({type, options, value}) =>
    type == 'combo' && Array.isArray(options.values) && !options.values.includes(value)).map(widget => widget.name),
  id: Number(node.id), type: node.type, known: node.type in LiteGraph.registered_node_types && !node.has_errors,
  pos: [...node.pos], size: [...node.size],
  inputs: (node.inputs ?? []).map(input => [input.name, input.link == null ? null : Number(input.link)]),
  widgets: (node.widgets ?? []).filter(widget => widget.serialize !== false).map(widget => [widget.name, widget.value]),
}))"""

GROUPS = "() => Object.fromEntries(app.graph.groups.map(group => [group.title, [...group.boundingRect]]))"

LINKS = """() => [...app.graph.links.values()].map(link =>
  [link.id, link.origin_id, link.origin_slot, link.target_id].map(Number))"""

TEXTS = ".comfy-markdown .tiptap, .comfy-markdown-content, textarea.comfy-multiline-input"
"""Selector of notes, in the old and the new design of nodes, and of prompts."""

CUT_OFF = """texts => [...document.querySelectorAll(texts)].filter(text => text.scrollHeight > text.clientHeight + 1)
  .map(text => (text.value ?? text.innerText).slice(0, 40))"""

BENEATH = """inset => {
  const lines = [...app.graph.links.values(), ...(app.graph.reroutes?.values() ?? [])].map(line => line.path).filter(Boolean)
  const boxes = app.graph.nodes.map(node => node.boundingRect)
  const [left, top] = [0, 1].map(i => Math.floor(Math.min(...boxes.map(box => box[i]))))
  const [right, bottom] = [0, 1].map(i => Math.ceil(Math.max(...boxes.map(box => box[i] + box[i + 2]))))
  const [columns, rows] = [right - left + 1, bottom - top + 1]
  const paint = new OffscreenCanvas(columns, rows).getContext('2d', {willReadFrequently: true})
  paint.translate(-left, -top)
  paint.lineWidth = 2
  lines.forEach(line => paint.stroke(line))
  const {data} = paint.getImageData(0, 0, columns, rows)
  const painted = ([x, y]) => data[4 * (Math.floor(y - top) * columns + Math.floor(x - left)) + 3] > 127
  const crossed = app.graph.nodes.filter(node => {
    const [x, y] = node.pos, [width, height] = node.size, border = []
    for (let down = y - 30; down <= y + height; down += 2) border.push([x + inset, down], [x + width - inset, down])
    for (let right = x + inset; right <= x + width - inset; right += 2) border.push([right, y - 30], [right, y + height])
    return border.some(painted)
  })
  return [lines.length, crossed.map(node => node.title)]
}"""
"""The number of drawn links and pieces of links, and the nodes that one of them passes beneath; a link may cover the edge of a
node, where its sockets are."""

FIT = """() => {
  const things = [...app.graph.nodes, ...app.graph.groups].map(thing => thing.boundingRect)
  const ends = [Math.min, Math.min, Math.max, Math.max].map((pick, i) =>
    pick(...things.map(thing => i < 2 ? thing[i] : thing[i - 2] + thing[i])))
  const canvas = app.canvas.canvas.getBoundingClientRect(), {ds} = app.canvas
  const [left, top, rest] = [70, 130, 20]
  ds.scale = Math.min(1, (canvas.width - left - rest) / (ends[2] - ends[0]), (canvas.height - top - rest) / (ends[3] - ends[1]))
  ds.offset[0] = left / ds.scale - ends[0]
  ds.offset[1] = top / ds.scale - ends[1]
  app.canvas.setDirty(true, true)
}"""
"""Fit the whole graph between the side bar and the buttons."""

TEXT_ON = """id => app.graph.getNodeById(id).widgets?.find(widget => widget.name === '$$node-text-preview')?.value ?? ''"""
"""The text that is shown on a node."""

WIDGETS_OF = """id => Object.fromEntries(app.graph.getNodeById(id).widgets.map(widget => [widget.name, widget.value]))"""

CHOOSE = """([id, name, value]) => {
  const node = app.graph.getNodeById(id)
  const widget = node.widgets.find(widget => widget.name === name)
  const {canvas} = app
  widget.setValue ? widget.setValue(value, {e: new MouseEvent('click'), node, canvas}) : widget.callback(widget.value = value)
}"""
"""Set a widget as a click on the canvas does."""

SELECT = """kind => {
  const node = app.graph.nodes.find(node => node.type == kind)
  app.canvas.selectNode(node)
  app.canvas.centerOnNode(node)
}"""

ON_PAGE = """([x, y]) => {
  const {ds, canvas} = app.canvas, {left, top} = canvas.getBoundingClientRect()
  return [left + (x + ds.offset[0]) * ds.scale, top + (y + ds.offset[1]) * ds.scale]
}"""
"""The place of a point of the graph on the page."""

SOCKETS = """([source, output, target, input]) => {
  const [from, to] = [source, target].map(id => app.graph.getNodeById(id))
  const [start, end] = [from.findOutputSlot(output), to.findInputSlot(input)]
  if (start < 0 || end < 0) throw Error(`no output ${output} or no input ${input}`)
  return [from.getOutputPos(start), to.getInputPos(end)].map(([x, y]) => [x, y])
}"""

"""Where an output and an input of two nodes are in the graph."""

LINKED = """([source, target, input]) => {
  const node = app.graph.getNodeById(target)
  return node.getInputNode(node.findInputSlot(input))?.id == source
}"""

RUN = "[data-testid=queue-button] button, button[data-testid=queue-button]"
"""In older front ends the button is inside the element of that name, in newer ones it is that element."""

EDGE = 14
"""Pixels at both sides of a node that a link may cover."""

DRAWN = "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 250))))"


def browser_program():
    """Return the path of the system's Chromium or Chrome, or None."""
    return next(filter(None, map(shutil.which, PROGRAMS)), None)


def front_end_workspace(folder: Path, comfyui: Path, graphs: list[Path]) -> Workspace:
    """Prepare a workspace with the tiny models and an empty file for every name in the graphs, which then miss nothing."""
    workspace = Workspace(comfyui, folder / "base", folder / "output")
    prepare(workspace)
    write_inputs(workspace)
    for graph in graphs:
        for node in json.loads(graph.read_text(encoding="utf-8"))["nodes"]:
            if node["type"] in FOLDERS:
                _put(workspace.base / "models" / FOLDERS[node["type"]] / node["widgets_values"][0])
    user = workspace.base / "user" / "default"
    user.mkdir()
    (user / "comfy.settings.json").write_text(json.dumps(SETTINGS))
    return workspace


def _put(path: Path) -> None:
    tiny = path.with_name(f"tiny{path.suffix}")
    path.parent.mkdir(parents=True, exist_ok=True)
    if tiny.exists():
        shutil.copy(tiny, path)  # an image or a video that the page displays
    else:
        path.touch()


class FrontEnd:
    """A page with the front end.

    Attributes:
        page: The page of the browser.
        errors: Errors in its console since the last graph was opened.
    """

    def __init__(self, page: Page, url: str):
        self.page = page
        self.errors: list[str] = []
        page.set_default_timeout(PATIENCE)
        expect.set_options(timeout=PATIENCE)
        page.goto(url)
        self._started()
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", self._console)

    def _started(self) -> None:
        self.page.wait_for_function(UP)
        self.page.evaluate(RECORD)

    def reload(self) -> None:
        """Reload the page, to apply settings at once that newer front ends would apply later."""
        self.page.reload()
        self._started()

    def _console(self, message):
        """Collect errors, except that the server forbids the page to look up the pack in the registry."""
        if message.type == "error" and "Content Security Policy" not in message.text:
            self.errors.append(f"{message.text} ({message.location.get('url')})")

    def open(self, flow: dict) -> None:
        self.errors.clear()
        self.page.evaluate("flow => app.loadGraphData(flow, true, true, null)", flow)
        self.drawn()

    def drawn(self) -> None:
        self.page.evaluate(DRAWN)

    def nodes(self) -> dict[int, dict]:
        return {node["id"]: node for node in self.page.evaluate(NODES)}

    def links(self) -> list[list]:
        return self.page.evaluate(LINKS)

    def click_run(self) -> None:
        self.page.evaluate("seen.length = 0")
        self.page.locator(RUN).filter(has_text="Run").first.click()

    def wait_for(self, *kinds: str) -> list[dict]:
        """Wait for an event of one of these kinds, and return all events since the click."""
        ends = list(kinds)
        self.page.wait_for_function("kinds => seen.some(entry => kinds.includes(entry.kind))", arg=ends, timeout=120_000)
        self.page.wait_for_function("seen.every(entry => entry.kind != 'preview' || entry.colours)")
        return self.page.evaluate("seen")

    def run(self) -> list[dict]:
        self.click_run()
        seen = self.wait_for("success", "error", "interrupted")
        assert seen[-1]["kind"] == "success", seen[-1]
        self.drawn()
        return seen

    def wait_for_video(self, prefix: str, width: int) -> None:
        """Wait until the page has decoded and shows the last video whose file has this prefix."""
        name = prefix.rpartition("/")[2]
        shown = self.page.locator(f"video[src*='filename={name}_0']").last
        expect(shown).to_be_attached()
        self.page.wait_for_function("([video, width]) => video.videoWidth == width", arg=[shown.element_handle(), width])

    def text_on(self, node: int) -> str:
        """Return the text that is shown on a node."""
        return self.page.evaluate(TEXT_ON, node)

    def widgets_of(self, node: int) -> dict:
        return self.page.evaluate(WIDGETS_OF, node)

    def choose(self, node: int, widget: str, value: object) -> None:
        self.page.evaluate(CHOOSE, [node, widget, value])
        self.drawn()

    @contextmanager
    def setting(self, name: str, value: object, *, usually: object):
        """Change a setting, and restore it afterwards, because the server stores it for every page."""
        change = "([name, value]) => app.extensionManager.setting.set(name, value)"
        self.page.evaluate(change, [name, value])
        try:
            yield
        finally:
            self.page.evaluate(change, [name, usually])

    def add_node(self, title: str, kind: str, x: float, y: float) -> int:
        """Add a node as an artist does: search for its title from an empty place of the graph, Enter, a click.

        Returns:
            The node's id.
        """
        before = set(self.nodes())
        place = self.page.evaluate(ON_PAGE, [x, y])
        self.page.mouse.dblclick(*place)
        expect(self.page.get_by_role("dialog").locator("input")).to_be_focused()
        self.page.keyboard.type(title)
        expect(self.page.locator("[role=option]").first).to_contain_text(title)
        self.page.keyboard.press("Enter")
        self.page.wait_for_function("count => app.graph.nodes.length > count", arg=len(before))
        expect(self.page.get_by_role("dialog")).to_have_count(0)
        self.page.mouse.click(*place)  # in newer front ends the node follows the mouse until then
        self.page.wait_for_function("app.graph.nodes.every(node => !node.flags.ghost)")
        ((key, node),) = [(key, node) for key, node in self.nodes().items() if key not in before]
        assert node["type"] == kind
        return key

    def connect(self, source: int, output: str, target: int, socket: str) -> None:
        """Drag a link from an output to an input with the mouse."""
        start, end = (
            self.page.evaluate(ON_PAGE, place) for place in self.page.evaluate(SOCKETS, [source, output, target, socket])
        )
        mouse = self.page.mouse
        mouse.move(*start)
        mouse.down()
        mouse.move(*end, steps=10)
        mouse.up()
        self.page.wait_for_function(LINKED, arg=[source, target, socket])

    def select(self, kind: str) -> None:
        """Select the only node of that kind, and centre it in the window."""
        self.page.evaluate(SELECT, kind)

    def check_layout(self) -> None:
        """Check the graph as it is drawn: no overlaps, each node in one group, no note cut off, no link beneath a node."""
        shown = self.nodes().values()
        nodes = {node["id"]: node_box(node["pos"], node["size"]) for node in shown}
        groups = {title: box(*bounds) for title, bounds in self.page.evaluate(GROUPS).items()}
        assert not overlapping(nodes) and not overlapping(groups)
        boxes = {node["type"]: nodes[node["id"]] for node in shown}
        outside = [node["type"] for node in shown if len(around(groups, nodes[node["id"]])) != 1]
        assert not outside, f"not in exactly one group: {[(kind, boxes[kind]) for kind in outside]} of {groups}"
        assert self.page.locator(TEXTS).count() and not self.page.evaluate(CUT_OFF, TEXTS)
        drawn, crossed = self.page.evaluate(BENEATH, EDGE)
        assert drawn >= len(self.links()) and not crossed, f"a link passes beneath {crossed}"

    def check_nothing_asked(self) -> None:
        """Check that there is no dialog about missing nodes or models, and no error in the console."""
        expect(self.page.get_by_role("dialog")).to_have_count(0)
        assert not self.errors

    def screenshot(self, name: str, *, fit: bool = True) -> None:
        """Save a screenshot for visual inspection."""
        if fit:
            self.page.evaluate(FIT)
        self.drawn()
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SCREENSHOTS / f"{name}.png")

/**
 * Front-end behaviour of the PyramidalWan nodes, which also work without this file.
 *
 * - A choice sets other widgets ('quality'): nodes/schema.py `setting`.
 * - A choice shows its values on the node ('preset'): nodes/schema.py `explaining`.
 * - Widgets marked as advanced are shown where they have values of their own, so that nothing of a recipe is hidden.
 * - A node's report of its last run is saved with the graph and shown again when it is opened.
 * - The template browser lists the pack's graphs by number; the server lists files in the order of the file system.
 */
import { app } from "../../scripts/app.js"
import { api } from "../../scripts/api.js"

const PREFIX = "PyramidalWan"
const OPTION = "pyramidalwan"
const KEPT = "last run"
const TEXT_WIDGET = "$$node-text-preview"
const [LETTER, LINE, MARGIN] = [6.4, 16, 22] // of the text, in pixels
const MIN_WIDTH = 300 // shows the whole title of every node
const ENDS = ["execution_success", "execution_error", "execution_interrupted"]

const FOLDER = decodeURIComponent(new URL(import.meta.url).pathname.split("/extensions/").pop().split("/")[0])

const definitions = new Map()
const lastTexts = new Map()
let running = false // a graph of this page; texts about those of other pages arrive, too

const isOurs = node => definitions.has(node?.comfyClass ?? node?.type)
const definitionOf = node => definitions.get(node.comfyClass ?? node.type)
const widgetOf = (node, name) => node.widgets?.find(widget => widget.name === name)

/** Call `after` whenever a method of an object was called. */
function follow(object, method, after) {
  const original = object[method]
  object[method] = function (...given) {
    const result = original?.apply(this, given)
    after.apply(this, given)
    return result
  }
}

function setValue(widget, value) {
  if (!widget || widget.value === value) return
  widget.value = value
  widget.callback?.(value)
}

/** Write the values of the choice into the widgets that it sets. */
function applyChoice(node, name, { sets }) {
  const values = sets[widgetOf(node, name)?.value]
  if (!values) return
  node.pyramidalwanSetting = true
  try {
    for (const [other, value] of Object.entries(values)) setValue(widgetOf(node, other), value)
  } finally {
    node.pyramidalwanSetting = false
  }
  showAdvanced(node)
  node.setDirtyCanvas?.(true, true)
}

/** Set the choice to "custom" if a widget that it sets has another value, or gets it from another node. */
function leaveChoice(node, name, { sets, otherwise }, other, linked) {
  const combo = widgetOf(node, name)
  const values = sets[combo?.value]
  if (!values || node.pyramidalwanSetting || !(other in values)) return
  if (linked || widgetOf(node, other)?.value !== values[other]) setValue(combo, otherwise)
}

/** Show the advanced widgets of a node if one of them does not have its default. */
function showAdvanced(node) {
  const { inputs } = definitionOf(node)
  const changed = Object.entries(inputs).some(([name, [type, options]]) => {
    const usual = options?.default ?? (Array.isArray(type) ? type[0] : options?.options?.[0])
    const widget = widgetOf(node, name)
    return options?.advanced && widget && widget.value !== usual
  })
  if (changed && !node.showAdvanced) {
    node.showAdvanced = true
    node.expandToFitContent?.()
  }
}

/** Show a text on the node as ComfyUI shows a node's progress. */
function show(node, text) {
  if (!text || app.canvas?.graph !== node.graph) return
  api.dispatchEvent(new CustomEvent("progress_text", { detail: { nodeId: String(node.id), text, [OPTION]: true } }))
  makeRoom(node, text)
}

/** Enlarge a node until the text on it fits. */
function makeRoom(node, text) {
  const [width, height] = node.size
  const perLine = Math.max(10, (width - 50) / LETTER)
  const lines = text.split("\n").reduce((sum, line) => sum + Math.max(1, Math.ceil(line.length / perLine)), 0)
  const widget = widgetOf(node, TEXT_WIDGET)
  if (widget?.options) widget.options.getMinHeight = () => lines * LINE + MARGIN
  const needed = node.computeSize()[1]
  if (height < needed) node.setSize([width, needed])
}

/** Show the text of the choice, or what the node showed in its last run. */
function refresh(node) {
  const { choices } = definitionOf(node)
  for (const [name, option] of choices) {
    if (option.sets) applyChoice(node, name, option)
    if (option.texts) return show(node, option.texts[[name, option.also].map(each => widgetOf(node, each)?.value).join(", ")])
  }
  showAdvanced(node)
  if (node.properties?.[KEPT]) show(node, `${KEPT}: ${node.properties[KEPT]}`)
}

/** Return the node of an id such as "7", or "3:7" for one in a subgraph. */
function nodeOf(id) {
  let node = null
  for (const part of String(id).split(":")) {
    const graph = node ? node.subgraph : app.rootGraph ?? app.graph
    node = graph?.getNodeById(Number(part)) ?? graph?.getNodeById(part)
    if (!node) return null
  }
  return node
}

/** Keep what the nodes showed in the run that has ended. */
function keepTexts() {
  running = false
  let changed = false
  for (const [id, text] of lastTexts) {
    const node = nodeOf(id)
    if (!isOurs(node) || definitionOf(node).choices.some(([, option]) => option.texts)) continue
    changed ||= node.properties[KEPT] !== text
    node.properties[KEPT] = text
  }
  lastTexts.clear()
  const tracker = app.extensionManager?.workflow?.activeWorkflow?.changeTracker
  if (changed) (tracker?.captureCanvasState ?? tracker?.checkState)?.call(tracker)
}

function everyNode(graph) {
  const nodes = graph?.nodes ?? []
  return [...nodes, ...nodes.flatMap(node => (node.subgraph ? everyNode(node.subgraph) : []))]
}

function refreshAll(graph) {
  everyNode(graph).filter(isOurs).forEach(refresh)
}

/** Sort the pack's templates whenever the front end asks for all. */
function sortTemplates() {
  const list = api.getWorkflowTemplates
  if (!list) return
  api.getWorkflowTemplates = async function (...given) {
    const templates = await list.apply(this, given)
    templates?.[FOLDER]?.sort()
    return templates
  }
}

app.registerExtension({
  name: PREFIX,

  setup() {
    sortTemplates()
    api.addEventListener("progress_text", ({ detail }) => {
      if (detail[OPTION] || !detail.nodeId || !running) return
      lastTexts.set(String(detail.nodeId), detail.text)
      const node = nodeOf(detail.nodeId)
      if (isOurs(node)) makeRoom(node, detail.text)
    })
    api.addEventListener("execution_start", () => {
      running = true
      lastTexts.clear()
    })
    for (const end of ENDS) api.addEventListener(end, keepTexts)
    app.canvas?.canvas?.addEventListener("litegraph:set-graph", ({ detail }) => {
      requestAnimationFrame(() => refreshAll(detail?.newGraph)) // a subgraph was opened
    })
  },

  beforeRegisterNodeDef(nodeType, nodeData) {
    if (!nodeData.name.startsWith(PREFIX)) return
    const inputs = { ...nodeData.input?.required, ...nodeData.input?.optional }
    const choices = Object.entries(inputs).flatMap(([name, [, options]]) => (options?.[OPTION] ? [[name, options[OPTION]]] : []))
    definitions.set(nodeData.name, { inputs, choices })
    follow(nodeType.prototype, "onConnectionsChange", function (side, slot, connected, link, input) {
      const given = input ?? this.inputs?.[slot]
      for (const [name, option] of choices) {
        if (side === 1 && connected && option.sets && given?.widget) leaveChoice(this, name, option, given.widget.name, true)
      }
    })
  },

  nodeCreated(node) {
    if (!isOurs(node)) return
    for (const widget of node.widgets ?? []) widget.value ??= "" // a list without files would show "undefined"
    for (const [name, option] of definitionOf(node).choices) {
      const combo = widgetOf(node, name)
      if (!combo) continue
      follow(combo, "callback", () => refresh(node))
      const also = widgetOf(node, option.also)
      if (also) follow(also, "callback", () => refresh(node))
      const names = Object.values(option.sets ?? {}).flatMap(Object.keys)
      for (const other of new Set(names)) {
        const widget = widgetOf(node, other)
        if (widget) follow(widget, "callback", () => leaveChoice(node, name, option, other, false))
      }
    }
    if (node.size[0] < MIN_WIDTH) node.setSize([MIN_WIDTH, node.size[1]])
    requestAnimationFrame(() => node.graph && refresh(node))
  },

  afterConfigureGraph() {
    refreshAll(app.rootGraph ?? app.graph)
  },
})

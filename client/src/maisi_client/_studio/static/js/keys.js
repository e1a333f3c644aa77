// The keyboard: everything that the mouse can do with the view.

import { $, h } from './dom.js'
import { send } from './ask.js'
import { painting, undo } from './paint.js'
import { drawPaint } from './paint_panel.js'
import { step } from './pane.js'
import { show, state } from './state.js'
import { closePolygon, dropPolygon, paintAtCrosshair } from './strokes.js'
import { openTab, openTabOf } from './tabs.js'
import { chooseLayout, choosePlanes, toggleLabels } from './toolbar.js'
import { openPanes } from './viewer.js'

const PLANES = ['all', 'axial', 'coronal', 'sagittal', 'render']
const STEPS = { // voxels along right, anterior, superior; R is on the left
  ArrowLeft: [1, 0, 0],
  ArrowRight: [-1, 0, 0],
  ArrowUp: [0, 1, 0],
  ArrowDown: [0, -1, 0],
  PageUp: [0, 0, 1],
  PageDown: [0, 0, -1],
}
const HELP = [
  ['1 to 5', 'All planes, axial, coronal, sagittal, 3D'],
  ['Arrows, Page Up, Page Down', 'Move the crosshair by a voxel'],
  ['J, K', 'The older, the newer picture of the session'],
  ['S, F, D, O', 'Side by side, flicker, difference, one'],
  ['L', 'Labels on and off'],
  ['G, Ctrl Enter', 'Generate'],
  ['P', 'Paint, and back to Generate'],
  ['Space, Enter', 'While you paint: a sphere or a fill at the crosshair'],
  ['[ and ]', 'Smaller and larger brush'],
  ['Enter, Escape', 'Close a polygon, drop it'],
  ['Ctrl Z', 'Undo a stroke'],
  ['?', 'This list'],
  ['Mouse', 'Click or drag: crosshair. Right button: window. Shift: move. Wheel: slices. While you paint, the left button paints, except with Ctrl, Alt or Shift'],
]

const letters = {
  s: () => chooseLayout('beside'),
  f: () => chooseLayout('flicker'),
  d: () => chooseLayout('difference'),
  o: () => chooseLayout('one'),
  l: toggleLabels,
  g: () => $('#generate') && !$('#generate').disabled && send(),
  p: () => openTabOf(openTab() === 'paint' ? 'ask' : 'paint'),
  j: () => neighbour(-1),
  k: () => neighbour(1),
  '[': () => resize(-1),
  ']': () => resize(1),
  '?': () => $('#help-dialog').showModal(),
  ' ': paintAtCrosshair,
  Enter: () => (painting.tool === 'polygon' ? closePolygon() : paintAtCrosshair()),
  Escape: dropPolygon,
}

function neighbour(shift) {
  const ids = [...state.pictures.keys()]
  const next = ids[ids.indexOf(state.shown.first) + shift]
  if (next) show(next)
}

function resize(mm) {
  painting.radius = Math.min(30, Math.max(1, painting.radius + mm))
  drawPaint()
}

export function startKeys() {
  $('#keys').append(...HELP.map(([keys, text]) => h('div', {}, h('dt', {}, keys), h('dd', {}, text))))
  $('#help').addEventListener('click', () => $('#help-dialog').showModal())
  document.addEventListener('keydown', press, true)
  // NiiVue has keys of its own, among them one that opens an alert.
  document.addEventListener('keyup', (event) => event.target.closest?.('.pane') && event.stopPropagation(), true)
}

function press(event) {
  const inView = event.target.closest?.('.pane')
  if (inView) event.stopPropagation()
  if (document.querySelector('dialog[open]')) return
  const typing = event.target.closest?.('input:not([type=range]):not([type=checkbox]), textarea, select')
  if (event.ctrlKey || event.metaKey) {
    if (event.key === 'z' && !typing && painting.mask) {
      event.preventDefault()
      undo()
    }
    if (event.key === 'Enter' && $('#generate') && !$('#generate').disabled) send()
    return
  }
  if (typing || event.altKey) return
  const inControl = event.target.closest?.('button, input, summary, a')
  const usesArrows = event.target.closest?.('[role=tab], input')
  if (STEPS[event.key] && !usesArrows && openPanes()[0]) {
    event.preventDefault()
    return step(openPanes()[0], STEPS[event.key])
  }
  if (inControl && ['Enter', ' '].includes(event.key)) return
  if (event.key === ' ') event.preventDefault() // it would scroll
  if (/^[1-5]$/.test(event.key)) return choosePlanes(PLANES[Number(event.key) - 1])
  letters[event.key]?.()
}

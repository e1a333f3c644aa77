// The panel of the painting tools.

import { $, h, redraw, swatch } from './dom.js'
import { choice, named, row, slider, tick } from './fields.js'
import { insert, keepMask, painting, paintLabels, shownVolume, undo } from './paint.js'
import { colour, state } from './state.js'

const TOOLS = [
  ['sphere', 'Sphere', 'Click, or draw with the button held down.'],
  ['polygon', 'Polygon', 'Click corners in one plane; a double click or Enter closes it, Escape drops it.'],
  ['fill', 'Fill', 'Click a region to give all of it the label.'],
  ['restore', 'Restore', 'Restores the labels under a sphere.'],
]

/** Draw the panel as `painting` is now. */
export function drawPaint() {
  const panel = $('#paint')
  if (painting.mask && painting.label === null) {
    redraw(panel, h('h3', {}, 'No labels'), h('p', { class: 'hint' }, `${state.variant ?? 'The server'} takes no label masks; choose another variant.`))
    return
  }
  if (!painting.mask) {
    redraw(
      panel,
      h('h3', {}, 'Nothing to paint on'),
      h('p', { class: 'hint' }, 'Show a label mask, or a volume that was made from one. Then choose a label and click into the picture.'),
    )
    return
  }
  const volume = shownVolume()
  const done = painting.strokes.length > 0
  redraw(
    panel,
    ...[lesions()].flat(),
    labelField(),
    tools(),
    ...(['sphere', 'restore'].includes(painting.tool)
      ? [named('radius', row('Radius', slider(painting.radius, { low: 1, high: 30, step: 0.5, name: 'Radius', write: (mm) => `${mm} mm` }, (mm) => (painting.radius = mm))))]
      : []),
    tick('leave-background', 'Leave background as it is', painting.keep, (keep) => (painting.keep = keep)),
    h('div', { class: 'row' },
      h('button', { type: 'button', id: 'undo', disabled: !done, onclick: undo }, 'Undo'),
      h('button', { type: 'button', id: 'keep', disabled: !done || painting.sending, onclick: keepMask }, 'Keep as new mask')),
    ...(volume ? insertion(done && !painting.sending) : [h('p', { class: 'hint' }, 'To put a lesion into a volume, show a volume that was made from this mask.')]),
  )
}

function select(label) {
  painting.label = label
  drawPaint()
}

function lesions() {
  const labels = paintLabels().filter(({ lesion }) => lesion).slice(0, 8)
  if (labels.length === 0) return []
  return h('fieldset', { class: 'chips' }, h('legend', {}, 'Lesions'), labels.map(({ id, name }) =>
    h('button', { type: 'button', id: `lesion-${id}`, class: 'chip', 'aria-pressed': painting.label === id, onclick: () => select(id) },
      swatch(colour(id)), name)))
}

function labelField() {
  const labels = paintLabels().map(({ id, name }) => [String(id), `${name} (${id})`])
  const options = [...labels, ['0', 'background (0)']]
  return named('label', row('Label', choice(options, String(painting.label), (value) => select(Number(value)))))
}

function tools() {
  const hint = TOOLS.find(([name]) => name === painting.tool)[2]
  return h('div', { class: 'field wide' },
    h('div', { class: 'segments', role: 'group', 'aria-label': 'Tool', id: 'tools' }, TOOLS.map(([name, text]) =>
      h('button', { type: 'button', id: `tool-${name}`, 'aria-pressed': painting.tool === name, onclick: () => chooseTool(name) }, text))),
    h('p', { class: 'hint' }, hint))
}

/** Paint with another tool: sphere, polygon, fill, restore. */
export function chooseTool(name) {
  painting.tool = name
  drawPaint()
}

function insertion(done) {
  return [
    named('insert-strength', row('Strength', slider(painting.strength, { low: 0.1, high: 1, step: 0.05, name: 'Strength', write: (value) => value.toFixed(2) }, (value) => (painting.strength = value)),
      'How much of the volume may change.')),
    h('div', { class: 'row' },
      h('button', { type: 'button', id: 'insert', class: 'primary', disabled: !done || !state.server.reachable, onclick: insert }, 'Insert into the volume')),
  ]
}

// Details of the shown picture, and its files.

import { $, h, redraw, say, swatch } from './dom.js'
import { explain, fileOf, getCommand } from './api.js'
import { closestAxes } from './affine.js'
import { colour, labelName, maskOf, on, show, showGrid, state, unit } from './state.js'
import { openTab } from './tabs.js'

const FILES = [
  ['nii.gz', 'NIfTI', 'mask volume'],
  ['report.json', 'Report', 'report'],
  ['plan.csv', 'Plan row', 'request'],
  ['dicom.zip', 'DICOM', 'report'],
]

export function startTake() {
  for (const name of ['tab', 'shown', 'pictures', 'server']) on(name, draw)
}

function draw() {
  if (openTab() !== 'take') return
  const picture = state.pictures.get(state.shown.first)
  if (!picture) {
    redraw($('#take'), h('h3', {}, 'No picture is shown'), h('p', { class: 'hint' }, 'Choose one in the session list. Its values, labels and files are here then.'))
    return
  }
  redraw(
    $('#take'),
    h('h3', {}, picture.title),
    facts(picture),
    files(picture),
    ...(picture.request ? [copies(picture)] : []),
    ...together(picture),
    ...(picture.labels?.length ? [labels(picture)] : []),
    ...(picture.report ? [report(picture.report)] : []),
  )
}

const by = (values) => values.map((value) => Math.round(value * 1000) / 1000).join(' × ')

/** Return the letters of the file's axes, such as RAS, as nibabel's aff2axcodes does. */
function orientation(affine) {
  const letters = []
  closestAxes(affine).forEach(({ axis, sign }, world) => {
    letters[axis] = ['LR', 'PA', 'IS'][world][sign > 0 ? 1 : 0]
  })
  return letters.join('')
}

function facts(picture) {
  const rows = [
    ['Voxels', by(picture.shape)],
    ['Spacing', `${by(picture.spacing)} mm`],
    ['Axes', orientation(picture.affine)],
  ]
  const link = (id) => h('button', { type: 'button', id: `show-${id}`, class: 'link', onclick: () => show(id) }, state.pictures.get(id).title)
  if (picture.kind === 'volume' && unit(picture)) rows.push(['Values', 'HU'])
  if (state.pictures.has(picture.mask)) rows.push(['Mask', link(picture.mask)])
  if (state.pictures.has(picture.source)) rows.push(['Begun with', link(picture.source)])
  return definitions(rows)
}

const definitions = (rows) => h('dl', {}, rows.map(([term, value]) => h('div', {}, h('dt', {}, term), h('dd', {}, value))))

function files(picture) {
  const fits = (needs) => picture[needs] || needs.split(' ').includes(picture.kind)
  return h('div', { class: 'files' }, FILES.filter(([, , needs]) => fits(needs)).map(([file, text]) =>
    h('a', { id: `file-${file}`, class: 'button', href: fileOf(picture.id, file), download: true }, text)))
}

/** Return a button that shows all volumes of a mask in a grid, where there are several. */
function together(picture) {
  const mask = maskOf(picture)
  const ids = [...state.pictures.values()].filter((other) => other.kind === 'volume' && maskOf(other) === mask).map(({ id }) => id)
  if (!mask || ids.length < 2) return []
  return [h('button', { type: 'button', id: 'together', class: 'wrap', onclick: () => showGrid(ids) }, `Show the ${ids.length} volumes of this mask in a grid`)]
}

let copied = { id: null, text: '' } // of the last picture that was copied from

function copies(picture) {
  const before = copied.id === picture.id ? copied.text : ''
  const text = h('textarea', { id: 'copied', readonly: true, rows: 6, hidden: before === '', value: before, 'aria-label': 'What was copied' })
  const copy = async (name, said) => {
    try {
      text.value = (await getCommand(picture.id))[name]
      text.hidden = false
      copied = { id: picture.id, text: text.value }
      await navigator.clipboard.writeText(text.value)
      say(`${said} is copied.`)
    } catch (error) {
      if (text.hidden) return say(explain(error), 'error')
      text.select()
      say('The browser does not let this page copy; the text is selected.')
    }
  }
  return h('div', { class: 'copies' },
    h('div', { class: 'row' },
      h('button', { type: 'button', id: 'copy-command', onclick: () => copy('command', 'The command') }, 'Copy as command'),
      h('button', { type: 'button', id: 'copy-python', onclick: () => copy('python', 'The Python code') }, 'Copy as Python')),
    text)
}

function labels(picture) {
  const largest = [...picture.labels].filter(({ id }) => id !== 0).sort((one, other) => other.ml - one.ml)
  return h('section', {}, h('h3', {}, 'Labels'), h('ul', { class: 'labels' }, largest.map(({ id, ml }) =>
    h('li', {}, swatch(colour(id)), h('span', {}, labelName(id, picture)), h('small', {}, `${ml < 10 ? ml.toFixed(1) : Math.round(ml)} ml`)))))
}

function report(values) {
  const rows = []
  for (const [name, value] of Object.entries(values)) {
    if (['string', 'number', 'boolean'].includes(typeof value)) rows.push([name.replaceAll('_', ' '), String(value)])
    else if (Array.isArray(value) && value.length <= 3 && value.every((item) => typeof item === 'number')) rows.push([name.replaceAll('_', ' '), value.length === 3 ? by(value) : value.join(' to ')])
  }
  const warnings = (values.warnings ?? []).map((warning) => h('p', { data: { kind: 'warning' } }, warning))
  return h('section', {}, h('h3', {}, 'Report'), warnings, definitions(rows))
}

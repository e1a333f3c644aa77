// The form of a request. It offers what the chosen variant can do, and nothing else.

import { $, h, redraw } from './dom.js'
import { anythingWrong, startAdvice, updateAdvice } from './advice.js'
import { anatomyFields, defaultAnatomy } from './anatomy.js'
import { request } from './batch.js'
import { choice, named, number, row, setOptions, slider } from './fields.js'
import { manyFields, requestsOf } from './many.js'
import { changed, maskOf, on, state, variant } from './state.js'

/** What is asked for. null is the variant's default. */
export const ask = {
  start: 'none', // none, anatomy, or the id of a mask
  source: '', // the id of a volume, or '' for noise
  preset: '',
  modality: null,
  size: null,
  spacing: null,
  anatomy: {},
  seed: randomSeed(),
  again: false, // keep the seed
  steps: null,
  guidance: null,
  solver: null,
  strength: 0.6,
  redraws: 0,
  regions: [null, null],
  many: 'one', // one, modalities, strength, guidance, steps
  modalities: null,
  values: '',
}

/** Return a seed that people can read and type. */
function randomSeed() {
  return crypto.getRandomValues(new Uint32Array(1))[0] % 1e6
}

const MOST_REDRAWS = 5 // _MOST_REDRAWS of backends/maisi/request.py

const pictures = (kind) => [...state.pictures.values()].filter((picture) => picture.kind === kind).reverse()
const titled = (picture, index, all) => {
  const alike = all.filter((other) => other.title === picture.title).length > 1
  const seed = picture.request?.seed
  return [picture.id, alike ? `${picture.title} (${seed === undefined ? picture.id.slice(0, 4) : `seed ${seed}`})` : picture.title]
}

export function startAsk() {
  startAdvice()
  on('server', () => {
    defaults()
    draw()
  })
  on('pictures', () => {
    if (!['none', 'anatomy'].includes(ask.start) && !state.pictures.has(ask.start)) ask.start = 'none'
    if (ask.source && !state.pictures.has(ask.source)) ask.source = ''
    if ($('#source') && unchanged(asked, inputsOf())) offerPictures()
    else draw()
  })
  $('#ask').addEventListener('input', () => {
    for (const id of ['#generate', '#mask-only']) if ($(id) && anythingWrong()) $(id).disabled = true
    updateAdvice()
  })
  on('shown', () => {
    const picture = state.pictures.get(state.shown.first)
    const mask = picture?.kind === 'mask' || (ask.start === 'none' && !startChosen) ? maskOf(picture) : null
    if (mask && mask.id !== ask.start && ask.source === '' && variant()?.masks) {
      ask.start = mask.id
      draw()
    }
  })
}

const unchanged = (one, other) => JSON.stringify(one) === JSON.stringify(other)

/** Offer the pictures of the session as mask and source; the rest of the form stays as it is. */
function offerPictures() {
  if ($('#start')) setOptions($('#start'), starts(variant()), ask.start)
  setOptions($('#source'), sources(), ask.source)
}

const starts = (chosen) => [
  ['none', 'None'],
  ...(Object.keys(chosen.anatomy).length ? [['anatomy', 'Made from sizes']] : []),
  ...pictures('mask').map(titled),
]
const sources = () => [['', 'Noise'], ...pictures('volume').map(titled)]

let asked = null // the mask and the source that the form was drawn for
let drawnFor = null
let startChosen = false // the person has chosen what to begin with

/** Set what the variant has as defaults, after another one was chosen. */
function defaults() {
  const chosen = variant()
  if (!chosen || drawnFor === chosen.name) return
  drawnFor = chosen.name
  Object.assign(ask, { preset: '', size: null, spacing: null, steps: null, guidance: null, solver: null })
  Object.assign(ask, { modality: chosen.defaults.modality, regions: [null, null], modalities: null })
  ask.anatomy = defaultAnatomy(chosen)
  if (!chosen.masks) ask.start = 'none'
  if (ask.start === 'anatomy' && Object.keys(chosen.anatomy).length === 0) ask.start = 'none'
}

/** Return the arguments of the form as the server knows them. */
export function argumentsOf() {
  const chosen = variant()
  const withMask = state.pictures.has(ask.start)
  const values = { variant: state.variant, modality: ask.modality, seed: ask.seed }
  if (!withMask && !ask.source && ask.size) values.size = ask.size
  if (ask.spacing && !ask.source) values.spacing = ask.spacing
  for (const name of ['steps', 'guidance', 'solver']) if (ask[name] !== null) values[name] = ask[name]
  if (ask.source) values.strength = ask.strength
  if (ask.redraws > 0 && (withMask || ask.start === 'anatomy')) values.redraws = ask.redraws
  if (ask.start === 'anatomy') values.anatomy = ask.anatomy
  const [top, bottom] = ask.regions
  if (chosen?.regions.length && top) values.top_region = top
  if (chosen?.regions.length && bottom) values.bottom_region = bottom
  return values
}

/** Return the ids of the mask and the source, null for none. */
export const inputsOf = () => ({
  mask: state.pictures.has(ask.start) ? ask.start : null,
  source: ask.source || null,
})

/** Ask for what the form says; `kind` is volume, or mask for the mask alone. */
export async function send(kind = 'volume') {
  if (!ask.again) ask.seed = randomSeed()
  $('#seed').value = ask.seed
  const requests = kind === 'mask' ? [{ kind, ...inputsOf(), arguments: maskArguments() }] : requestsOf(argumentsOf(), inputsOf())
  await request(requests)
}

function maskArguments() {
  const { variant: name, anatomy, size, spacing, seed } = argumentsOf()
  return JSON.parse(JSON.stringify({ variant: name, anatomy, size, spacing, seed }))
}

function set(name, redraw = false) {
  return (value) => {
    ask[name] = value
    if (redraw) draw()
    else edited()
  }
}

const edited = () => {
  changed('ask')
  updateAdvice()
}

function draw() {
  const chosen = variant()
  const form = $('#ask')
  if (!chosen) {
    form.replaceChildren(h('p', { class: 'hint' }, 'No variant is served yet. The form appears when the server has one.'))
    return
  }
  asked = inputsOf()
  redraw(form, ...fields(chosen, form.querySelector('details')?.open), footer())
  edited()
}

function fields(chosen, more) {
  const { limits, defaults: usual } = chosen
  const masked = ask.start !== 'none'
  const names = Object.keys(state.server.variants)
  const steps = limits.steps ?? [1, 1000]
  const guidance = limits.guidance ?? [0, 20]
  const parts = [
    names.length > 1 && named('variant', row('Variant', choice(names.map((name) => [name, name]), state.variant, (name) => {
      state.variant = name
      changed('server')
    }))),
    chosen.masks && named('start', row('Label mask', choice(starts(chosen), ask.start, (value) => {
      startChosen = true
      ask.start = value
      draw()
    }))),
    named('modality', row('Modality', choice(Object.keys(chosen.modalities).map((name) => [name, name]), ask.modality, set('modality')))),
    Object.keys(chosen.presets).length > 0 && named('preset', row('Preset', choice([
      ['', 'None'], ...Object.entries(chosen.presets).map(([name, preset]) => [name, name, preset.caveat]),
    ], ask.preset, choosePreset))),
    named('source', row('Begin with', choice(sources(), ask.source, set('source', true)))),
    ask.source && named('strength', row('Strength', slider(ask.strength, { low: 0, high: 1, step: 0.05, name: 'Strength' }, set('strength')), '0 keeps the volume, 1 replaces it.')),
    !inputsOf().mask && !ask.source && sides(chosen),
    ask.start === 'anatomy' && anatomyFields(chosen, ask.anatomy, edited),
    seedField(),
    named('steps', row('Steps', number(ask.steps, { low: steps[0], high: steps[1], name: 'Steps', hint: usual.steps }, set('steps')))),
    h('details', { open: more }, h('summary', { id: 'more' }, 'More'),
      named('guidance', row('Guidance', number(ask.guidance, { low: guidance[0], high: guidance[1], step: 0.1, name: 'Guidance', hint: usual.guidance ?? 0 }, set('guidance')))),
      chosen.solvers.length > 1 && named('solver', row('Solver', choice(chosen.solvers.map((name) => [name, name]), ask.solver ?? usual.solver, set('solver')))),
      inputsOf().mask && !ask.source && spacingField(chosen, 'As the mask'),
      masked && named('redraws', row('Redraws', number(ask.redraws, { low: 0, high: MOST_REDRAWS, name: 'Redraws', hint: 0 }, set('redraws')), 'Tries again, at most so often, while the volume does not follow its mask.')),
      chosen.regions.length > 0 && [0, 1].map((end) => row(end ? 'Lowest region' : 'Top region', choice(
        [['', masked ? 'From the mask' : 'Default'], ...chosen.regions.map((name) => [name, name])], ask.regions[end] ?? '', (value) => {
          ask.regions[end] = value || null
          edited()
        })))),
    manyFields(chosen, ask, () => draw(), edited),
  ]
  return parts.flat().filter(Boolean)
}

function choosePreset(name) {
  ask.preset = name
  const preset = variant().presets[name]
  if (preset) Object.assign(ask, { modality: preset.modality, size: [...preset.size], spacing: [...preset.spacing] })
  else Object.assign(ask, { size: null, spacing: null })
  draw()
}

function triple(name, values, usual, { low, high, step }) {
  return [0, 1, 2].map((axis) => number((values ?? usual)?.[axis], { low: low[axis], high: high[axis], step, name: `${name === 'size' ? 'Size' : 'Spacing'} ${'XYZ'[axis]}`, hint: usual[axis] }, (value) => {
    ask[name] = [...(ask[name] ?? usual)]
    ask[name][axis] = value ?? usual[axis]
    edited()
  }))
}

function sides(chosen) {
  const { size, spacing, defaults: usual } = chosen
  return [
    row('Size, voxels', triple('size', ask.size, usual.size, { low: size.min, high: size.max, step: 1 })),
    row('Spacing, mm', triple('spacing', ask.spacing, usual.spacing, { low: spacing.min, high: spacing.max, step: 'any' })),
  ]
}

function spacingField({ spacing }, hint) {
  const value = ask.spacing?.[0] ?? null
  const limits = { low: Math.max(...spacing.min), high: Math.min(...spacing.max), step: 'any', name: 'Work at', hint }
  return row('Work at, mm', number(value, limits, (mm) => {
    ask.spacing = mm === null ? null : [mm, mm, mm]
    edited()
  }))
}

function seedField() {
  const keep = (again) => {
    ask.again = again
    for (const button of buttons) button.setAttribute('aria-pressed', (button.textContent === 'Again') === again)
  }
  const buttons = [false, true].map((again) =>
    h('button', {
      type: 'button',
      id: again ? 'seed-again' : 'seed-another',
      'aria-pressed': ask.again === again,
      title: again ? 'The same seed: with the same values it makes the same volume' : 'A new seed each time',
      onclick: () => keep(again),
    }, again ? 'Again' : 'Another'))
  const field = row('Seed', number(ask.seed, { low: 0, high: 2 ** 32 - 1, name: 'Seed', required: true }, (value) => {
    ask.seed = value
    keep(true)
    edited()
  }))
  field.querySelector('.inputs').append(h('div', { class: 'segments', role: 'group', 'aria-label': 'Seed' }, buttons))
  return named('seed', field)
}

function footer() {
  const only = ask.start === 'anatomy'
  return h('div', { class: 'footer' },
    h('div', { id: 'advice', 'aria-live': 'polite' }),
    h('div', { class: 'row' },
      h('button', { type: 'button', id: 'generate', class: 'primary', onclick: () => send() }, 'Generate'),
      only && h('button', { type: 'button', id: 'mask-only', onclick: () => send('mask') }, 'Mask only')))
}

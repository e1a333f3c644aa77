// Painting: a copy of the shown mask that is changed, kept as a new mask, or put into a volume.

import { say } from './dom.js'
import { explain, paint as sendMask } from './api.js'
import { request } from './batch.js'
import { imageOf } from './images.js'
import { drawPaint } from './paint_panel.js'
import { startStrokes } from './strokes.js'
import { openTab } from './tabs.js'
import { changed, labelName, maskOf, on, show, state, variant } from './state.js'
import { setWorkingMask } from './viewer.js'

const LESION = /tumou?r|lesion|hyperintens|cyst|metasta|nodule|cancer|h(a?)emorrhage/i

/** What is painted, and how. `mask` is null while nothing can be painted. */
export const painting = {
  mask: null, // image of the working copy
  picture: null, // the mask's picture
  original: null, // its voxels
  strokes: [], // Maps from index to the label before
  tool: 'sphere', // sphere, polygon, fill, restore
  label: null,
  radius: 6, // mm
  keep: true, // background stays background
  sending: false, // whether a mask is being kept
  strength: 0.6,
}

/** Return the labels of the variant, lesions first: [{ id, name, lesion }]. */
export function paintLabels() {
  const chosen = variant()
  const lesions = new Set(Object.values(chosen?.anatomy ?? {}).map((size) => size.label))
  const labels = Object.entries(chosen?.labels ?? {}).map(([key, name]) => {
    const id = Number(key)
    return { id, name, lesion: lesions.has(id) || LESION.test(name) }
  })
  return labels.filter(({ id }) => id !== 0).sort((one, other) => other.lesion - one.lesion || one.id - other.id)
}

export function startPaint() {
  startStrokes()
  const follow = () => update().catch((error) => say(explain(error), 'error'))
  on('tab', follow)
  on('shown', follow)
  on('pictures', follow)
  on('server', follow)
  window.addEventListener('beforeunload', (event) => state.busy && event.preventDefault())
}

const drafts = new Map() // id of a mask -> what is painted on it and not kept yet
const noteUnkept = () => (state.busy = [...drafts.values()].some(({ strokes }) => strokes.length > 0))
const NOTHING = { mask: null, picture: null, original: null, strokes: [] }

async function update() {
  for (const id of drafts.keys()) if (!state.pictures.has(id)) drafts.delete(id)
  noteUnkept()
  const picture = openTab() === 'paint' && state.shown.layout !== 'grid' ? maskOf(state.pictures.get(state.shown.first)) : null
  const labels = paintLabels()
  if (!labels.some(({ id }) => id === painting.label) && painting.label !== 0) painting.label = labels[0]?.id ?? null
  if (painting.picture?.id === picture?.id) return drawPaint()
  put(NOTHING)
  painting.picture = picture
  if (picture && !drafts.has(picture.id)) {
    const image = await imageOf(picture).catch((error) => {
      if (painting.picture?.id === picture.id) painting.picture = null // the next event tries again
      throw error
    })
    const mask = { ...image, id: `${image.id}-painted`, voxels: image.voxels.slice() }
    if (painting.picture?.id !== picture.id) return // another is shown meanwhile
    drafts.set(picture.id, { mask, picture, original: image.voxels, strokes: [] })
  }
  put(picture ? drafts.get(picture.id) : NOTHING)
  await setWorkingMask(picture?.id, painting.mask)
}

/** Paint on what a draft holds; that of before stays if it has strokes. */
function put(draft) {
  if (painting.mask && painting.strokes.length === 0) drafts.delete(painting.picture.id)
  Object.assign(painting, draft)
  noteUnkept()
  drawPaint()
}

/** Forget the first strokes of a draft, which are a picture of its own now. */
function forget(draft, count) {
  draft.strokes.splice(0, count)
  if (draft.strokes.length > 0) return noteUnkept()
  if (painting.picture?.id === draft.picture.id) put(NOTHING)
  drafts.delete(draft.picture.id)
  noteUnkept()
}

/** Note that a stroke was made: undo can take it back, and nothing else is shown meanwhile. */
export function addStroke(stroke) {
  if (stroke.size === 0) return
  painting.strokes.push(stroke)
  noteUnkept()
  drawPaint()
}

/** Take the last stroke back. */
export function undo() {
  const stroke = painting.strokes.pop()
  if (!stroke) return
  for (const [index, label] of stroke) painting.mask.voxels[index] = label
  noteUnkept()
  changed('painted')
  drawPaint()
}

/** Keep the mask as a new picture; return it, or null where it cannot be kept. */
async function keep() {
  if (painting.sending) return null
  const draft = drafts.get(painting.picture.id)
  const count = draft.strokes.length // more can be painted meanwhile
  painting.sending = true
  drawPaint()
  try {
    const picture = await sendMask(draft.picture.id, draft.mask.voxels, variantOf(shownVolume()))
    state.pictures.set(picture.id, picture)
    changed('pictures')
    forget(draft, count)
    return picture
  } catch (error) {
    say(explain(error), 'error')
    return null
  } finally {
    painting.sending = false
    drawPaint()
  }
}

/** Keep what was painted as a new mask, and show it. */
export async function keepMask() {
  const picture = await keep()
  if (!picture) return
  say(`${picture.title} is in the session list.`)
  show(picture.id)
}

/** Put what was painted into the shown volume, by image to image. */
export async function insert() {
  const volume = state.pictures.get(state.shown.first)
  const mask = await keep()
  if (!mask) return
  await update()
  const before = volume.request ?? {}
  const values = { variant: variantOf(volume), modality: before.modality ?? volume.report?.modality, strength: painting.strength }
  for (const name of ['steps', 'guidance', 'solver', 'seed']) {
    const value = before[name] ?? (name === 'seed' ? volume.report?.seed : undefined)
    if (value !== undefined && value !== null) values[name] = value
  }
  const sent = await request([{ kind: 'volume', mask: mask.id, source: volume.id, arguments: values }])
  if (sent) say(`${labelName(painting.label)} is being put into ${volume.title}.`)
}

/** Return the variant that made a volume, if it is served, else the chosen one. */
function variantOf(volume) {
  const name = volume?.request?.variant
  return name in state.server.variants ? name : state.variant
}

/** Return the picture of the main view if it is a volume, else null. */
export const shownVolume = () => {
  const picture = state.pictures.get(state.shown.first)
  return picture?.kind === 'volume' ? picture : null
}

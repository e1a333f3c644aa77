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
}

async function update() {
  if (openTab() !== 'paint') {
    if (painting.mask) await stop()
    return
  }
  const picture = maskOf(state.pictures.get(state.shown.first))
  painting.label ??= paintLabels()[0]?.id ?? null
  if (picture?.id === painting.picture?.id && (picture !== null) === (painting.mask !== null)) return drawPaint()
  if (painting.strokes.length > 0) say('What was painted and not kept is gone.')
  if (!picture || state.shown.layout === 'grid') return stop()
  painting.picture = picture
  const image = await imageOf(picture)
  if (painting.picture !== picture) return
  const voxels = image.voxels.slice()
  Object.assign(painting, { mask: { ...image, id: `${image.id}-painted`, voxels }, original: image.voxels, strokes: [] })
  state.busy = false
  drawPaint()
  await setWorkingMask(painting.mask)
}

async function stop() {
  Object.assign(painting, { mask: null, picture: null, original: null, strokes: [] })
  state.busy = false
  drawPaint()
  await setWorkingMask(null)
}

/** Note that a stroke was made: undo can take it back, and nothing else is shown meanwhile. */
export function addStroke(stroke) {
  if (stroke.size === 0) return
  painting.strokes.push(stroke)
  state.busy = true
  drawPaint()
}

/** Take the last stroke back. */
export function undo() {
  const stroke = painting.strokes.pop()
  if (!stroke) return
  for (const [index, label] of stroke) painting.mask.voxels[index] = label
  state.busy = painting.strokes.length > 0
  changed('painted')
  drawPaint()
}

/** Keep the mask as a new picture; return it, or null where it cannot be kept. */
async function keep() {
  try {
    const picture = await sendMask(painting.picture.id, painting.mask.voxels, state.variant)
    state.pictures.set(picture.id, picture)
    changed('pictures')
    return picture
  } catch (error) {
    say(explain(error), 'error')
    return null
  }
}

/** Keep what was painted as a new mask, and show it. */
export async function keepMask() {
  const picture = await keep()
  if (!picture) return
  painting.strokes = []
  state.busy = false
  say(`${picture.title} is in the session list.`)
  show(picture.id)
}

/** Put what was painted into the shown volume, by image to image. */
export async function insert() {
  const volume = state.pictures.get(state.shown.first)
  const mask = await keep()
  if (!mask) return
  painting.strokes = []
  state.busy = false
  const before = volume.request ?? {}
  const values = { variant: state.variant, modality: before.modality ?? volume.report?.modality, strength: painting.strength }
  for (const name of ['steps', 'guidance', 'solver', 'seed']) {
    const value = before[name] ?? (name === 'seed' ? volume.report?.seed : undefined)
    if (value !== undefined && value !== null) values[name] = value
  }
  const sent = await request([{ kind: 'volume', mask: mask.id, source: volume.id, arguments: values }])
  if (sent) say(`${labelName(painting.label)} is being put into ${volume.title}.`)
}

export const shownVolume = () => {
  const picture = state.pictures.get(state.shown.first)
  return picture?.kind === 'volume' ? picture : null
}

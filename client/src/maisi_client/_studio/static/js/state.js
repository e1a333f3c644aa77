// What the page knows, and who wants to hear of changes.

export const state = {
  server: { url: '', reachable: false, message: '', variants: {}, colours: {}, version: '' },
  pictures: new Map(), // id -> Picture
  jobs: new Map(), // id -> Job
  mine: new Set(), // ids of the jobs that this tab asked for and whose results it has not shown
  variant: null, // the name of the chosen one
  busy: false, // strokes on some mask are not kept: nothing else is to be shown by itself
  shown: {
    first: null, // id of the picture in the main view
    second: null, // id of the one that it is compared with
    layout: 'one', // one, beside, flicker, difference, grid
    planes: 'all', // all, axial, coronal, sagittal, render
    opacity: 0.3, // of labels over a volume
    grid: [], // ids
    grids: 'axial', // the plane of a grid
    windows: {}, // id -> [black, white], where it was changed
  },
}

const listeners = {}

/** Call `action` whenever `name` changes: server, pictures, jobs, shown, variant, ... */
export function on(name, action) {
  ;(listeners[name] ??= []).push(action)
}

/** Announce that `name` has changed. */
export function changed(name, value) {
  for (const action of listeners[name] ?? []) action(value)
}

/** Return the chosen variant, null while none is known. */
export const variant = () => state.server.variants[state.variant] ?? null

/** Return the colour of a label. */
export const colour = (id) => state.server.colours[id] ?? '#888888'

/** Return the name of a label: that of the variant, else that in the mask, else its number. */
export function labelName(id, mask = null) {
  if (id === 0) return 'background'
  const named = variant()?.labels?.[id] ?? mask?.labels?.find((label) => label.id === id)?.name
  return named ?? `label ${id}`
}

/** Return the picture of the mask that belongs to a picture, null if there is none. */
export function maskOf(picture) {
  if (!picture) return null
  if (picture.kind === 'mask') return picture
  return state.pictures.get(picture.mask) ?? null
}

/** Return the unit of a volume's values: HU for CT, else none, since MR has none. */
export function unit(picture) {
  const modality = picture.report?.modality ?? picture.request?.modality ?? ''
  return modality.startsWith('ct') ? 'HU' : ''
}

/** Show a picture in the main view. */
export function show(id) {
  const shown = state.shown
  shown.first = id
  if (shown.second === id) shown.second = null
  if (shown.layout === 'grid' || (shown.layout !== 'one' && !shown.second)) shown.layout = 'one'
  changed('shown')
}

/** Compare the picture of the main view with another. */
export function compare(id, layout = null) {
  const shown = state.shown
  if (id === shown.first) return
  shown.second = id
  shown.layout = layout ?? (['beside', 'flicker', 'difference'].includes(shown.layout) ? shown.layout : 'beside')
  changed('shown')
}

/** Show several pictures in a grid. */
export function showGrid(ids) {
  state.shown.grid = ids.slice(0, 12)
  state.shown.layout = 'grid'
  changed('shown')
}

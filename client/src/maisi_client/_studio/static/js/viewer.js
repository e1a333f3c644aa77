// The main view: one or two panes, or a grid, of what `state.shown` says.

import { $, eachFrame, say } from './dom.js'
import { explain } from './api.js'
import { difference, imageOf } from './images.js'
import { link, moveTo, openPane, setLook, setPlanes, setSharp, showImage } from './pane.js'
import { changed, maskOf, on, state } from './state.js'
import { hover, place } from './cursor.js'
import { describe } from './gallery.js'
import { drawGrid } from './grid.js'

const panes = []
const opening = [] // promises of the panes, so that each is opened once
let mm = [0, 0, 0] // of the crosshair
let drawn = 0 // counts the drawings, so that a slow one does not replace a later one
let working = { of: null, image: null } // the mask that is being painted, and whose copy it is

/** The panes that are open, the main one first. */
export const openPanes = () => panes

/** The place of the crosshair, mm in RAS+. */
export const crosshair = () => mm

/** Show an image, which is not a picture yet, in place of the mask `of`; null for that itself. */
export function setWorkingMask(of, image) {
  working = { of, image }
  panes.forEach((pane) => setSharp(pane, image !== null))
  return draw()
}

export function startViewer() {
  on('shown', draw)
  on('pictures', () => draw())
  on('window', eachFrame(() => panes.forEach((pane, index) => pane.image && setLook(pane, look(pane.image, index)))))
  on('planes', () => panes.forEach((pane) => setPlanes(pane, state.shown.planes)))
  setInterval(flicker, 700)
}

function flicker() {
  const area = $('#panes')
  if (state.shown.layout === 'flicker') area.dataset.top = area.dataset.top === '1' ? '0' : '1'
  else area.dataset.top = '0'
}

/** Return the window and opacity of an image in a pane. */
function look(image) {
  const range = state.shown.windows[image.id] ?? image.range
  return { range, opacity: state.shown.opacity, colours: state.server.colours }
}

/** Return the promise of a pane; the first is there before the second is asked for. */
function pane(index) {
  opening[index] ??= open()
  return opening[index]
}

async function open() {
  const opened = await openPane($('#panes'), {
    location: (at) => {
      mm = at
      place(at)
      changed('place', at)
    },
    hover: eachFrame(hover),
    window: (range) => setWindow(opened, range.map(Math.round)),
  })
  panes.push(opened)
  setPlanes(opened, state.shown.planes)
  setSharp(opened, working.image !== null)
  return opened
}

function setWindow(from, range) {
  if (from.image.kind === 'mask') return
  state.shown.windows[from.image.id] = range
  changed('windowed')
}

async function draw() {
  const { shown, pictures } = state
  const turn = ++drawn
  const first = pictures.get(shown.first) ?? null
  const second = pictures.get(shown.second) ?? null
  const area = $('#panes')
  $('#empty').hidden = first !== null || shown.layout === 'grid'
  $('#grid').hidden = shown.layout !== 'grid'
  area.hidden = first === null
  area.dataset.layout = second || shown.layout === 'grid' ? shown.layout : 'one'
  if (shown.layout === 'grid') return drawGrid(shown.grid.map((id) => pictures.get(id)).filter(Boolean))
  if (!first) return
  $('#view').setAttribute('aria-busy', 'true')
  try {
    await drawPanes(first, second, turn)
  } catch (error) {
    say(explain(error), 'error')
  }
  if (turn !== drawn) return
  $('#view').removeAttribute('aria-busy')
  changed('drawn')
}

async function drawPanes(first, second, turn) {
  const { layout } = state.shown
  const image = await imageOf(first)
  const painted = working.of === maskOf(first)?.id ? working.image : null
  const mask = painted ?? (await maskImage(first))
  const other = second && layout !== 'one' ? await imageOf(second) : null
  const otherMask = other ? await maskImage(second) : null
  if (turn !== drawn) return
  const main = await pane(0)
  if (layout === 'difference' && other) {
    const result = difference(image, other)
    main.title.textContent = `${caption(first)} minus ${caption(second)}`
    main.labels = mask
    link(panes, false)
    await showImage(main, result, null, look(result))
    return
  }
  const base = painted && first.kind === 'mask' ? painted : image
  main.title.textContent = other ? caption(first) : ''
  main.labels = base.kind === 'mask' ? base : mask
  await showImage(main, base, mask, look(base))
  if (!other) link(panes, false)
  if (other) {
    const beside = await pane(1)
    link(panes, true)
    beside.title.textContent = caption(second)
    beside.labels = other.kind === 'mask' ? other : otherMask
    await showImage(beside, other, otherMask, look(other))
    moveTo(beside, mm)
  }
}

const caption = (picture) => `${picture.title} (${describe(picture)})`

async function maskImage(picture) {
  const mask = maskOf(picture)
  if (!mask || mask === picture) return null
  return imageOf(mask)
}

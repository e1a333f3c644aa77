// The mouse while painting: it draws instead of moving the crosshair. Ctrl, Alt and the right button
// move and window as usual.

import { $, eachFrame } from './dom.js'
import { polygon, region, sphere, stamp } from './brush.js'
import { addStroke, painting } from './paint.js'
import { placeOf, redrawMask } from './pane.js'
import { colour, on } from './state.js'
import { crosshair, openPanes } from './viewer.js'

const SVG = 'http://www.w3.org/2000/svg'
let stroke = null // Map of the stroke that is being made
let corners = [] // of the polygon: { mm, plane, x, y }

const redraw = eachFrame(() => openPanes()[0] && redrawMask(openPanes()[0]))

export function startStrokes() {
  const area = $('#panes')
  area.addEventListener('mousedown', down, true)
  area.addEventListener('mousemove', move, true)
  area.addEventListener('dblclick', (event) => painting.mask && stop(event), true)
  window.addEventListener('mouseup', up, true)
  on('painted', redraw)
  on('tab', dropPolygon)
  on('shown', dropPolygon)
}

const stop = (event) => {
  event.preventDefault()
  event.stopPropagation()
}

/** Return where the event is in the main pane, null if it is not one of painting. */
function at(event) {
  const pane = openPanes()[0]
  if (!painting.mask || painting.label === null || event.target !== pane?.canvas) return null
  return placeOf(pane, event)
}

function down(event) {
  const place = event.button === 0 && !event.ctrlKey && !event.altKey && !event.shiftKey ? at(event) : null
  if (!place) return
  stop(event)
  openPanes()[0].canvas.focus()
  if (painting.tool === 'polygon') return corner(event, place)
  begin(place.mm)
  if (painting.tool === 'fill') up()
}

function begin(mm) {
  stroke = new Map()
  apply(painting.tool === 'fill' ? region(painting.mask, mm) : sphere(painting.mask, mm, painting.radius))
}

/** Make a stroke at the crosshair: a sphere, or a fill. A polygon needs the mouse. */
export function paintAtCrosshair() {
  if (!painting.mask || painting.label === null || painting.tool === 'polygon') return
  begin(crosshair())
  up()
}

function apply(indices) {
  const label = painting.tool === 'restore' ? null : painting.label
  const { mask, original } = painting
  // A fill of background is meant as one.
  stamp(mask, indices, label, { stroke, original, keep: painting.keep && painting.tool !== 'fill' })
  redraw()
}

function move(event) {
  const place = at(event)
  if (place && stroke) {
    stop(event)
    apply(sphere(painting.mask, place.mm, painting.radius))
  }
  outline(place)
}

function up() {
  if (!stroke) return
  const made = stroke
  stroke = null
  addStroke(made)
}

function corner(event, place) {
  if (corners.length > 0 && corners[0].plane !== place.plane) corners = []
  if (event.detail < 2) corners.push(place)
  if (event.detail >= 2) closePolygon()
  outline(place)
}

/** Give the voxels inside the polygon their label. */
export function closePolygon() {
  if (corners.length >= 3) {
    stroke = new Map()
    apply(polygon(painting.mask, corners.map(({ mm }) => mm), corners[0].plane))
    up()
  }
  dropPolygon()
}

/** Forget the corners of a polygon that is not closed. */
export function dropPolygon() {
  corners = []
  outline(null)
}

/** Draw what a click would do: the outline of the sphere, or the polygon so far. */
function outline(place) {
  const pane = openPanes()[0]
  if (!pane) return
  const shapes = []
  if (place && painting.mask && ['sphere', 'restore'].includes(painting.tool)) {
    shapes.push(['circle', { cx: place.x, cy: place.y, r: Math.max(1, painting.radius * place.pixelsPerMm) }])
  }
  if (corners.length > 0) {
    const points = [...corners, ...(place?.plane === corners[0].plane ? [place] : [])]
    shapes.push(['polygon', { points: points.map(({ x, y }) => `${x},${y}`).join(' ') }])
  }
  pane.outline.replaceChildren(...shapes.map(([name, attributes]) => {
    const shape = document.createElementNS(SVG, name)
    for (const [key, value] of Object.entries(attributes)) shape.setAttribute(key, value)
    shape.setAttribute('stroke', painting.label ? colour(painting.label) : '#ffffff')
    return shape
  }))
  pane.canvas.classList.toggle('painting', painting.mask !== null)
}

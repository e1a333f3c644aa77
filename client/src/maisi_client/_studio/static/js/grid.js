// Several pictures side by side in one plane, at the same place.

import { $, h, redraw } from './dom.js'
import { describe } from './gallery.js'
import { imageOf } from './images.js'
import { drawPlane } from './slices.js'
import { show, state } from './state.js'
import { crosshair } from './viewer.js'

let turn = 0

/** Show pictures in the grid, each with its title; a click opens one in the main view. */
export async function drawGrid(pictures) {
  const now = ++turn
  const plane = ['coronal', 'sagittal'].includes(state.shown.planes) ? state.shown.planes : 'axial'
  const [left, right] = plane === 'sagittal' ? 'AP' : 'RL'
  const cells = pictures.map((picture) => {
    // Of the body's axes closest to those of the file, which the plane is one of.
    const letters = [['left', left], ['right', right]].map(([side, letter]) =>
      h('span', { class: `letter ${side}`, 'aria-hidden': 'true' }, letter))
    const canvas = h('canvas')
    const button = h(
      'button',
      { class: 'cell', id: `cell-${picture.id}`, title: 'Open in the main view', onclick: () => show(picture.id) },
      canvas,
      ...letters,
      h('span', { class: 'pane-title' }, `${picture.title} (${describe(picture)})`),
    )
    return { picture, canvas, button }
  })
  redraw($('#grid'), ...cells.map((cell) => cell.button))
  $('#grid').dataset.count = cells.length
  for (const { picture, canvas } of cells) {
    const image = await imageOf(picture)
    if (now !== turn) return
    const range = state.shown.windows[picture.id] ?? image.range
    drawPlane(canvas, image, plane, crosshair(), { range, table: state.server.colours })
  }
}

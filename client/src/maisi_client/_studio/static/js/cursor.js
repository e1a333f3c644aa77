// The line under the view: the place, the label and the value under the cursor.

import { $ } from './dom.js'
import { valueOf, voxelAt } from './images.js'
import { colour, labelName, maskOf, on, state, unit } from './state.js'
import { openPanes } from './viewer.js'

let last = null // of the crosshair, shown while the mouse is elsewhere

/** Show what is under the mouse, `mm` in RAS+; null when it has left the planes. */
export function hover(mm, pane) {
  write(mm ?? last, pane)
}

/** Show what is under the crosshair. */
export function place(mm) {
  last = mm
  write(mm, openPanes()[0])
}

// A grid and an empty view have no crosshair; 'drawn' comes once another view is there.
const empty = () => state.shown.layout === 'grid' || !state.pictures.has(state.shown.first)
on('shown', () => empty() && clear())
on('drawn', () => write(last, openPanes()[0]))

function clear() {
  for (const id of ['#at-label', '#at-value', '#at-mm', '#at-voxel']) $(id).textContent = ''
  $('#at-label').dataset.id = ''
  $('#at-swatch').style.backgroundColor = 'transparent'
}

function write(mm, pane) {
  const image = pane?.image
  if (!mm || !image || empty()) return
  const voxel = voxelAt(image, mm)
  const [x, y, z] = mm
  $('#at-mm').textContent = [
    `${x < 0 ? 'L' : 'R'} ${Math.abs(x).toFixed(1)}`,
    `${y < 0 ? 'P' : 'A'} ${Math.abs(y).toFixed(1)}`,
    `${z < 0 ? 'I' : 'S'} ${Math.abs(z).toFixed(1)} mm`,
  ].join('  ')
  $('#at-voxel').textContent = voxel ? `voxel ${voxel.join(', ')}` : 'outside'
  $('#at-value').textContent = voxel ? values(voxel, mm) : ''
  const mask = pane.labels
  const at = mask && voxelAt(mask, mm)
  const id = at ? valueOf(mask, at) : null
  const picture = state.pictures.get(state.shown.first)
  $('#at-label').textContent = id === null ? '' : labelName(id, maskOf(picture))
  $('#at-label').dataset.id = id ?? ''
  $('#at-swatch').style.backgroundColor = id ? colour(id) : 'transparent'
}

/** Return the value in each pane that shows a volume, at the same place. */
function values(voxel, mm) {
  const parts = []
  const beside = $('#panes').dataset.layout !== 'one'
  for (const [index, { image }] of openPanes().entries()) {
    if (!image || image.kind === 'mask' || (index > 0 && !beside)) continue
    const at = voxelAt(image, mm)
    if (!at) continue
    const id = index ? state.shown.second : state.shown.first
    const name = unit(state.pictures.get(id) ?? {})
    const value = valueOf(image, at)
    const text = Number.isInteger(value) ? String(value) : value.toPrecision(4)
    parts.push(`${image.kind === 'difference' ? 'difference ' : ''}${text}${name && ` ${name}`}`)
    if (image.kind === 'difference') break
  }
  return parts.join('  |  ')
}

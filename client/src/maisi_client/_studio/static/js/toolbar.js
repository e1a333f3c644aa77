// What is above the view: planes, comparison, opacity of labels, window.

import { $, h } from './dom.js'
import { imageOf } from './images.js'
import { changed, on, state, unit } from './state.js'
import { openPanes } from './viewer.js'

const PRESETS = [ // of CT, HU: level and width as radiologists name them
  ['Brain', 40, 80],
  ['Soft tissue', 50, 400],
  ['Lung', -600, 1500],
  ['Bone', 450, 1500],
]

function segments(root, choose) {
  root.addEventListener('click', (event) => {
    const button = event.target.closest('button')
    if (button && !button.disabled) choose(button.dataset.value)
  })
}

function press(root, value) {
  for (const button of root.querySelectorAll('button')) {
    button.setAttribute('aria-pressed', button.dataset.value === value)
  }
}

/** Show other planes: all, axial, coronal, sagittal, render. */
export function choosePlanes(value) {
  state.shown.planes = value
  press($('#planes'), value)
  changed('planes')
  if (state.shown.layout === 'grid') changed('shown')
}

/** Show one picture or two: one, beside, flicker, difference. */
export function chooseLayout(value) {
  if (value !== 'one' && !state.shown.second) return
  state.shown.layout = value
  changed('shown')
}

/** Show the labels over the volume, or hide them. */
export function toggleLabels() {
  setOpacity(state.shown.opacity > 0 ? 0 : 0.3)
}

function setOpacity(value) {
  state.shown.opacity = value
  $('#opacity').value = value
  changed('window')
}

/** Return the image that Black and White are for: the difference if it is shown, else the first volume. */
async function windowed() {
  const { first, layout } = state.shown
  if (layout === 'difference') return openPanes()[0]?.image ?? null // once it is drawn, see 'drawn'
  const picture = state.pictures.get(first)
  return picture?.kind === 'volume' ? imageOf(picture) : null
}

async function setWindow(range) {
  const image = await windowed()
  if (image && range[1] > range[0]) {
    state.shown.windows[image.id] = range
    changed('window')
  }
  writeWindow()
}

let written = 0

async function writeWindow() {
  const turn = ++written
  const image = await windowed()
  if (turn !== written) return
  for (const id of ['#black', '#white', '#window-preset']) $(id).disabled = image === null
  if (image === null) {
    $('#black').value = $('#white').value = ''
    return
  }
  const [black, white] = state.shown.windows[image.id] ?? image.range
  $('#black').value = black
  $('#white').value = white
  const presets = image.kind === 'volume' && unit(state.pictures.get(image.id) ?? {}) === 'HU' ? PRESETS : []
  $('#window-preset').replaceChildren(
    h('option', { value: '' }, 'Window'),
    h('option', { value: 'whole' }, 'Automatic'),
    ...presets.map(([name, level, width]) =>
      h('option', { value: `${level - width / 2} ${level + width / 2}` }, name),
    ),
  )
}

export function startToolbar() {
  segments($('#planes'), choosePlanes)
  segments($('#layouts'), chooseLayout)
  $('#opacity').addEventListener('input', (event) => setOpacity(Number(event.target.value)))
  for (const id of ['#black', '#white']) {
    $(id).addEventListener('change', () => setWindow([Number($('#black').value), Number($('#white').value)]))
  }
  $('#window-preset').addEventListener('change', async (event) => {
    const value = event.target.value
    event.target.value = ''
    if (value) setWindow(value === 'whole' ? (await windowed())?.range ?? [] : value.split(' ').map(Number))
  })
  const write = () => writeWindow().catch(() => {}) // the view says why a picture cannot be read
  on('windowed', write)
  on('drawn', write)
  on('shown', () => {
    press($('#layouts'), state.shown.layout)
    for (const button of $('#layouts').querySelectorAll('button')) {
      button.disabled = button.dataset.value !== 'one' && !state.shown.second
    }
    write()
  })
}

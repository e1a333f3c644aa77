// What is above the view: planes, comparison, opacity of labels, window.

import { $, h } from './dom.js'
import { imageOf } from './images.js'
import { changed, on, state, unit } from './state.js'

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

function setWindow(range) {
  const { first, windows } = state.shown
  if (first === null || !(range[1] > range[0])) return
  windows[first] = range
  changed('window')
  writeWindow()
}

async function writeWindow() {
  const picture = state.pictures.get(state.shown.first)
  const volume = picture?.kind === 'volume'
  for (const id of ['#black', '#white', '#window-preset']) $(id).disabled = !volume
  if (!volume) {
    $('#black').value = $('#white').value = ''
    return
  }
  const { range } = await imageOf(picture)
  if (state.shown.first !== picture.id) return
  const [black, white] = state.shown.windows[picture.id] ?? range
  $('#black').value = black
  $('#white').value = white
  const presets = unit(picture) === 'HU' ? PRESETS : []
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
    const picture = state.pictures.get(state.shown.first)
    if (!value || !picture) return
    setWindow(value === 'whole' ? (await imageOf(picture)).range : value.split(' ').map(Number))
  })
  on('windowed', writeWindow)
  on('shown', () => {
    press($('#layouts'), state.shown.layout)
    for (const button of $('#layouts').querySelectorAll('button')) {
      button.disabled = button.dataset.value !== 'one' && !state.shown.second
    }
    writeWindow().catch(() => {}) // the view says why a picture cannot be read
  })
}

// The list of pictures on the left, the latest first.

import { $, h, removeItem, say } from './dom.js'
import { deletePicture, explain } from './api.js'
import { imageOf } from './images.js'
import { drawPlane } from './slices.js'
import { compare, on, show, state } from './state.js'

const items = new Map() // id -> list item; kept, so that nothing is drawn twice
const seen = new IntersectionObserver(drawSeen)
let drawing = Promise.resolve()

export function startGallery() {
  on('pictures', update)
  on('shown', mark)
}

/** Return in a few words what a picture was made with. */
export function describe(picture) {
  const { request, report } = picture
  const values = { ...report, ...request }
  const parts = []
  const source = state.pictures.get(picture.source)
  if (source?.mask && picture.mask && source.mask !== picture.mask) parts.push('inserted') // another mask
  if (picture.kind === 'mask') parts.push(`${picture.labels?.length ?? 0} labels`)
  if (values.strength !== undefined && values.strength !== null && values.strength < 1) parts.push(`strength ${values.strength}`)
  if (values.guidance || request?.guidance === 0) parts.push(`guidance ${values.guidance}`)
  if (values.steps && picture.kind === 'volume') parts.push(`${values.steps} steps`)
  return parts.length > 0 ? parts.join(', ') : picture.shape.join(' × ')
}

function update() {
  for (const [id, item] of items) {
    if (state.pictures.has(id)) continue
    removeItem(item, $('#open'))
    items.delete(id)
  }
  for (const picture of state.pictures.values()) {
    if (items.has(picture.id)) continue
    const item = listItem(picture)
    items.set(picture.id, item)
    $('#gallery').prepend(item)
    seen.observe(item)
  }
  $('#gallery-empty').hidden = items.size > 0
  mark()
}

function listItem(picture) {
  const canvas = h('canvas', { width: 48, height: 48, 'aria-hidden': 'true' })
  const other = h(
    'button',
    {
      type: 'button',
      class: 'quiet small versus',
      title: 'Compare with the picture in the main view',
      'aria-label': `Compare ${picture.title} with the picture in the main view`,
      onclick: () => compare(picture.id),
    },
    'vs',
  )
  const remove = h(
    'button',
    {
      type: 'button',
      class: 'quiet small',
      title: 'Remove from the session',
      'aria-label': `Remove ${picture.title} from the session`,
      onclick: () => deletePicture(picture.id).catch((error) => say(explain(error), 'error')),
    },
    '×',
  )
  const open = h(
    'button',
    { type: 'button', class: 'open', title: `${picture.title}\n${describe(picture)}`, onclick: () => show(picture.id) },
    canvas,
    h('span', { class: 'words' }, h('strong', {}, picture.title), h('small', {}, describe(picture))),
  )
  return h('li', { data: { id: picture.id, kind: picture.kind } }, open, h('span', { class: 'actions' }, other, remove))
}

function mark() {
  const { first, second, layout } = state.shown
  for (const [id, item] of items) {
    const role = id === first && layout !== 'grid' ? 'first' : id === second && !['one', 'grid'].includes(layout) ? 'second' : ''
    item.dataset.role = role
    item.querySelector('.open').setAttribute('aria-current', role === 'first')
    item.querySelector('.versus').disabled = id === first
  }
}

/** Draw the small pictures that have come into sight, one after the other. */
function drawSeen(entries) {
  for (const { target, isIntersecting } of entries) {
    if (!isIntersecting) continue
    seen.unobserve(target)
    drawing = drawing.then(() => drawSmall(target)).catch(() => {}) // the view says why
  }
}

async function drawSmall(item) {
  const picture = state.pictures.get(item.dataset.id)
  if (!picture) return
  const image = await imageOf(picture)
  drawPlane(item.querySelector('canvas'), image, 'axial', null, { range: image.range, table: state.server.colours })
}

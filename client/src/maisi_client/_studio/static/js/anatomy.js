// Sliders for the sizes of organs and lesions of a mask that the server makes.

import { h } from './dom.js'
import { slider } from './fields.js'

const ABSENT = -1
const LEFT = -0.05 // the left end of a slider, which stands for absent

/** Return the sizes that a form begins with: name -> 0..1, those of organs. */
export function defaultAnatomy(variant) {
  const organs = Object.entries(variant.anatomy).filter(([, size]) => size.label === undefined && size.default >= 0)
  return Object.fromEntries(organs.map(([name, size]) => [name, size.default]))
}

/**
 * Return the sliders; they write into `sizes` (name -> 0..1, or -1 for absent) and call `edited`.
 *
 * A size without a tick is left out, and the server chooses it. At most one tumour has a tick.
 */
export function anatomyFields(variant, sizes, edited) {
  const rows = new Map()
  const show = (name) => {
    const [box, input, output] = rows.get(name)
    box.checked = name in sizes
    input.disabled = !box.checked
    output.textContent = !box.checked ? 'any' : sizes[name] === ABSENT ? 'absent' : sizes[name].toFixed(2)
  }
  const tick = (name, ticked) => {
    const { tumour } = variant.anatomy[name]
    if (ticked && tumour) {
      for (const other of rows.keys()) {
        if (!variant.anatomy[other].tumour || other === name) continue
        delete sizes[other]
        show(other)
      }
    }
    if (ticked) slide(name)
    else delete sizes[name]
    show(name)
    edited()
  }
  const slide = (name) => {
    const value = Number(rows.get(name)[1].value)
    sizes[name] = value < 0 ? ABSENT : value
    show(name)
  }
  const elements = Object.entries(variant.anatomy).map(([name, size]) => {
    const value = sizes[name] ?? (size.default >= 0 ? size.default : 0.5)
    const [input, output] = slider(value < 0 ? LEFT : value, { low: LEFT, high: 1, step: 0.05, name }, () => {
      slide(name)
      edited()
    })
    const box = h('input', {
      type: 'checkbox',
      'aria-label': `${name} is chosen`,
      onchange: ({ target }) => tick(name, target.checked),
    })
    rows.set(name, [box, input, output])
    return h('div', { class: 'anatomy' }, h('label', { class: 'tick', title: size.meaning ?? name }, box, name), input, output)
  })
  for (const name of rows.keys()) show(name)
  const hint = 'The server chooses what has no tick. The left end is absent.'
  return h('fieldset', { id: 'anatomy' }, h('legend', {}, 'Sizes'), elements, h('p', { class: 'hint' }, hint))
}

// Sliders for the sizes of organs and lesions of a mask that the server makes.

import { h } from './dom.js'
import { slider } from './fields.js'

/** Return the sizes that the variant takes by itself: name -> 0..1, or -1 for absent. */
export function defaultAnatomy(variant) {
  return Object.fromEntries(Object.entries(variant.anatomy).map(([name, size]) => [name, size.default]))
}

const write = (value) => (value < 0 ? 'absent' : value.toFixed(2))

/** Return the sliders; they write into `sizes` and call `edited`. At most one tumour is present. */
export function anatomyFields(variant, sizes, edited) {
  const rows = new Map()
  const set = (name, value) => {
    sizes[name] = value
    const [box, input, output] = rows.get(name)
    box.checked = value >= 0
    input.disabled = value < 0
    if (value >= 0) input.value = value
    output.textContent = write(value)
  }
  const choose = (name, value) => {
    set(name, value)
    if (variant.anatomy[name].tumour && value >= 0) {
      for (const [other, size] of Object.entries(variant.anatomy)) {
        if (size.tumour && other !== name) set(other, -1)
      }
    }
    edited()
  }
  const elements = Object.entries(variant.anatomy).map(([name, size]) => {
    const value = sizes[name] ?? size.default
    const [input, output] = slider(Math.max(value, 0), { low: 0, high: 1, step: 0.05, name, write }, (now) => choose(name, now))
    const box = h('input', {
      type: 'checkbox',
      'aria-label': `${name} is present`,
      onchange: ({ target }) => choose(name, target.checked ? Number(input.value) || 0.5 : -1),
    })
    rows.set(name, [box, input, output])
    const element = h('div', { class: 'anatomy', title: size.meaning ?? '' }, h('label', { class: 'tick' }, box, name), input, output)
    return element
  })
  for (const name of rows.keys()) set(name, sizes[name] ?? variant.anatomy[name].default)
  return h('fieldset', { id: 'anatomy' }, h('legend', {}, 'Sizes'), elements)
}

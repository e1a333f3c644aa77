// Parts of the form: a label with an input, made alike.

import { h } from './dom.js'

/** Return a row: the label `text`, then the inputs, with a hint below if there is one. */
export function row(text, inputs, hint = null) {
  const all = [inputs].flat()
  const id = all[0].id || `field-${row.count++}`
  all[0].id = id
  return h(
    'div',
    { class: 'field' },
    h('label', { for: id }, text),
    h('div', { class: 'inputs' }, all),
    hint && h('p', { class: 'hint' }, hint),
  )
}
row.count = 0

/** Give a row's first input the id `name`; return the row. */
export function named(name, field) {
  field.querySelector('select, input').id = name
  field.querySelector('label').htmlFor = name
  return field
}

/** Return a select of options [value, text]; `chosen` is selected if it is one of them. */
export function choice(options, chosen, onchange) {
  const select = h(
    'select',
    { onchange: (event) => onchange(event.target.value) },
    options.map(([value, text, title]) => h('option', { value, title }, text)),
  )
  if (options.some(([value]) => value === chosen)) select.value = chosen
  return select
}

/** Return an input of a number between `low` and `high`; `onchange` gets a number, or null if empty. */
export function number(value, { low, high, step = 1, name, hint = '' }, onchange) {
  return h('input', {
    type: 'number',
    id: `number-${name.toLowerCase().replaceAll(' ', '-')}`,
    min: low,
    max: high,
    step,
    value: value ?? '',
    placeholder: hint,
    'aria-label': name,
    oninput: ({ target }) => target.validity.valid && onchange(target.value === '' ? null : Number(target.value)),
  })
}

/** Return a slider with its value beside it. */
export function slider(value, { low, high, step, name, write = String }, onchange) {
  const output = h('output', {}, write(value))
  const input = h('input', {
    type: 'range',
    min: low,
    max: high,
    step,
    'aria-label': name,
    oninput: ({ target }) => {
      output.textContent = write(Number(target.value))
      onchange(Number(target.value))
    },
  })
  input.value = value // after its limits
  return [input, output]
}

/** Return a checkbox with its text. */
export function tick(text, checked, onchange) {
  const box = h('input', { type: 'checkbox', onchange: ({ target }) => onchange(target.checked) })
  box.checked = checked
  return h('label', { class: 'tick' }, box, text)
}

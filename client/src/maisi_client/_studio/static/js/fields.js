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
    h('p', { class: 'hint wrong', role: 'alert', hidden: true }),
  )
}
row.count = 0

/** Mark an input as wrong, with a sentence below it; an empty sentence takes the mark away. */
export function mark(input, sentence) {
  const line = input.closest('.field').querySelector('.wrong')
  line.id = `${input.id}-wrong`
  line.textContent = sentence
  line.hidden = sentence === ''
  input.setAttribute('aria-invalid', sentence !== '')
  if (sentence) input.setAttribute('aria-describedby', line.id)
  else input.removeAttribute('aria-describedby')
}

/** Give a row's first input the id `name`; return the row. */
export function named(name, field) {
  field.querySelector('select, input').id = name
  field.querySelector('label').htmlFor = name
  return field
}

/** Return a select of options [value, text]; `chosen` is selected if it is one of them. */
export function choice(options, chosen, onchange) {
  const select = h('select', { onchange: (event) => onchange(event.target.value) })
  setOptions(select, options, chosen)
  return select
}

/** Replace the options of a select. */
export function setOptions(select, options, chosen) {
  select.replaceChildren(...options.map(([value, text, title]) => h('option', { value, title }, text)))
  if (options.some(([value]) => value === chosen)) select.value = chosen
}

/**
 * Return an input of a number between `low` and `high`; `onchange` gets a number, or null if empty.
 *
 * Another text is marked as wrong, and `onchange` does not hear of it. A `step` of 1 allows whole
 * numbers alone; other steps are those of the arrow keys.
 */
export function number(value, { low, high, step = 1, name, hint = '', required = false }, onchange) {
  const allowed = `${name}: ${step === 1 ? 'a whole number' : 'a number'} from ${low} to ${high}.`
  const right = ({ badInput, rangeUnderflow, rangeOverflow, stepMismatch, valueMissing }) =>
    !(badInput || rangeUnderflow || rangeOverflow || valueMissing || (stepMismatch && step === 1))
  return h('input', {
    type: 'number',
    id: `number-${name.toLowerCase().replaceAll(' ', '-')}`,
    min: low,
    max: high,
    step,
    value: value ?? '',
    placeholder: hint,
    'aria-label': name,
    required,
    oninput: ({ target }) => {
      const fits = right(target.validity)
      mark(target, fits ? '' : allowed)
      if (fits) onchange(target.value === '' ? null : Number(target.value))
    },
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
export function tick(id, text, checked, onchange) {
  const box = h('input', { type: 'checkbox', id, onchange: ({ target }) => onchange(target.checked) })
  box.checked = checked
  return h('label', { class: 'tick' }, box, text)
}

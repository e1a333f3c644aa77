// Several volumes at once, to be compared: every modality, or a few values of one argument.

import { h } from './dom.js'
import { choice, mark, named, row, tick } from './fields.js'
import { ask } from './ask.js'

const USUAL = { strength: '0.3, 0.5, 0.7, 0.9', guidance: '0, 2, 4', steps: '5, 10, 30' }
const MOST = 12 // volumes of one grid

/** Return the fields that say how many volumes are asked for, and in what they differ. */
export function manyFields(variant, values, redraw, edited) {
  const names = Object.keys(variant.modalities)
  const options = [
    ['one', 'One volume'],
    ...(names.length > 1 ? [['modalities', 'One for each modality']] : []),
    ...(values.source ? [['strength', 'Several strengths']] : []),
    ['guidance', 'Several guidance scales'],
    ['steps', 'Several numbers of steps'],
  ]
  if (!options.some(([name]) => name === values.many)) values.many = 'one'
  const field = named('many', row('Make', choice(options, values.many, (name) => {
    values.many = name
    values.values = USUAL[name] ?? ''
    redraw()
  })))
  if (values.many === 'one') return [field]
  if (values.many === 'modalities') {
    values.modalities ??= names.slice(0, 4)
    const boxes = names.map((name) => tick(`many-${name}`, name, values.modalities.includes(name), (on) => {
      values.modalities = names.filter((other) => (other === name ? on : values.modalities.includes(other)))
      edited()
    }))
    return [field, h('fieldset', { class: 'boxes' }, h('legend', {}, 'Modalities, one seed'), boxes)]
  }
  const input = h('input', { type: 'text', value: values.values, id: 'values', oninput: ({ target }) => {
    values.values = target.value
    mark(target, wrongValues(target.value, values.many, variant))
    edited()
  } })
  const texts = row('Values', input, 'Numbers with commas between; all with one seed.')
  mark(input, wrongValues(values.values, values.many, variant))
  return [field, texts]
}

/** Return the numbers of a text such as '0.3, 0.5', each once. */
const numbers = (text) => [...new Set(text.split(/[\s,;]+/).filter(Boolean).map(Number))]

/** Return what is wrong with the values of an argument, '' if nothing is. */
function wrongValues(text, name, { limits }) {
  const [low, high] = { strength: [0, 1], guidance: limits.guidance ?? [0, 20], steps: limits.steps ?? [1, 1000] }[name]
  const fits = (value) => value >= low && value <= high && (name !== 'steps' || Number.isInteger(value))
  const all = numbers(text)
  if (all.length > 0 && all.length <= MOST && all.every(fits)) return ''
  return `Values: 1 to ${MOST} ${name === 'steps' ? 'whole numbers' : 'numbers'} from ${low} to ${high}.`
}

/** Return the requests of the form: { kind, mask, source, arguments } for each volume. */
export function requestsOf(values, inputs) {
  const one = (changes) => ({ kind: 'volume', ...inputs, arguments: { ...values, ...changes } })
  if (ask.many === 'modalities') return (ask.modalities ?? []).slice(0, MOST).map((modality) => one({ modality }))
  if (ask.many === 'one') return [one({})]
  return numbers(ask.values).slice(0, MOST).map((value) => one({ [ask.many]: value }))
}

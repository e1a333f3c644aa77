// What the server says about a request before it is made: padding, time, memory, warnings.

import { $, duration, h, later } from './dom.js'
import { check, explain } from './api.js'
import { argumentsOf, inputsOf } from './ask.js'
import { requestsOf } from './many.js'
import { on, state } from './state.js'

let asked = 0

export function startAdvice() {
  on('reach', () => updateAdvice())
}

/** Return whether a field of the form holds what cannot be asked for. */
export const anythingWrong = () => $('#ask [aria-invalid=true]') !== null

/** Ask for advice about the form, soon. */
export const updateAdvice = later(async () => {
  if (!$('#advice')) return
  const turn = ++asked
  const requests = requestsOf(argumentsOf(), inputsOf())
  const generate = $('#generate')
  generate.textContent = requests.length > 1 ? `Generate ${requests.length}` : 'Generate'
  if (anythingWrong()) return write([sentence('A value above cannot be asked for.', 'error')], false)
  if (requests.length === 0) return write([sentence('Nothing is chosen to be made.', 'warning')], false)
  if (!state.server.reachable) return write([sentence('The server does not answer. The page continues when it answers again.', 'warning')], false)
  try {
    const { kind, ...request } = requests[0]
    const outlook = await check(request)
    if (turn === asked) write(describe(outlook, requests.length), true)
  } catch (error) {
    if (turn === asked) write([sentence(explain(error), 'error')], error.kind !== 'invalid_request')
  }
}, 350)

const sentence = (text, kind) => h('p', { data: { kind } }, text)

function write(parts, possible) {
  const advice = $('#advice')
  if (!advice) return
  advice.replaceChildren(...parts)
  for (const id of ['#generate', '#mask-only']) if ($(id)) $(id).disabled = !possible || anythingWrong()
}

function describe(outlook, count) {
  const by = (values) => values.map((value) => Math.round(value * 100) / 100).join(' × ')
  const parts = [`${by(outlook.size)} voxels of ${by(outlook.spacing)} mm`]
  if (by(outlook.padded_size) !== by(outlook.size)) parts.push(`computed at ${by(outlook.padded_size)}`)
  const cost = []
  if (outlook.expected_seconds) {
    const each = duration(outlook.expected_seconds)
    cost.push(count > 1 ? `about ${each} each, ${duration(count * outlook.expected_seconds)} in all` : `about ${each}`)
  }
  if (outlook.expected_wait_seconds > 1) cost.push(`${duration(outlook.expected_wait_seconds)} of waiting`)
  const gb = outlook.expected_gb
  cost.push(`${gb < 0.1 ? 'less than 0.1' : gb.toFixed(1)} GB for the decoder`)
  if (outlook.body_added) parts.push('a body is added around the organs')
  return [
    sentence(`${parts.join(', ')}.`, 'fact'),
    sentence(`${cost.join(', ').replace(/^./, (letter) => letter.toUpperCase())}.`, 'fact'),
    ...outlook.warnings.map((warning) => sentence(`${warning[0].toUpperCase()}${warning.slice(1)}.`, 'warning')),
  ]
}


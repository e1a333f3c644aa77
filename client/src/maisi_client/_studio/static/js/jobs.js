// Requests that wait, run or have failed, and what happens when one is done.

import { $, duration, h, removeItem, say } from './dom.js'
import { endJob, explain } from './api.js'
import { batchDone } from './batch.js'
import { changed, on, show, state } from './state.js'

const STAGES = { // of the server
  '': 'starting',
  waiting: 'waiting for its turn',
  condition: 'reading the mask',
  mask: 'mask',
  mask_encoder: 'encoding the mask',
  sampler: 'image',
  decoder: 'decoding',
}
const items = new Map() // id -> list item

export function startJobs() {
  on('jobs', update)
  on('jobs', showDone)
}

/** Take the new state of a request. */
export function jobChanged(job) {
  const before = state.jobs.get(job.id)
  state.jobs.set(job.id, job)
  if (job.state === 'failed' && before?.state !== 'failed') say(explain(job.error), 'error')
  changed('jobs')
}

/** Show the results of this tab's requests, in whatever order their events and answers come. */
function showDone() {
  for (const id of state.mine) {
    const job = state.jobs.get(id)
    if (job?.state !== 'done') continue
    state.mine.delete(id)
    finished(job)
  }
}

function finished(job) {
  const waiting = () => {
    if (!state.pictures.has(job.picture)) return setTimeout(waiting, 50) // its event comes beside
    if (batchDone(job)) return
    const painting = state.busy
    if (painting) return say('A request is done; its picture is in the session list. It is not shown, because painted strokes are not kept yet.')
    say(`${state.pictures.get(job.picture).title} is done.`)
    show(job.picture)
    if (job.source && state.pictures.has(job.source)) {
      Object.assign(state.shown, { second: job.source, layout: 'beside' })
      changed('shown')
    }
  }
  waiting()
}

function title(job) {
  if (job.kind === 'mask') return 'Label mask'
  const { modality, strength, seed } = job.arguments
  const name = `${modality ?? 'volume'}, seed ${seed}`
  return job.source ? `${name}, strength ${strength ?? 'as usual'}` : name
}

const listed = (job) => job.state !== 'done' && job.state !== 'cancelled'

function update() {
  for (const [id, item] of items) {
    const job = state.jobs.get(id)
    if (job && listed(job)) continue
    removeItem(item, $('#tab-ask'))
    items.delete(id)
  }
  for (const job of state.jobs.values()) {
    if (!listed(job)) continue
    if (!items.has(job.id)) {
      items.set(job.id, listItem(job))
      $('#jobs').append(items.get(job.id))
    }
    write(items.get(job.id), job)
  }
  $('#requests').hidden = items.size === 0
}

function listItem(job) {
  return h(
    'li',
    { data: { id: job.id } },
    h('span', { class: 'words' }, h('strong', { title: title(job) }, title(job)), h('small', { class: 'progress' })),
    h('button', { type: 'button', class: 'quiet small', onclick: () => end(job.id) }, 'Cancel'),
    h('progress', { max: 1, value: 0, 'aria-label': `Progress of ${title(job)}` }),
  )
}

function end(id) {
  endJob(id).catch((error) => {
    if (error.kind === 'lost') return say(explain(error), 'error')
    state.jobs.delete(id) // it has ended meanwhile
    changed('jobs')
  })
}

function write(item, job) {
  item.dataset.state = job.state
  item.querySelector('progress').hidden = job.state === 'failed'
  item.querySelector('progress').value = job.fraction ?? 0
  item.querySelector('button').textContent = job.state === 'failed' ? 'Dismiss' : 'Cancel'
  item.querySelector('.progress').textContent = job.state === 'failed' ? explain(job.error) : progress(job)
}

// Where in an attempt the sampler is; ATTEMPTS and SAMPLER of backends/maisi/progress.py.
const ATTEMPTS = 0.05
const SAMPLER = 0.84

/** Return 'step 3 of 30' while the sampler runs, else null. */
function step({ stage, fraction, arguments: { steps, redraws, variant: name } }) {
  const total = steps ?? state.server.variants[name ?? state.variant]?.defaults.steps
  if (stage !== 'sampler' || !total) return null
  const attempts = ((fraction - ATTEMPTS) / (1 - ATTEMPTS)) * ((redraws ?? 0) + 1)
  const attempt = Math.floor(attempts + 1e-6)
  const done = Math.round(((attempts - attempt) / SAMPLER) * total)
  return `step ${Math.min(done + 1, total)} of ${total}${attempt > 0 ? `, try ${attempt + 1}` : ''}`
}

function progress(job) {
  if (job.state === 'waiting') return 'in the queue'
  if (job.stage === 'waiting') return STAGES.waiting
  const parts = [STAGES[job.stage] ?? job.stage]
  parts.push(step(job) ?? `${Math.round(100 * job.fraction)} %`)
  if (job.seconds_left !== null && job.seconds_left !== undefined) parts.push(`${duration(job.seconds_left)} left`)
  return parts.join(', ')
}

// The beginning: what is there already is asked for, then changes are listened to.

import { $, say } from './dom.js'
import { explain, getJobs, getPictures, getServer, listen } from './api.js'
import { changed, on, show, state } from './state.js'
import { forget } from './images.js'
import { loadNiivue } from './pane.js'
import { startAsk } from './ask.js'
import { startDrop } from './drop.js'
import { startGallery } from './gallery.js'
import { jobChanged, startJobs } from './jobs.js'
import { startKeys } from './keys.js'
import { startPaint } from './paint.js'
import { startTabs } from './tabs.js'
import { startTake } from './take.js'
import { startToolbar } from './toolbar.js'
import { startViewer } from './viewer.js'

const byId = (items) => new Map(items.map((item) => [item.id, item]))

/** Ask for all that there is; the colours of labels come with what is known of the server. */
async function refresh() {
  await refreshServer().catch(lost)
  await refreshSession().catch(lost)
}

async function refreshServer() {
  state.server = await getServer()
  const names = Object.keys(state.server.variants)
  if (!names.includes(state.variant)) state.variant = names[0] ?? null
  changed('server')
}

async function refreshSession() {
  const [pictures, jobs] = await Promise.all([getPictures(), getJobs()])
  Object.assign(state, { pictures: byId(pictures), jobs: byId(jobs) })
  changed('jobs')
  changed('pictures')
  const latest = pictures.at(-1)
  if (!state.pictures.has(state.shown.first) && latest) show(latest.id)
}

function lost(error) {
  Object.assign(state.server, { reachable: false, message: explain(error ?? { kind: 'lost', message: 'the studio does not answer' }) })
  changed('reach')
}

function writeServer() {
  const { url, reachable, message, version } = state.server
  const names = Object.keys(state.server.variants).join(', ')
  $('#server-dot').dataset.state = reachable ? 'ready' : 'gone'
  $('#server-text').textContent = reachable ? `${url}: ${names || 'no variant'}` : message || 'the server does not answer'
  $('#server').title = version ? `maisi ${version}` : ''
}

function start() {
  startTabs()
  startToolbar()
  startViewer()
  startGallery()
  startJobs()
  startAsk()
  startPaint()
  startTake()
  startDrop()
  startKeys()
  listen({
    open: refresh,
    lost: () => lost(null),
    job: jobChanged,
    picture(picture) {
      state.pictures.set(picture.id, picture)
      changed('pictures')
    },
    removed({ id }) {
      forget(id)
      state.jobs.delete(id)
      if (state.pictures.delete(id)) {
        if (state.shown.first === id) state.shown.first = [...state.pictures.keys()].at(-1) ?? null
        if (state.shown.second === id) Object.assign(state.shown, { second: null, layout: 'one' })
        changed('pictures')
        changed('shown')
      }
      changed('jobs')
    },
    server({ reachable, message }) {
      const loaded = state.server.url !== ''
      const before = state.server.reachable
      Object.assign(state.server, { reachable, message })
      changed('reach')
      if (loaded && reachable && !before) say('The server answers.')
      if (loaded && !reachable) say(explain({ kind: 'unavailable', message }), 'error')
      refreshServer().catch(lost)
    },
  })
  requestIdleCallback(() => loadNiivue().catch((error) => say(explain(error), 'error')))
}

on('server', writeServer)
on('reach', writeServer)
start()

// Requests that were made to be compared: their pictures are shown in one grid.

import { addJob, explain } from './api.js'
import { say } from './dom.js'
import { changed, showGrid, state } from './state.js'

const batches = [] // lists of ids of jobs

/**
 * Ask for one volume or mask per set of arguments; return whether all were taken.
 *
 * `requests` are { kind, mask, source, arguments }. Several become one grid when they are done.
 */
export async function request(requests) {
  const ids = []
  try {
    for (const one of requests) {
      const job = await addJob(one)
      state.mine.add(job.id)
      ids.push(job.id)
      if (!state.jobs.has(job.id)) state.jobs.set(job.id, job)
    }
  } catch (error) {
    say(explain(error), 'error')
  }
  if (ids.length > 1) batches.push(ids)
  changed('jobs')
  return ids.length === requests.length
}

/** Return whether a job that is done belongs to a batch; show what the batch has so far. */
export function batchDone(job) {
  const batch = batches.find((ids) => ids.includes(job.id))
  if (!batch) return false
  const pictures = batch.map((id) => state.jobs.get(id)?.picture).filter((id) => state.pictures.has(id))
  say(`${pictures.length} of ${batch.length} volumes are done.`)
  if (!state.busy) showGrid(pictures)
  return true
}

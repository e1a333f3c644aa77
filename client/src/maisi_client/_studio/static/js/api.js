// What the page asks of its own server.

/** An error that the server explains in one sentence; `kind` is its word for programs. */
export class ApiError extends Error {
  constructor(kind, sentence) {
    super(sentence)
    this.kind = kind
  }
}

// What to do after an error, by its kind; the sentence itself says what is wrong.
const ADVICE = {
  unavailable: 'Start the server, or wait until it answers again.',
  overloaded: 'Wait until others are done, then ask again.',
  out_of_memory: 'Ask for a smaller size, or wait until others are done.',
  timeout: 'Ask for fewer steps or a smaller size, or try again.',
  stopping: 'The server restarts; ask again in a minute.',
  lost: 'Run maisi studio again and open the link that it prints.',
  too_many: 'Wait until some of the requests are done, or cancel some.',
  disk_full: 'Remove pictures from the session.',
  in_use: 'Cancel them, or wait until they are done.',
}

/** Return an error as one or two sentences: what is wrong, and what to do. */
export function explain(error) {
  const sentence = String(error.message || error).replace(/\.?$/, '.')
  const first = sentence[0].toUpperCase() + sentence.slice(1)
  return ADVICE[error.kind] ? `${first} ${ADVICE[error.kind]}` : first
}

async function ask(method, path, body, headers = {}) {
  let response
  try {
    response = await fetch(path, { method, body, headers: { 'X-Maisi': '1', ...headers } })
  } catch {
    throw new ApiError('lost', 'the studio does not answer')
  }
  if (response.ok) return response
  let error = null
  try {
    error = (await response.json()).error
  } catch {
    // not from the studio itself
  }
  if (error) throw new ApiError(error.kind, error.message)
  throw new ApiError('internal', `the studio answered ${response.status}`)
}

async function json(method, path, value) {
  const body = value === undefined ? undefined : JSON.stringify(value)
  const headers = body === undefined ? {} : { 'Content-Type': 'application/json' }
  const text = await (await ask(method, path, body, headers)).text()
  return text ? JSON.parse(text) : null
}

const path = (id, rest = '') => `/api/pictures/${encodeURIComponent(id)}${rest}`

export const getServer = () => json('GET', '/api/server')
export const getPictures = () => json('GET', '/api/pictures')
export const getJobs = () => json('GET', '/api/jobs')
export const getCommand = (id) => json('GET', path(id, '/command'))
export const deletePicture = (id) => json('DELETE', path(id))
export const check = (request) => json('POST', '/api/check', request)
export const addJob = (request) => json('POST', '/api/jobs', request)
export const endJob = (id) => json('DELETE', `/api/jobs/${encodeURIComponent(id)}`)

/** Return the address of a picture's file: nii.gz, report.json, dicom.zip or plan.csv. */
export const fileOf = (id, file) => path(id, file === 'nii.gz' ? '.nii.gz' : `/${file}`)

/** Send files of one mask or volume, { file, path }; return its picture. */
export async function upload(kind, files) {
  const form = new FormData()
  for (const one of files) form.append('files', one.file, one.path)
  return (await ask('POST', `/api/pictures?kind=${kind}`, form)).json()
}

/** Send the voxels of a painted mask, uint8 in the order of the file; return the new picture. */
export async function paint(id, voxels, variant) {
  const packed = new Blob([voxels]).stream().pipeThrough(new CompressionStream('gzip'))
  const body = await new Response(packed).blob()
  const headers = { 'Content-Encoding': 'gzip', 'Content-Type': 'application/octet-stream' }
  const query = variant ? `?variant=${encodeURIComponent(variant)}` : ''
  return (await ask('POST', path(id, `/paint${query}`), body, headers)).json()
}

/** Return the bytes of a picture's NIfTI file, uncompressed. */
export async function bytes(id) {
  const response = await ask('GET', fileOf(id, 'nii.gz'))
  const packed = await response.blob()
  const magic = new Uint8Array(await packed.slice(0, 2).arrayBuffer())
  if (magic[0] !== 0x1f || magic[1] !== 0x8b) return packed.arrayBuffer()
  return new Response(packed.stream().pipeThrough(new DecompressionStream('gzip'))).arrayBuffer()
}

/**
 * Call `handlers[event](data)` for each event of the studio, and `handlers.open()` whenever the
 * connection is there (again); what was missed meanwhile has to be asked for.
 */
export function listen(handlers) {
  const events = new EventSource('/api/events')
  events.addEventListener('open', () => handlers.open())
  events.addEventListener('error', () => handlers.lost())
  for (const name of ['job', 'picture', 'removed', 'server']) {
    events.addEventListener(name, (event) => handlers[name](JSON.parse(event.data)))
  }
}

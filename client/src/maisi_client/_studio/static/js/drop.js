// Files that are dropped on the page or chosen, also folders of DICOM files.

import { $, say } from './dom.js'
import { explain, upload } from './api.js'
import { changed, show, state } from './state.js'

const MOST = 10000 // files

export function startDrop() {
  const choose = () => $('#files').click()
  $('#open').addEventListener('click', choose)
  $('#open-empty').addEventListener('click', choose)
  $('#files').addEventListener('change', ({ target }) => {
    const files = [...target.files].map((file) => ({ file, path: file.name }))
    target.value = ''
    ask(files)
  })
  let depth = 0
  const over = (by) => {
    depth = Math.max(0, depth + by)
    $('#drop').hidden = depth === 0
  }
  // They capture, because NiiVue's canvas stops these events.
  document.addEventListener('dragenter', (event) => hasFiles(event) && over(1), true)
  document.addEventListener('dragleave', (event) => hasFiles(event) && over(-1), true)
  document.addEventListener('dragover', (event) => hasFiles(event) && event.preventDefault(), true)
  document.addEventListener('drop', async (event) => {
    if (!hasFiles(event)) return
    event.preventDefault()
    over(-depth)
    const kind = event.target.closest?.('.target')?.dataset.kind
    try {
      const files = await filesOf(event.dataTransfer)
      if (kind) await send(kind, files)
      else ask(files)
    } catch (error) {
      say(explain(error), 'error')
    }
  }, true)
}

const hasFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes('Files')

/** Return the files of a drop, with those of folders: { file, path }, the path with its folders. */
async function filesOf(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean)
  if (entries.length === 0) return [...transfer.files].map((file) => ({ file, path: file.name }))
  const files = []
  for (const entry of entries) await read(entry, files)
  return files
}

async function read(entry, files) {
  if (files.length > MOST) throw new Error(`more than ${MOST} files were dropped, which is too many`)
  if (entry.isFile) {
    if (entry.name.startsWith('.')) return
    const file = await new Promise((done, failed) => entry.file(done, failed))
    files.push({ file, path: entry.fullPath.replace(/^\//, '') })
    return
  }
  const reader = entry.createReader()
  for (;;) {
    const some = await new Promise((done, failed) => reader.readEntries(done, failed))
    if (some.length === 0) return
    for (const one of some) await read(one, files)
  }
}

/** Ask what the files are, then send them. */
function ask(files) {
  if (files.length === 0) return
  const dialog = $('#open-dialog')
  $('#open-names').textContent = files.length > 1 ? `${files.length} files, of one picture` : files[0].file.name
  dialog.returnValue = ''
  dialog.showModal()
  dialog.addEventListener('close', () => dialog.returnValue && send(dialog.returnValue, files), { once: true })
}

async function send(kind, files) {
  if (files.length === 0) return
  say(files.length > 1 ? `Reading ${files.length} files.` : `Reading ${files[0].file.name}.`)
  try {
    const picture = await upload(kind, files)
    state.pictures.set(picture.id, picture)
    changed('pictures')
    show(picture.id)
    say(`${picture.title} is open.`)
  } catch (error) {
    say(explain(error), 'error')
  }
}

// The tabs of the panel on the right.

import { $ } from './dom.js'
import { changed } from './state.js'

const tabs = () => [...document.querySelectorAll('#panel [role=tab]')]

/** Return the name of the open tab: ask, paint, take. */
export const openTab = () => $('#panel [aria-selected=true]').getAttribute('aria-controls')

/** Open a tab by its name. */
export function openTabOf(name) {
  for (const tab of tabs()) {
    const open = tab.getAttribute('aria-controls') === name
    tab.setAttribute('aria-selected', open)
    tab.tabIndex = open ? 0 : -1
    $(`#${tab.getAttribute('aria-controls')}`).hidden = !open
  }
  changed('tab', name)
}

export function startTabs() {
  for (const tab of tabs()) {
    tab.addEventListener('click', () => openTabOf(tab.getAttribute('aria-controls')))
    tab.addEventListener('keydown', (event) => {
      const shift = { ArrowRight: 1, ArrowLeft: -1 }[event.key]
      if (!shift) return
      event.preventDefault()
      const all = tabs()
      const next = all[(all.indexOf(tab) + shift + all.length) % all.length]
      openTabOf(next.getAttribute('aria-controls'))
      next.focus()
    })
  }
}

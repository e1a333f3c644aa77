// Elements without a framework. Text is only ever set as text, so no name of a file or label is markup.

/** Return the element that matches a selector; it must exist. */
export function $(selector, root = document) {
  return root.querySelector(selector)
}

/**
 * Return a new element: h('button', { class: 'quiet', onclick: save, disabled: true }, 'Save').
 * Properties that begin with `on` are listeners, `data` is a mapping of data attributes. Null and
 * undefined are left out, and so is false, which `aria-` attributes alone have as a value.
 */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag)
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined) continue
    if (name.startsWith('aria-')) element.setAttribute(name, String(value))
    else if (value === false) continue
    else if (name.startsWith('on')) element.addEventListener(name.slice(2), value)
    else if (name === 'data') Object.assign(element.dataset, value)
    else if (name === 'value') element.value = value
    else element.setAttribute(name, value === true ? '' : value)
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false))
  return element
}

/**
 * Replace what `root` holds. The control that has the focus keeps it, by its id; where it is gone or
 * disabled, `root` gets the focus, so that the next Tab continues from there.
 */
export function redraw(root, ...children) {
  const focused = root.contains(document.activeElement) ? document.activeElement.id : null
  root.replaceChildren(...children)
  if (focused === null) return
  const control = focused && document.getElementById(focused)
  control?.focus({ preventScroll: true })
  if (document.activeElement === control) return
  root.tabIndex = -1
  root.focus({ preventScroll: true })
}

/** Remove an item of a list; if it has the focus, the next one gets it, or `fallback`. */
export function removeItem(item, fallback) {
  const focused = item.contains(document.activeElement)
  const next = item.nextElementSibling ?? item.previousElementSibling
  item.remove()
  if (focused) (next?.querySelector('button') ?? fallback).focus()
}

/** Return a small square in the colour of a label. */
export function swatch(colour) {
  const element = h('span', { class: 'swatch', 'aria-hidden': 'true' })
  element.style.backgroundColor = colour // by script, which the policy allows; an attribute it does not
  return element
}

/** Say a sentence in the line at the bottom, which screen readers read aloud. */
export function say(sentence, kind = 'note') {
  const line = $('#message')
  line.textContent = sentence
  line.dataset.kind = kind
}

/** Return a function that calls `action` once, `delay` ms after its last call. */
export function later(action, delay) {
  let timer = 0
  return (...values) => {
    clearTimeout(timer)
    timer = setTimeout(() => action(...values), delay)
  }
}

/** Return a function that calls `action` at most once a frame, with the last values. */
export function eachFrame(action) {
  let last = null
  return (...values) => {
    if (last === null) {
      requestAnimationFrame(() => {
        const now = last
        last = null
        action(...now)
      })
    }
    last = values
  }
}

/** Return seconds as people say them: '8 s', '3 min', '2 h'. */
export function duration(seconds) {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${Math.round(seconds / 3600)} h`
}

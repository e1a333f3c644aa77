// One view of a picture: a NiiVue instance in its canvas, with a title and a layer for outlines.

import { h } from './dom.js'
import { drawLetters, lettersElement } from './letters.js'
import { write } from './nifti.js'

const PLANES = { axial: 0, coronal: 1, sagittal: 2, all: 3, render: 4 } // NiiVue's numbers
const NAMES = ['axial', 'coronal', 'sagittal']
const SQUARE = 2 // NiiVue's layouts of all planes
const ROW = 3
const CROSSHAIR = 8 // NiiVue's drag modes
const WINDOWING = 9
const PAN = 3
const DIFFERENCE = 'difference'

let niivue = null

/** Return the promise of NiiVue's class; it is large, so that the page appears before it. */
export function loadNiivue() {
  niivue ??= import('../niivue.js')
  return niivue.then((module) => module.Niivue)
}

/** Return a new pane inside `parent`; `events` has `location(mm)`, `hover(mm)`, `window(range)`. */
export async function openPane(parent, events) {
  if (!document.createElement('canvas').getContext('webgl2')) {
    throw new Error('this browser has no WebGL 2, which the view needs; another browser or its settings may have it')
  }
  const Niivue = await loadNiivue()
  const canvas = h('canvas', { 'aria-label': 'view of the picture', tabindex: '0' })
  const title = h('div', { class: 'pane-title' })
  const outline = document.createElementNS('http://www.w3.org/2000/svg', 'svg')
  outline.setAttribute('class', 'outline')
  outline.setAttribute('aria-hidden', 'true')
  const letters = lettersElement()
  const element = h('div', { class: 'pane' }, h('div', { class: 'canvas' }, canvas), letters, outline, title)
  parent.append(element)
  const viewer = new Niivue({
    backColor: [0, 0, 0, 1],
    crosshairColor: [0.3, 0.75, 0.9, 0.6],
    crosshairWidthUnit: 'mm',
    isOrientationTextVisible: false, // see letters.js
    isRadiologicalConvention: true, // R is on the left
    sagittalNoseLeft: true, // so is A
    isSliceMM: true, // planes of the body, whatever the axes of the file
    multiplanarShowRender: 1,
    multiplanarLayout: SQUARE,
    multiplanarPadPixels: 2,
    dragAndDropEnabled: false, // the page takes what is dropped
    loadingText: '',
    logLevel: 'error',
  })
  viewer.setMouseEventConfig({
    leftButton: { primary: CROSSHAIR, withShift: PAN, withCtrl: WINDOWING },
    rightButton: WINDOWING,
    centerButton: PAN,
  })
  await viewer.attachToCanvas(canvas)
  viewer.addColormap(DIFFERENCE, {
    R: [40, 90, 0, 235, 255], G: [190, 130, 0, 110, 215], B: [255, 235, 0, 40, 120],
    A: [255, 255, 255, 255, 255], I: [0, 64, 128, 192, 255],
  })
  viewer.onLocationChange = (place) => events.location([...place.mm].slice(0, 3))
  viewer.onIntensityChange = (volume) => events.window([volume.cal_min, volume.cal_max])
  const shown = { image: null, mask: null, labels: null }
  const pane = { element, canvas, title, letters, outline, viewer, ...shown, queue: Promise.resolve() }
  new ResizeObserver(() => requestAnimationFrame(() => fit(pane))).observe(element)
  const move = (event) => events.hover(placeOf(pane, event)?.mm ?? null, pane)
  canvas.addEventListener('mousemove', move)
  canvas.addEventListener('mouseleave', () => events.hover(null, pane))
  return pane
}

/**
 * Show an image, and the mask over it if there is one; `colours` maps ids to '#rrggbb'.
 *
 * The place of the crosshair stays where it was in mm. Calls one after the other are kept in order.
 */
export function showImage(pane, image, mask, look) {
  pane.queue = pane.queue.then(() => replace(pane, image, mask, look)).catch(console.error)
  return pane.queue
}

async function replace(pane, image, mask, { range, opacity, colours }) {
  const { viewer } = pane
  const overlay = mask && mask !== image ? mask : null
  if (pane.image === image && pane.mask === overlay) {
    setLook(pane, { range, opacity })
    return
  }
  const before = pane.image ? viewer.frac2mm(viewer.scene.crosshairPos, 0, true) : null
  const layers = [layer(image, range, 1)]
  if (overlay) layers.push(layer(overlay, [0, 255], opacity))
  await viewer.loadVolumes(layers)
  // NiiVue would keep the file of every volume that it was ever given.
  viewer.mediaUrlMap?.clear()
  viewer.document?.imageOptionsMap?.clear()
  pane.image = image
  pane.mask = overlay
  ;[image, overlay].forEach((shown, index) => {
    if (shown?.kind !== 'mask') return
    const volume = viewer.volumes[index]
    volume.setColormapLabel(table(colours))
    volume.img = shown.voxels // painting changes them in place
  })
  if (before) viewer.scene.crosshairPos = clamp(viewer.mm2frac(before))
  viewer.updateGLVolume()
  fit(pane)
  viewer.createOnLocationChange()
}

const layer = (image, range, opacity) => ({
  url: write(image, image.affine, range),
  name: `${image.id}.nii`,
  colormap: image.kind === 'difference' ? DIFFERENCE : 'gray',
  opacity,
  cal_min: range[0],
  cal_max: range[1],
})

const clamp = (frac) => frac.map((share) => Math.min(Math.max(share, 0), 1))

function table(colours) {
  const ids = [...Array(256).keys()]
  const channel = (start) => ids.map((id) => parseInt((colours[id] ?? '#888888').slice(start, start + 2), 16))
  return { R: channel(1), G: channel(3), B: channel(5), A: ids.map((id) => (id ? 255 : 0)), I: ids }
}

/** Set the values drawn black and white, and the opacity of the labels. */
export function setLook(pane, { range, opacity }) {
  const { viewer } = pane
  const [base, overlay] = viewer.volumes
  if (!base) return
  const [black, white] = pane.image.kind === 'mask' ? [base.cal_min, base.cal_max] : range
  const same = base.cal_min === black && base.cal_max === white
  if (same && (!overlay || overlay.opacity === opacity)) return // nothing changes
  Object.assign(base, { cal_min: black, cal_max: white })
  if (overlay) overlay._opacity = opacity
  viewer.updateGLVolume()
}

/** Show all planes, or one of them: all, axial, coronal, sagittal, render. */
export function setPlanes(pane, planes) {
  pane.viewer.setSliceType(PLANES[planes])
  fit(pane)
}

/** Put the planes where they are largest, and fit letters and crosshair to them: NiiVue knows its width in mm alone. */
function fit(pane) {
  const { viewer, canvas } = pane
  const layout = canvas.clientWidth > 2.5 * canvas.clientHeight ? ROW : SQUARE
  if (viewer.opts.multiplanarLayout !== layout) viewer.setMultiplanarLayout(layout)
  drawLetters(pane)
  const [plane] = viewer.screenSlices
  if (!plane || !viewer.crosshairs3D) return
  const width = Math.abs((1.5 * (viewer.uiData.dpr ?? 1) * plane.fovMM[0]) / plane.leftTopWidthHeight[2])
  if (!Number.isFinite(width) || Math.abs(width - viewer.opts.crosshairWidth) < 0.01) return
  viewer.opts.crosshairWidth = width
  viewer.crosshairs3D.mm[0] = NaN // so that it is built again
  viewer.drawScene()
}

/** Draw labels with sharp voxels, for painting, or smoothly. */
export function setSharp(pane, sharp) {
  pane.viewer.setInterpolation(sharp)
}

/** Let two panes follow each other in position, zoom and rotation; or unlink them, so that only one is drawn. */
export function link([first, second], linked) {
  if (!second) return
  first.viewer.broadcastTo(linked ? [second.viewer] : [], { '2d': true, '3d': true })
  second.viewer.broadcastTo(linked ? [first.viewer] : [], { '2d': true, '3d': true })
}

/** Move the crosshair to a place in mm. */
export function moveTo(pane, mm) {
  const { viewer } = pane
  if (!viewer.volumes.length) return
  viewer.scene.crosshairPos = clamp(viewer.mm2frac([...mm, 1]))
  viewer.drawScene()
  viewer.createOnLocationChange()
}

/** Move the crosshair by voxels along right, anterior and superior. */
export function step(pane, [right, anterior, superior]) {
  if (pane.viewer.volumes.length) pane.viewer.moveCrosshairInVox(right, anterior, superior)
}

/**
 * Return where a mouse event is: { mm, plane, x, y, pixelsPerMm }, x and y in CSS pixels; null
 * outside of the planes.
 */
export function placeOf(pane, event) {
  const { viewer, canvas } = pane
  if (!viewer.volumes.length) return null
  const box = canvas.getBoundingClientRect()
  const scale = viewer.uiData.dpr ?? 1
  const [x, y] = [event.clientX - box.left, event.clientY - box.top]
  for (let tile = 0; tile < viewer.screenSlices.length; tile++) {
    const frac = viewer.screenXY2TextureFrac(x * scale, y * scale, tile)
    if (frac[0] < 0) continue
    const { axCorSag, leftTopWidthHeight, fovMM } = viewer.screenSlices[tile]
    const pixelsPerMm = Math.abs(leftTopWidthHeight[2] / fovMM[0]) / scale
    const mm = [...viewer.frac2mm(frac, 0, true)].slice(0, 3)
    return { mm, plane: NAMES[axCorSag], x, y, pixelsPerMm }
  }
  return null
}

/** Draw the mask again after its voxels have changed. */
export function redrawMask(pane) {
  const { viewer, mask, image } = pane
  if (mask) viewer.refreshLayers(viewer.volumes[1], 1)
  else if (image?.kind === 'mask') viewer.refreshLayers(viewer.volumes[0], 0)
  viewer.drawScene()
}

// The voxels of pictures, as far as they were looked at: the last few are kept.

import { bytes } from './api.js'
import { apply, invert, sameGrid } from './affine.js'
import { read } from './nifti.js'

const KEPT_BYTES = 768 * 2 ** 20
const kept = new Map() // id -> promise of an image, the latest last

/**
 * Return a promise of the image of a picture:
 * { id, kind, shape, affine, inverse, voxels, slope, intercept, range: [black, white] }.
 */
export function imageOf(picture) {
  const cached = kept.get(picture.id)
  kept.delete(picture.id)
  const image = cached ?? load(picture)
  kept.set(picture.id, image)
  if (!cached) {
    image.then(trim, () => kept.delete(picture.id))
  }
  return image
}

/** Forget the voxels of a picture. */
export function forget(id) {
  kept.delete(id)
}

async function load(picture) {
  const file = read(await bytes(picture.id))
  const affine = picture.affine
  const image = { ...file, id: picture.id, kind: picture.kind, affine, inverse: invert(affine) }
  if (picture.kind === 'mask' && !(image.voxels instanceof Uint8Array)) {
    image.voxels = Uint8Array.from(image.voxels, (raw) => Math.round(raw * image.slope + image.intercept))
    Object.assign(image, { slope: 1, intercept: 0 })
  }
  image.range = picture.kind === 'mask' ? [0, 255] : range(image)
  return image
}

async function trim() {
  const images = await Promise.all([...kept.values()].map((image) => image.catch(() => null)))
  let total = images.reduce((sum, image) => sum + (image?.voxels.byteLength ?? 0), 0)
  for (const image of images.slice(0, -4)) {
    if (total <= KEPT_BYTES) return
    if (image === null) continue
    kept.delete(image.id)
    total -= image.voxels.byteLength
  }
}

/** Return the values drawn black and white: the 2nd and 99.5th percentile of what is no background. */
function range({ voxels, slope, intercept }) {
  const stride = Math.max(1, Math.floor(voxels.length / 50000)) | 1
  let lowest = Infinity
  const sample = []
  for (let i = 0; i < voxels.length; i += stride) {
    const value = voxels[i] * slope + intercept
    if (!Number.isFinite(value)) continue
    if (value < lowest) lowest = value
    sample.push(value)
  }
  const seen = sample.filter((value) => value > lowest).sort((a, b) => a - b)
  if (seen.length === 0) return [lowest, lowest + 1]
  const at = (share) => seen[Math.min(seen.length - 1, Math.floor(share * seen.length))]
  const black = lowest < 0 ? at(0.02) : 0 // MR from zero
  return [Math.round(black), Math.max(Math.round(1.05 * at(0.995)), Math.round(black) + 1)]
}

/** Return the index of the voxel [i, j, k] at a place in mm, null outside of the image. */
export function voxelAt(image, mm) {
  if (!image.inverse) return null
  const voxel = apply(image.inverse, mm).map(Math.round)
  return voxel.every((index, axis) => index >= 0 && index < image.shape[axis]) ? voxel : null
}

/** Return the value of the voxel [i, j, k]: HU, grey levels, or the id of a label. */
export function valueOf(image, [i, j, k]) {
  const raw = image.voxels[i + image.shape[0] * (j + image.shape[1] * k)]
  return raw * image.slope + image.intercept
}

/** Return the image of `first` minus `second`, float32; throws where their grids differ. */
export function difference(first, second) {
  if (!sameGrid(first, second)) {
    throw new Error('the two pictures lie on different grids, so there is no difference to show')
  }
  const voxels = new Float32Array(first.voxels.length)
  let largest = 0
  for (let i = 0; i < voxels.length; i++) {
    const value =
      first.voxels[i] * first.slope + first.intercept - second.voxels[i] * second.slope - second.intercept
    voxels[i] = value
    if (value > largest) largest = value
    else if (-value > largest) largest = -value
  }
  const most = Math.max(1, Math.round(0.6 * largest))
  return { ...first, id: `${first.id}-${second.id}`, kind: 'difference', voxels, slope: 1, intercept: 0, range: [-most, most] }
}

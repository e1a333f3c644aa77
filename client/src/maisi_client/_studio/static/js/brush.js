// Changes of a mask's voxels: sphere, polygon, fill. Places are in mm, so any affine will do.

import { apply } from './affine.js'
import { voxelAt } from './images.js'

const NORMAL = { axial: 2, coronal: 1, sagittal: 0 } // the world axis through a plane

/** Call `visit(index, mm)` for the voxels in the box [low, high] of mm, corner to corner. */
function inBox({ shape, affine, inverse }, low, high, visit) {
  const corners = [0, 1, 2, 3, 4, 5, 6, 7].map((bits) =>
    apply(inverse, [0, 1, 2].map((axis) => ((bits >> axis) & 1 ? high[axis] : low[axis]))),
  )
  const from = [0, 1, 2].map((axis) => Math.max(0, Math.floor(Math.min(...corners.map((c) => c[axis])))))
  const to = [0, 1, 2].map((axis) => Math.min(shape[axis] - 1, Math.ceil(Math.max(...corners.map((c) => c[axis])))))
  for (let k = from[2]; k <= to[2]; k++) {
    for (let j = from[1]; j <= to[1]; j++) {
      for (let i = from[0]; i <= to[0]; i++) {
        visit(i + shape[0] * (j + shape[1] * k), apply(affine, [i, j, k]))
      }
    }
  }
}

/** Return the indices of the voxels whose centre is within `radius` mm of a place. */
export function sphere(mask, centre, radius) {
  const indices = []
  const low = centre.map((value) => value - radius)
  const high = centre.map((value) => value + radius)
  inBox(mask, low, high, (index, mm) => {
    if (Math.hypot(mm[0] - centre[0], mm[1] - centre[1], mm[2] - centre[2]) <= radius) indices.push(index)
  })
  const voxel = voxelAt(mask, centre)
  if (indices.length === 0 && voxel) indices.push(voxel[0] + mask.shape[0] * (voxel[1] + mask.shape[1] * voxel[2]))
  return indices
}

/** Return the indices of the voxels inside a polygon of places in one plane, one voxel thick. */
export function polygon(mask, points, plane) {
  const normal = NORMAL[plane]
  const [across, up] = [0, 1, 2].filter((axis) => axis !== normal)
  const half = 0.5 * Math.max(...mask.affine[normal].slice(0, 3).map(Math.abs))
  const depth = points[0][normal]
  const low = [0, 1, 2].map((axis) => (axis === normal ? depth - half : Math.min(...points.map((p) => p[axis]))))
  const high = [0, 1, 2].map((axis) => (axis === normal ? depth + half : Math.max(...points.map((p) => p[axis]))))
  const indices = []
  inBox(mask, low, high, (index, mm) => {
    const distance = mm[normal] - depth
    if (distance < -half || distance >= half) return
    if (inside(points, mm[across], mm[up], across, up)) indices.push(index)
  })
  return indices
}

/** Return whether (x, y) is inside a polygon, by the number of edges to its right. */
function inside(points, x, y, across, up) {
  let odd = false
  for (let i = 0, j = points.length - 1; i < points.length; j = i++) {
    const [[x1, y1], [x2, y2]] = [points[i], points[j]].map((point) => [point[across], point[up]])
    if (y1 > y !== y2 > y && x < ((x2 - x1) * (y - y1)) / (y2 - y1) + x1) odd = !odd
  }
  return odd
}

/** Return the indices of the voxels that have the label at a place and hang together with it. */
export function region(mask, mm) {
  const start = voxelAt(mask, mm)
  if (!start) return []
  const [X, Y, Z] = mask.shape
  const { voxels } = mask
  const first = start[0] + X * (start[1] + Y * start[2])
  const label = voxels[first]
  const reached = new Uint8Array(voxels.length)
  const stack = [first]
  const indices = []
  reached[first] = 1
  const add = (index) => {
    if (!reached[index] && voxels[index] === label) {
      reached[index] = 1
      stack.push(index)
    }
  }
  while (stack.length > 0) {
    const index = stack.pop()
    indices.push(index)
    const i = index % X
    const j = Math.floor(index / X) % Y
    const k = Math.floor(index / (X * Y))
    if (i > 0) add(index - 1)
    if (i < X - 1) add(index + 1)
    if (j > 0) add(index - X)
    if (j < Y - 1) add(index + X)
    if (k > 0) add(index - X * Y)
    if (k < Z - 1) add(index + X * Y)
  }
  return indices
}

/**
 * Set voxels to a label, and remember in `stroke` (a Map from index to label) what they were.
 *
 * `label` null gives them back what they have in `original`; with `keep`, background stays.
 */
export function stamp(mask, indices, label, { stroke, original, keep }) {
  const { voxels } = mask
  for (const index of indices) {
    const value = label ?? original[index]
    if (voxels[index] === value || (keep && label !== null && voxels[index] === 0)) continue
    if (!stroke.has(index)) stroke.set(index, voxels[index])
    voxels[index] = value
  }
}

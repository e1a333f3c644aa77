// Affines: 4x4 matrices as rows, from voxel indices to mm in RAS+ (as nibabel has them).

/** Return the mm [x, y, z] of a voxel, or of a place between voxels. */
export function apply(affine, [i, j, k]) {
  return affine.slice(0, 3).map((row) => row[0] * i + row[1] * j + row[2] * k + row[3])
}

/** Return the inverse of an affine, from mm to voxels; null if there is none. */
export function invert(affine) {
  const [[a, b, c, x], [d, e, f, y], [g, h, i, z]] = affine
  const determinant = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
  if (!Number.isFinite(1 / determinant)) return null
  const rows = [
    [e * i - f * h, c * h - b * i, b * f - c * e],
    [f * g - d * i, a * i - c * g, c * d - a * f],
    [d * h - e * g, b * g - a * h, a * e - b * d],
  ].map((row) => row.map((value) => value / determinant))
  return [
    ...rows.map((row) => [...row, -(row[0] * x + row[1] * y + row[2] * z)]),
    [0, 0, 0, 1],
  ]
}

/**
 * Return, for each of right, anterior and superior, the voxel axis closest to it, and its sign:
 * [{ axis, sign }]. Each axis is taken once, the clearest first.
 */
export function closestAxes(affine) {
  const lengths = [0, 1, 2].map((axis) => Math.hypot(...affine.slice(0, 3).map((row) => row[axis])))
  const entries = []
  for (let world = 0; world < 3; world++) {
    for (let axis = 0; axis < 3; axis++) {
      entries.push({ world, axis, cosine: affine[world][axis] / lengths[axis] })
    }
  }
  entries.sort((one, other) => Math.abs(other.cosine) - Math.abs(one.cosine))
  const closest = [null, null, null]
  const taken = new Set()
  for (const { world, axis, cosine } of entries) {
    if (closest[world] === null && !taken.has(axis)) {
      closest[world] = { axis, sign: cosine < 0 ? -1 : 1 }
      taken.add(axis)
    }
  }
  return closest
}

/** Return whether two affines and shapes are of one grid, up to a thousandth of a mm. */
export function sameGrid(one, other) {
  return (
    one.shape.every((side, axis) => side === other.shape[axis]) &&
    one.affine.every((row, i) => row.every((value, j) => Math.abs(value - other.affine[i][j]) < 1e-3))
  )
}

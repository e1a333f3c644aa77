// NIfTI-1 and -2 files: read into voxels in the file's own order, and written for the viewer.

const TYPES = {
  2: Uint8Array,
  4: Int16Array,
  8: Int32Array,
  16: Float32Array,
  64: Float64Array,
  256: Int8Array,
  512: Uint16Array,
  768: Uint32Array,
}

/**
 * Return the voxels of a NIfTI file: { shape [X, Y, Z], voxels, slope, intercept }.
 *
 * Voxel (i, j, k) is voxels[i + X * (j + Y * k)], and stands for slope * it + intercept. Throws
 * an Error with one sentence for what is no such file.
 */
export function read(buffer) {
  const view = new DataView(buffer)
  const little = [348, 540].includes(view.getInt32(0, true))
  const size = view.getInt32(0, little)
  if (![348, 540].includes(size)) throw new Error('the file is no NIfTI file')
  const newer = size === 540
  const side = (axis) =>
    newer ? Number(view.getBigInt64(16 + 8 * axis, little)) : view.getInt16(40 + 2 * axis, little)
  const shape = [1, 2, 3].map(side)
  const code = view.getInt16(newer ? 12 : 70, little)
  const offset = newer ? Number(view.getBigInt64(168, little)) : view.getFloat32(108, little)
  const scale = (at1, at2) => (newer ? view.getFloat64(at2, little) : view.getFloat32(at1, little))
  const slope = scale(112, 176)
  const intercept = scale(116, 184)
  const Type = TYPES[code]
  if (!Type) throw new Error(`the file has voxels of type ${code}, which cannot be shown`)
  const count = shape[0] * shape[1] * shape[2]
  const end = offset + count * Type.BYTES_PER_ELEMENT
  if (end > buffer.byteLength) throw new Error('the file ends before its voxels do')
  const data = buffer.slice(offset, end) // at an address that every type can begin at
  if (!little) swap(new Uint8Array(data), Type.BYTES_PER_ELEMENT)
  const scaled = Number.isFinite(slope) && slope !== 0
  return {
    shape,
    voxels: new Type(data),
    slope: scaled ? slope : 1,
    intercept: scaled && Number.isFinite(intercept) ? intercept : 0,
  }
}

function swap(bytes, width) {
  for (let start = 0; start < bytes.length; start += width) bytes.subarray(start, start + width).reverse()
}

/**
 * Return a NIfTI-1 file of voxels, an ArrayBuffer, for the viewer.
 *
 * Only the affine says where the voxels are (as sform), so that the viewer does not choose between
 * two; `range` is the window, which saves the viewer from looking for one.
 */
export function write({ kind, shape, voxels, slope = 1, intercept = 0 }, affine, range) {
  const code = Number(Object.keys(TYPES).find((key) => TYPES[key] === voxels.constructor))
  const buffer = new ArrayBuffer(352 + voxels.byteLength)
  const view = new DataView(buffer)
  view.setInt32(0, 348, true)
  ;[3, ...shape, 1, 1, 1, 1].forEach((value, i) => view.setInt16(40 + 2 * i, value, true))
  if (kind === 'mask') view.setInt16(68, 1002, true) // intent: label
  view.setInt16(70, code, true)
  view.setInt16(72, 8 * voxels.BYTES_PER_ELEMENT, true)
  const lengths = [0, 1, 2].map((axis) => Math.hypot(...affine.slice(0, 3).map((row) => row[axis])))
  ;[1, ...lengths, 1, 1, 1, 1].forEach((value, i) => view.setFloat32(76 + 4 * i, value, true))
  view.setFloat32(108, 352, true)
  view.setFloat32(112, slope, true)
  view.setFloat32(116, intercept, true)
  view.setUint8(123, 2) // mm
  view.setFloat32(124, range[1], true)
  view.setFloat32(128, range[0], true)
  view.setInt16(254, 1, true) // sform: scanner
  affine.slice(0, 3).forEach((row, i) => {
    row.forEach((value, j) => view.setFloat32(280 + 16 * i + 4 * j, value, true))
  })
  view.setUint32(344, 0x6e2b3100, false) // 'n+1'
  new Uint8Array(buffer, 352).set(new Uint8Array(voxels.buffer, voxels.byteOffset, voxels.byteLength))
  return buffer
}

// Planes of an image drawn without the graphics card: for the grid and the small pictures.

import { apply, closestAxes } from './affine.js'

const ACROSS = { axial: [0, 1, 2], coronal: [0, 2, 1], sagittal: [1, 2, 0] } // across, up, through

/**
 * Return the plane of an image through a place in mm as { pixels: ImageData, ratio }.
 *
 * The plane is one of the file, that closest to the body's; R or A is on the left, as in the main
 * view. `ratio` is height divided by width in mm. `ink(image)` turns values into colours.
 */
export function plane(image, name, mm, paint) {
  const axes = closestAxes(image.affine)
  const [across, up, through] = ACROSS[name].map((world) => axes[world])
  const centre = mm ? apply(image.inverse, mm).map(Math.round) : image.shape.map((side) => side >> 1)
  const strides = [1, image.shape[0], image.shape[0] * image.shape[1]]
  const [width, height] = [image.shape[across.axis], image.shape[up.axis]]
  const depth = Math.min(Math.max(centre[through.axis], 0), image.shape[through.axis] - 1)
  const pixels = new ImageData(width, height)
  const colours = new Uint32Array(pixels.data.buffer)
  for (let row = 0; row < height; row++) {
    const j = up.sign > 0 ? height - 1 - row : row
    for (let column = 0; column < width; column++) {
      // Right, and anterior in sagittal planes, are on the left.
      const i = across.sign > 0 ? width - 1 - column : column
      const index = i * strides[across.axis] + j * strides[up.axis] + depth * strides[through.axis]
      colours[row * width + column] = paint(image.voxels[index])
    }
  }
  const length = (axis) => Math.hypot(...image.affine.slice(0, 3).map((row) => row[axis]))
  return { pixels, ratio: (height * length(up.axis)) / (width * length(across.axis)) }
}

/** Return a function from raw values to grey pixels, black at range[0] and white at range[1]. */
export function greys({ slope, intercept }, [black, white]) {
  const scale = 255 / (white - black)
  return (raw) => {
    const grey = Math.min(Math.max((raw * slope + intercept - black) * scale, 0), 255) | 0
    return (0xff000000 | (grey << 16) | (grey << 8) | grey) >>> 0
  }
}

/** Return a function from ids of labels to pixels in their colours. */
export function colours(table) {
  const pixels = new Uint32Array(256)
  for (let id = 1; id < 256; id++) {
    const [red, green, blue] = [1, 3, 5].map((at) => parseInt((table[id] ?? '#888888').slice(at, at + 2), 16))
    pixels[id] = (0xff000000 | (blue << 16) | (green << 8) | red) >>> 0
  }
  pixels[0] = 0xff000000
  return (id) => pixels[id]
}

/** Draw a plane into a canvas; the style sheet gives the canvas its size. */
export function drawPlane(canvas, image, name, mm, { range, table }) {
  const paint = image.kind === 'mask' ? colours(table) : greys(image, range)
  const { pixels, ratio } = plane(image, name, mm, paint)
  canvas.width = pixels.width
  canvas.height = Math.max(1, Math.round(pixels.width * ratio))
  const context = canvas.getContext('2d')
  if (canvas.height === pixels.height) return context.putImageData(pixels, 0, 0)
  const whole = new OffscreenCanvas(pixels.width, pixels.height)
  whole.getContext('2d').putImageData(pixels, 0, 0)
  context.drawImage(whole, 0, 0, canvas.width, canvas.height)
}

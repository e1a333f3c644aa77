// The letters at the edges of the planes: NiiVue draws some of them into the picture.

const SVG = 'http://www.w3.org/2000/svg'
const MARGIN = 12 // CSS pixels from the edge of a plane
// Left, right, top, bottom of axial, coronal and sagittal planes: R is on the left, and so is A.
const LETTERS = ['RLAP', 'RLSI', 'APSI']

/** Return the element for the letters of a pane. */
export function lettersElement() {
  const element = document.createElementNS(SVG, 'svg')
  element.setAttribute('class', 'letters')
  element.setAttribute('aria-hidden', 'true')
  return element
}

/** Write the letters of the planes that a viewer shows now. */
export function drawLetters({ viewer, letters }) {
  const scale = viewer.uiData.dpr ?? 1
  const texts = viewer.screenSlices.flatMap(({ axCorSag, leftTopWidthHeight }) => {
    if (!LETTERS[axCorSag]) return [] // 3D
    const [x, y, across, height] = leftTopWidthHeight.map((pixels) => pixels / scale)
    const [left, width] = [Math.min(x, x + across), Math.abs(across)]
    const positions = [
      [left + MARGIN, y + height / 2],
      [left + width - MARGIN, y + height / 2],
      [left + width / 2, y + MARGIN],
      [left + width / 2, y + height - MARGIN],
    ]
    return positions.map(([column, row], index) => letter(LETTERS[axCorSag][index], column, row))
  })
  letters.replaceChildren(...texts)
}

function letter(text, x, y) {
  const element = document.createElementNS(SVG, 'text')
  element.setAttribute('x', x)
  element.setAttribute('y', y)
  element.textContent = text
  return element
}

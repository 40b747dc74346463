// Bar and line charts as SVG, redrawn for the available width. The colors are in the style sheet.

const namespace = 'http://www.w3.org/2000/svg'
const height = 200
const left = 60
const bottom = 24
const top = 12
const minSlots = 30 // minimum number of points on the time axis; new points appear at the right

function svg(name, attributes = {}, ...children) {
  const e = document.createElementNS(namespace, name)
  for (const [key, value] of Object.entries(attributes)) e.setAttribute(key, value)
  e.append(...children)
  return e
}

// roundUp returns the smallest of 1, 2, 4, 10, 20, … that is at least the value.
function roundUp(value) {
  const power = 10 ** Math.floor(Math.log10(value))
  return [1, 2, 4, 10].map((n) => n * power).find((n) => n >= value * 0.999999)
}

// frame draws axes and grid lines up to max. x and y map an index and a value to coordinates.
function frame(container, title, points, max, unit) {
  const width = Math.max(240, container.clientWidth)
  const slots = Math.max(minSlots, points.length)
  const x = (i) => left + ((width - left) * (slots - points.length + i)) / slots
  const y = (v) => top + (height - top - bottom) * (1 - v / max)
  const chart = svg('svg', { viewBox: `0 0 ${width} ${height}`, height, role: 'img', 'aria-label': title })
  for (const share of [0, 0.5, 1]) {
    chart.append(
      svg('line', { x1: left, x2: width, y1: y(share * max), y2: y(share * max), class: 'grid' }),
      svg('text', { x: left - 8, y: y(share * max) + 4, class: 'tick end' }, unit(share * max)),
    )
  }
  const time = (point) => new Date(point.time).toLocaleTimeString()
  if (points.length) {
    const first = x(0)
    if (width - first > 180) chart.append(svg('text', { x: first, y: height - 6, class: 'tick' }, time(points[0])))
    chart.append(svg('text', { x: width, y: height - 6, class: 'tick end' }, time(points.at(-1))))
  }
  return { chart, x, y }
}

function legend(series) {
  const list = document.createElement('ul')
  list.className = 'legend'
  for (const s of series) {
    const item = document.createElement('li')
    const swatch = document.createElement('i')
    swatch.className = s.class
    item.append(swatch, s.name)
    list.append(item)
  }
  return list
}

// bars draws stacked bars.
export function bars(container, title, points, series, unit) {
  const total = (p) => series.reduce((sum, s) => sum + s.value(p), 0)
  const max = roundUp(Math.max(2, ...points.map(total)))
  const { chart, x, y } = frame(container, title, points, max, unit)
  points.forEach((p, i) => {
    let sum = 0
    for (const s of series) {
      const v = s.value(p)
      if (v) chart.append(svg('rect', { x: x(i) + 0.5, width: Math.max(1, x(i + 1) - x(i) - 1), y: y(sum + v), height: y(sum) - y(sum + v), class: s.class }))
      sum += v
    }
  })
  container.replaceChildren(legend(series), chart)
}

// lines draws one line per series, with gaps where there is no value.
export function lines(container, title, points, series, unit) {
  const values = points.flatMap((p) => series.map((s) => s.value(p))).filter((v) => v != null)
  const max = roundUp(Math.max(1e-4, ...values))
  const { chart, x, y } = frame(container, title, points, max, unit)
  for (const s of series) {
    let path = ''
    let empty = true
    points.forEach((p, i) => {
      const v = s.value(p)
      if (v == null) return
      const before = i > 0 && s.value(points[i - 1]) != null
      const after = i + 1 < points.length && s.value(points[i + 1]) != null
      const at = `${(x(i) + x(i + 1)) / 2} ${y(v)}`
      path += before ? `L${at}` : `M${at}`
      if (!before && !after) path += 'h4' // a point without neighbors
      empty = false
    })
    if (!empty) chart.append(svg('path', { d: path, class: `line ${s.class}` }))
  }
  container.replaceChildren(legend(series), chart)
}

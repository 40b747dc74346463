// Requests to the server, error messages, and helpers for the DOM.

// Problem is a failed request: the server's problem document (RFC 9457), or status 0 if there was no
// response.
export class Problem extends Error {
  constructor(status, detail = '', { retryAfter = 0, requestID = '' } = {}) {
    super(detail || `status ${status}`)
    Object.assign(this, { status, detail, retryAfter, requestID })
  }
}

// request sends a request and returns the JSON of the response, or throws a Problem.
export async function request(path, { method = 'GET', body, type, token, timeout = 30_000 } = {}) {
  const headers = {}
  if (type) headers['Content-Type'] = type
  if (token) headers.Authorization = `Bearer ${token}`
  let response
  let text
  try {
    response = await fetch(path, { method, body, headers, cache: 'no-store', signal: AbortSignal.timeout(timeout) })
    text = await response.text()
  } catch (error) {
    throw new Problem(0, error.name === 'TimeoutError' ? `No response within ${timeout / 1000} seconds.` : '')
  }
  let result
  try {
    result = JSON.parse(text)
  } catch {
    result = null
  }
  if (response.ok && result !== null) return result
  // A proxy in front of the server may send errors in another format.
  throw new Problem(response.status, result?.detail ?? '', {
    retryAfter: Number(response.headers.get('Retry-After')) || 0,
    requestID: response.headers.get('X-Request-Id') ?? '',
  })
}

const messages = {
  0: ['Cannot reach the server', 'Check that the server is running and your network works, then try again.'],
  400: ['Nothing to classify', 'Choose another file.'],
  401: ['Admin token required', 'Enter it below, then try again.'],
  403: ['Not allowed', 'Contact the operator of this server.'],
  404: ['Not found', 'The feature may be turned off. Contact the operator of this server.'],
  409: ['Not possible right now', 'Check the status, then try again.'],
  413: ['Image too large', 'Make it smaller: the model uses only few pixels anyway.'],
  415: ['Not a supported image', 'Choose a JPEG, PNG, GIF, WebP, BMP, TIFF, HEIC or AVIF file.'],
  422: ['Damaged image', 'Save it again in another program, then retry.'],
  429: ['Too many requests', 'Wait a moment, then try again.'],
  502: ['Cannot reach the model source', 'Try again later, or contact the operator of this server.'],
  503: ['Server busy', 'Try again in a moment.'],
}

// noModel reports whether the error means that the server has no model yet.
export const noModel = (error) => error.status === 503 && error.detail.startsWith('no model is loaded')

// describe returns what an error means, what to do about it, and the server's message.
export function describe(error) {
  if (!(error instanceof Problem)) {
    reportError(error) // logs to the console
    return { title: 'Page error', advice: 'Reload the page. If that does not help, contact the operator of this server.', detail: String(error) }
  }
  const [title, advice] = (noModel(error) && ['No model yet', 'Publish a model, then try again.']) || messages[error.status] || [
    'Server error',
    `Try again. If that does not help, contact the operator of this server${error.requestID ? ` (request ID ${error.requestID})` : ''}.`,
  ]
  return { title, advice, detail: error.detail.replace(/\b\d{4,} bytes\b/g, (size) => fileSize(parseInt(size))) }
}

// explain returns the description of an error as one text.
export function explain(error) {
  const { title, advice, detail } = describe(error)
  return [`${title}.`, detail && `${capital(detail)}.`.replace(/([.!?])\.$/, '$1'), advice].filter(Boolean).join(' ')
}

// fileSize returns a number of bytes in kB or MB.
export function fileSize(bytes) {
  if (bytes < 1000) return `${bytes} bytes`
  const [value, unit] = bytes < 999_500 ? [bytes / 1e3, 'kB'] : [bytes / 1e6, 'MB']
  return `${value < 9.95 ? value.toFixed(1) : Math.round(value)}\u00a0${unit}`
}

// capital returns the text with an upper-case first letter.
export const capital = (text) => text.slice(0, 1).toUpperCase() + text.slice(1)

export const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds))

// short returns the abbreviated form of a digest.
export const short = (digest) => digest.replace(/^sha256:/, '').slice(0, 12)

// element creates an element with attributes, event listeners (on…) and children. Strings are added as
// text, not as HTML.
export function element(name, attributes = {}, ...children) {
  const e = document.createElement(name)
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith('on')) e.addEventListener(key.slice(2), value)
    else if (value !== false && value != null) e.setAttribute(key, value === true ? '' : value)
  }
  e.append(...children.filter((child) => child != null))
  return e
}

// definitions creates a list of names and values, without those that have no value.
export function definitions(pairs) {
  return element('dl', {}, ...pairs.filter(([, value]) => value != null && value !== '').map(([name, value]) =>
    element('div', {}, element('dt', {}, name), element('dd', {}, value))))
}

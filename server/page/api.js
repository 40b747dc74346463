// What the server is asked, and what its refusals mean in words.

// Problem is a failure of a request: the server's problem document (RFC 9457), or
// status 0 when there was no answer.
export class Problem extends Error {
  constructor(status, detail = '', { after = 0, request = '' } = {}) {
    super(detail || `status ${status}`)
    Object.assign(this, { status, detail, after, request })
  }
}

// ask sends a request and returns the JSON of the answer, or throws a Problem.
export async function ask(path, { method = 'GET', body, type, token, timeout = 30_000 } = {}) {
  const headers = {}
  if (type) headers['Content-Type'] = type
  if (token) headers.Authorization = `Bearer ${token}`
  let response
  let text
  try {
    response = await fetch(path, { method, body, headers, cache: 'no-store', signal: AbortSignal.timeout(timeout) })
    text = await response.text()
  } catch (error) {
    throw new Problem(0, error.name === 'TimeoutError' ? `There was no answer within ${timeout / 1000} seconds.` : '')
  }
  let answer
  try {
    answer = JSON.parse(text)
  } catch {
    answer = null
  }
  if (response.ok && answer !== null) return answer
  // A proxy before the server answers in words of its own.
  throw new Problem(response.status, answer?.detail ?? '', {
    after: Number(response.headers.get('Retry-After')) || 0,
    request: response.headers.get('X-Request-Id') ?? '',
  })
}

const meanings = {
  0: ['The server cannot be reached', 'Nothing is lost: see that the server runs and the network works, then try again.'],
  400: ['There is nothing to judge', 'Choose another file.'],
  401: ['This needs the administrator’s token', 'Enter it below, and try again.'],
  403: ['The server does not allow this', 'Ask who operates it.'],
  404: ['The server has no such thing', 'It may be turned off; ask who operates the server.'],
  409: ['Not possible now', 'Look at the state, then try again.'],
  413: ['The picture is too large', 'Make it smaller: the model looks at 32×32 pixels of it anyway.'],
  415: ['This is not a picture', 'Choose a JPEG, PNG, GIF, WebP or BMP file.'],
  422: ['The picture is damaged', 'Open it in another program, save it anew, and try again.'],
  429: ['Too many requests from you', 'Wait a moment, then try again.'],
  502: ['The place of the models cannot be reached', 'Try again later, or ask who operates the server.'],
  503: ['The server is busy', 'Try again in a moment.'],
}

// noModel reports whether the server waits for its first model.
export const noModel = (error) => error.status === 503 && error.detail.startsWith('no model is loaded')

// words says what a failure means, what to do, and the server's own words.
export function words(error) {
  if (!(error instanceof Problem)) {
    reportError(error) // for the console
    return { title: 'This page failed', advice: 'Load it anew; if it goes on, tell who operates the server.', detail: String(error) }
  }
  const [title, advice] = (noModel(error) && ['There is no model yet', 'Publish a model, then try again.']) || meanings[error.status] || [
    'The server failed',
    `Try again; if it goes on, tell who operates it${error.request ? ` the name of the request, ${error.request}` : ''}.`,
  ]
  return { title, advice, detail: error.detail }
}

// sentence is a failure in one text.
export function sentence(error) {
  const { title, advice, detail } = words(error)
  return [`${title}.`, detail && `${capital(detail)}.`.replace(/([.!?])\.$/, '$1'), advice].filter(Boolean).join(' ')
}

// capital is a text with a large letter at its beginning.
export const capital = (text) => text.slice(0, 1).toUpperCase() + text.slice(1)

export const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds))

// short is a digest as people read it.
export const short = (digest) => digest.replace(/^sha256:/, '').slice(0, 12)

// element makes an element with attributes and children; texts stay texts.
export function element(name, attributes = {}, ...children) {
  const e = document.createElement(name)
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith('on')) e.addEventListener(key.slice(2), value)
    else if (value !== false && value != null) e.setAttribute(key, value === true ? '' : value)
  }
  e.append(...children.filter((child) => child != null))
  return e
}

// definitions is a list of names and values; values that are nothing are left out.
export function definitions(pairs) {
  return element('dl', {}, ...pairs.filter(([, value]) => value != null && value !== '').map(([name, value]) =>
    element('div', {}, element('dt', {}, name), element('dd', {}, value))))
}

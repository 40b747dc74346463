// Shows one view at a time, selected by the fragment of the URL.

import { initClassify, setModel } from './classify.js'
import { initModels, onModel, showCurrent, showModels } from './models.js'
import { showStatus, hideStatus } from './status.js'

// No element has the name of a view as its ID: the browser would scroll to it, past the navigation.
const views = ['classify', 'models', 'status']
const aliases = { judge: 'classify', state: 'status' } // former names
const titles = { classify: 'Fakeart: classify images', models: 'Fakeart: models', status: 'Fakeart: status' }

function show() {
  const fragment = location.hash.slice(1)
  if (fragment === 'main') return // the skip link
  const name = aliases[fragment] ?? fragment
  const view = views.includes(name) ? name : 'classify'
  for (const name of views) {
    document.getElementById(`${name}-view`).hidden = name !== view
    const link = document.querySelector(`nav a[href="#${name}"]`)
    if (name === view) link.setAttribute('aria-current', 'page')
    else link.removeAttribute('aria-current')
  }
  document.title = titles[view]
  if (view === 'models') showModels()
  if (view === 'status') showStatus()
  else hideStatus()
}

onModel(setModel)
initModels()
initClassify(showCurrent)
addEventListener('hashchange', () => {
  show()
  window.scrollTo(0, 0)
})
show()
if (document.getElementById('models-view').hidden) showCurrent() // the classify view shows what the model was trained on
// For benchmarks and tests.
performance.mark('ready')
document.documentElement.dataset.ready = 'true'

// The page's views, one shown at a time, named by the address's fragment.

import { startJudging, modelChanged } from './judge.js'
import { onModel, showCurrent, showModels } from './models.js'
import { showState, hideState } from './state.js'

const views = ['judge', 'models', 'state']
const titles = { judge: 'Fakeart: photograph or AI-generated?', models: 'Fakeart: models', state: 'Fakeart: state' }

function show() {
  const wanted = location.hash.slice(1)
  if (wanted === 'main') return // the link that skips the navigation
  const view = views.includes(wanted) ? wanted : 'judge'
  for (const name of views) {
    document.getElementById(name).hidden = name !== view
    const link = document.querySelector(`nav a[href="#${name}"]`)
    if (name === view) link.setAttribute('aria-current', 'page')
    else link.removeAttribute('aria-current')
  }
  document.title = titles[view]
  if (view === 'models') showModels()
  if (view === 'state') showState()
  else hideState()
}

onModel(modelChanged)
startJudging(showCurrent)
addEventListener('hashchange', () => {
  show()
  window.scrollTo(0, 0)
})
show()
if (document.getElementById('models').hidden) showCurrent() // the judging view says what the model was trained on
// For those who measure, and who test.
performance.mark('ready')
document.documentElement.dataset.ready = 'true'

import { existsSync, readdirSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { slug } from 'github-slugger'
import { defineConfig } from 'vitepress'

// One page for each alert, which infra/ and monitoring/prometheus name.
const runbooks = readdirSync(path.resolve(import.meta.dirname, '../../runbooks'))
  .map((file) => `runbooks/${path.parse(file).name}`)
  .filter((name) => name !== 'runbooks/README')

// One for each decision, in their order.
const decisions = readdirSync(path.resolve(import.meta.dirname, '../../decisions'))
  .filter((file) => /^\d/.test(file))
  .map((file) => `decisions/${path.parse(file).name}`)

// The groups of the sidebar and their pages, by the names of their files in docs/;
// the texts are the pages' own titles.
const groups = {
  Tutorials: ['getting-started', 'tutorials/laptop', 'tutorials/own-pictures', 'tutorials/cloud'],
  'How to': ['data', 'training', 'retrain', 'promote', 'roll-back', 'operate', 'monitoring', 'drift', 'deploy', 'load-balancer', 'ci'].map((name) => `how-to/${name}`),
  Reference: [
    'http', 'api', 'server', 'trainer', 'keys', 'configuration', 'metrics', 'model-file', 'prediction-log', 'infra', 'stacks', 'dagger', 'make',
  ].map((name) => `reference/${name}`),
  Explanation: ['architecture', 'cifake', 'slo-arithmetic', 'maps', 'drift', 'performance', 'costs'].map((name) => `explanation/${name}`),
  Decisions: ['decisions/README', ...decisions],
  Runbooks: ['runbooks/README', ...runbooks],
}
// The same for pages at the root of the repository.
const project = ['CONTRIBUTING', 'CHANGELOG']

const repository = path.resolve(import.meta.dirname, '../../..')

// Where the repository is: links to its files lead there.
const forge = (process.env.DOCS_REPOSITORY || 'https://github.com/OWNER/REPOSITORY').replace(/\/+$/, '')

// The folder of the server that the site is in.
const base = (process.env.DOCS_BASE || '').replace(/\/*$/, '/')
if (!base.startsWith('/')) throw new Error(`DOCS_BASE=${process.env.DOCS_BASE}: begin it with a slash, such as /REPOSITORY/`)

const pages = [
  'docs/index.md',
  ...project.map((name) => `${name}.md`),
  ...Object.values(groups).flat().map((name) => `docs/${name}.md`),
]

// address returns a page's place on the site: README.md is the first one of its folder.
function address(page: string) {
  return page.replace(/^docs\//, '').replace(/README\.md$/, 'index.md').toLowerCase()
}

// Long lists are folded until one of their pages is looked at.
function group(text: string, names: string[], folder = '') {
  return { text, collapsed: names.length > 10, items: names.map((name) => item(`${folder}${name}.md`)) }
}

function item(page: string) {
  const title = readFileSync(path.join(repository, page), 'utf8').match(/^# (.+)$/m)
  if (!title) throw new Error(`${page}: has no title; begin it with a line such as "# Title"`)
  return { text: title[1], link: '/' + address(page).replace(/(index)?\.md$/, '') }
}

export default defineConfig({
  title: 'Fakeart',
  description: 'Tells photographs from AI-generated pictures: data, training, evaluation and serving in Go',
  base,
  srcDir: repository,
  // No pages of the site: other folders, which may be big, and other files at the root.
  srcExclude: ['!(docs)/*', '!(docs)/*/**', 'docs/site/**', `!(${project.join('|')}).md`],
  rewrites: (page) => {
    if (!pages.includes(page)) throw new Error(`${page}: is in no group of the sidebar; name it in docs/site/.vitepress/config.ts`)
    return address(page)
  },
  // Links in the head of the first page are written as those in texts are.
  transformPageData({ frontmatter }) {
    for (const link of [...(frontmatter.hero?.actions ?? []), ...(frontmatter.features ?? [])]) link.link = '/' + address(link.link).replace(/\.md$/, '')
  },
  outDir: path.join(repository, 'build/docs'),
  buildConcurrency: 1, // the same site each time: otherwise the search index has another order
  vite: {
    publicDir: path.join(import.meta.dirname, '../public'),
    build: { chunkSizeWarningLimit: 1000 }, // Mermaid's, which is loaded by pages with a picture alone
    // Pages lie where no packages are: what they import while the site is built is
    // left to Node, which finds it from the built program.
    plugins: [
      {
        name: 'packages-of-pages',
        enforce: 'pre',
        resolveId: (id, _, { ssr }) => (ssr && /^vue(\/server-renderer)?$/.test(id) ? { id, external: true } : null),
      },
    ],
  },
  head: [
    // The browser itself sees to it that nothing is loaded from elsewhere.
    ['meta', { 'http-equiv': 'Content-Security-Policy', content: "default-src 'self' data:; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'" }],
    ['link', { rel: 'icon', type: 'image/svg+xml', href: `${base}logo.svg` }],
  ],
  markdown: {
    anchor: { slugify: (heading) => slug(heading) }, // as a forge does
    config(md) {
      // Links are written for the forge, by the places of the files. They become the
      // pages' places on the site, or, to other files, addresses on the forge.
      md.core.ruler.push('links', ({ env, tokens }) => {
        if (!env.path) return // a title, without links
        const from = path.relative(repository, env.realPath ?? env.path)
        for (const token of tokens.flatMap((block) => block.children ?? [])) {
          const link = token.type === 'link_open' && token.attrGet('href')
          if (!link || /^([a-z][a-z+.-]*:|[#/])/i.test(link)) continue
          const [, target, anchor] = link.match(/^([^#]*)(.*)$/)!
          const file = path.posix.join(path.posix.dirname(from.replaceAll(path.sep, '/')), decodeURI(target))
          const shipped = file.match(/^docs\/site\/public(\/.+)$/) // with the site
          if (pages.includes(file)) token.attrSet('href', '/' + address(file) + anchor)
          else if (shipped) token.attrSet('href', shipped[1])
          else if (existsSync(path.join(repository, file))) token.attrSet('href', `${forge}/blob/main/${encodeURI(file)}${anchor}`)
          // Anything else stays, and fails the build as a dead link.
        }
      })
      // Indented code looks as fenced code does.
      md.core.ruler.push('code', ({ tokens }) => {
        for (const token of tokens.filter((token) => token.type === 'code_block')) {
          token.type = 'fence'
          token.tag = 'code'
          token.info = 'text'
        }
      })
      const fence = md.renderer.rules.fence!
      md.renderer.rules.fence = (tokens, i, options, env, self) =>
        tokens[i].info.trim() === 'mermaid'
          ? `<Mermaid source="${md.utils.escapeHtml(tokens[i].content)}" />`
          : fence(tokens, i, options, env, self)
    },
  },
  themeConfig: {
    logo: '/logo.svg',
    nav: [
      { text: 'Tutorials', link: '/getting-started', activeMatch: '/(getting-started|tutorials/)' },
      { text: 'How to', link: '/how-to/operate', activeMatch: '/how-to/' },
      { text: 'Reference', link: '/reference/http', activeMatch: '/reference/' },
      { text: 'Explanation', link: '/explanation/architecture', activeMatch: '/(explanation|decisions)/' },
      { text: 'Repository', link: forge },
    ],
    sidebar: [
      ...Object.entries(groups).map(([text, names]) => group(text, names, 'docs/')),
      group('Project', project),
    ],
    outline: [2, 3],
    search: { provider: 'local', options: { miniSearch: { searchOptions: { combineWith: 'AND' } } } },
  },
})

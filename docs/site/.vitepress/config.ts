import { existsSync, readdirSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { slug } from 'github-slugger'
import { defineConfig } from 'vitepress'

// One page per alert.
const runbooks = readdirSync(path.resolve(import.meta.dirname, '../../runbooks'))
  .map((file) => `runbooks/${path.parse(file).name}`)
  .filter((name) => name !== 'runbooks/README')

// One page per design decision, in order.
const decisions = readdirSync(path.resolve(import.meta.dirname, '../../decisions'))
  .filter((file) => /^\d/.test(file))
  .map((file) => `decisions/${path.parse(file).name}`)

// The groups of the sidebar, with the names of their pages in docs/. The texts are the pages' titles.
const groups = {
  Tutorials: ['getting-started', 'tutorials/laptop', 'tutorials/own-images', 'tutorials/cloud'],
  'How-to guides': ['data', 'training', 'retrain', 'promote', 'roll-back', 'operate', 'models', 'bring-your-own-model', 'monitoring', 'drift', 'upgrade', 'deploy', 'load-balancer', 'images', 'ci'].map((name) => `how-to/${name}`),
  Reference: [
    'http', 'api', 'server', 'trainer', 'keys', 'configuration', 'metrics', 'model-file', 'preprocessing', 'prediction-log', 'infra', 'stacks', 'dagger', 'make',
  ].map((name) => `reference/${name}`),
  Explanation: ['architecture', 'cifake', 'training', 'maps', 'drift', 'slo-arithmetic', 'performance', 'costs', 'reproducible-images'].map((name) => `explanation/${name}`),
  Help: ['faq', 'glossary'],
  Decisions: ['decisions/README', ...decisions],
  Runbooks: ['runbooks/README', ...runbooks],
}
// The pages at the root of the repository.
const project = ['CONTRIBUTING', 'SECURITY', 'CODE_OF_CONDUCT', 'CHANGELOG']

const repository = path.resolve(import.meta.dirname, '../../..')

// The repository on GitHub: target of links to files and of "Edit this page".
const github = (process.env.DOCS_REPOSITORY || 'https://github.com/OWNER/REPOSITORY').replace(/\/+$/, '')

// The newest version in the changelog.
const version = readFileSync(path.join(repository, 'CHANGELOG.md'), 'utf8').match(/^## \[(\d[^\]]*)\]/m)![1]

// The path of the site on its server.
const base = (process.env.DOCS_BASE || '').replace(/\/*$/, '/')
if (!base.startsWith('/')) throw new Error(`DOCS_BASE=${process.env.DOCS_BASE}: must begin with a slash, such as /REPOSITORY/`)

const pages = [
  'docs/index.md',
  ...project.map((name) => `${name}.md`),
  ...Object.values(groups).flat().map((name) => `docs/${name}.md`),
]

// address returns a page's path on the site. README.md is the index of its folder.
function address(page: string) {
  return page.replace(/^docs\//, '').replace(/README\.md$/, 'index.md').toLowerCase()
}

// Long groups that one rarely browses are collapsed unless one of their pages is open.
function group(text: string, names: string[], folder = '') {
  return { text, collapsed: ['Decisions', 'Runbooks'].includes(text), items: names.map((name) => item(`${folder}${name}.md`)) }
}

function item(page: string) {
  const title = readFileSync(path.join(repository, page), 'utf8').match(/^# (.+)$/m)
  if (!title) throw new Error(`${page}: no title; add a first line such as "# Title"`)
  return { text: title[1], link: '/' + address(page).replace(/(index)?\.md$/, '') }
}

export default defineConfig({
  title: 'Fakeart',
  description: 'MLOps platform in Go for a classifier of photographs and AI-generated images',
  base,
  srcDir: repository,
  // Not part of the site: other folders, which may be large, and other files at the root.
  srcExclude: ['!(docs)/*', '!(docs)/*/**', 'docs/site/**', `!(${project.join('|')}).md`],
  rewrites: (page) => {
    if (!pages.includes(page)) throw new Error(`${page}: missing in the sidebar; add it to a group in docs/site/.vitepress/config.ts`)
    return address(page)
  },
  // Links in the front matter of the home page are relative file names, like those in texts.
  transformPageData({ frontmatter }) {
    for (const link of [...(frontmatter.hero?.actions ?? []), ...(frontmatter.features ?? [])]) link.link = '/' + address(link.link).replace(/\.md$/, '')
  },
  outDir: path.join(repository, 'build/docs'),
  buildConcurrency: 1, // a reproducible site: with concurrency the order of the search index varies
  vite: {
    publicDir: path.join(import.meta.dirname, '../public'),
    build: { chunkSizeWarningLimit: 1000 }, // Mermaid, which only pages with diagrams load
    // Pages are outside of the folder with the packages. Vite can't resolve their imports of Vue
    // during the build, but Node can, from the built program.
    plugins: [
      {
        name: 'packages-of-pages',
        enforce: 'pre',
        resolveId: (id, _, { ssr }) => (ssr && /^vue(\/server-renderer)?$/.test(id) ? { id, external: true } : null),
      },
    ],
  },
  head: [
    // Make the browser reject anything from other hosts.
    ['meta', { 'http-equiv': 'Content-Security-Policy', content: "default-src 'self' data:; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'" }],
    ['link', { rel: 'icon', type: 'image/svg+xml', href: `${base}logo.svg` }],
  ],
  markdown: {
    anchor: { slugify: (heading) => slug(heading) }, // like GitHub
    config(md) {
      // Links in the sources are relative file names, as GitHub needs them. Rewrite them to paths on
      // the site, or to GitHub if the file isn't a page.
      md.core.ruler.push('links', ({ env, tokens }) => {
        if (!env.path) return // a title, which has no links
        const from = path.relative(repository, env.realPath ?? env.path)
        for (const token of tokens.flatMap((block) => block.children ?? [])) {
          const link = token.type === 'link_open' && token.attrGet('href')
          if (!link || /^([a-z][a-z+.-]*:|[#/])/i.test(link)) continue
          const [, target, anchor] = link.match(/^([^#]*)(.*)$/)!
          const file = path.posix.join(path.posix.dirname(from.replaceAll(path.sep, '/')), decodeURI(target))
          const shipped = file.match(/^docs\/site\/public(\/.+)$/) // published with the site
          if (pages.includes(file)) token.attrSet('href', '/' + address(file) + anchor)
          else if (shipped) token.attrSet('href', shipped[1])
          else if (existsSync(path.join(repository, file))) token.attrSet('href', `${github}/blob/main/${encodeURI(file)}${anchor}`)
          // Others stay as they are, and fail the build as dead links.
        }
      })
      // Render indented code like fenced code.
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
      { text: 'How-to guides', link: '/how-to/operate', activeMatch: '/how-to/' },
      { text: 'Reference', link: '/reference/http', activeMatch: '/reference/' },
      { text: 'Explanation', link: '/explanation/architecture', activeMatch: '/(explanation|decisions)/' },
      { text: 'FAQ', link: '/faq' },
      { text: version, link: '/changelog' },
      { text: 'GitHub', link: github },
    ],
    sidebar: [
      ...Object.entries(groups).map(([text, names]) => group(text, names, 'docs/')),
      group('Project', project),
    ],
    outline: [2, 3],
    editLink: { pattern: `${github}/edit/main/:path`, text: 'Edit this page' },
    docFooter: { prev: 'Previous page', next: 'Next page' },
    search: { provider: 'local', options: { miniSearch: { searchOptions: { combineWith: 'AND' } } } },
  },
})

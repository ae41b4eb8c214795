import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { chromium, type Browser, type Locator, type Page } from 'playwright-core'
import { requireProgram } from '../../haproxy-compat/programs.ts'

/** How a page is looked at. */
export interface Look {
  readonly width: 390 | 1440
  readonly colorScheme: 'light' | 'dark'
}

export interface Dashboard {
  readonly page: Page
  /** What has gone wrong in it so far: errors, what its policy forbids, requests to elsewhere. */
  readonly faults: readonly string[]
  /** Waits until it is told how things are. */
  readonly isLive: () => Promise<void>
  /** Of the session or instance of that name. */
  readonly row: (name: string) => Locator
  /** What its row says under a heading. */
  readonly cell: (name: string, label: string) => Promise<string>
  readonly close: () => Promise<void>
}

export async function startBrowser(): Promise<Browser> {
  requireProgram('chromium')
  const executablePath = execFileSync('which', ['chromium'], { encoding: 'utf8' }).trim()
  return chromium.launch({
    executablePath,
    args: ['--no-sandbox', '--disable-gpu'],
    timeout: 60_000,
  })
}

export async function openDashboard(
  browser: Browser,
  url: string,
  { width, colorScheme }: Look = { width: 1440, colorScheme: 'light' },
): Promise<Dashboard> {
  const viewport = { width, height: 900 }
  const context = await browser.newContext({ viewport, colorScheme, reducedMotion: 'reduce' })
  context.setDefaultTimeout(60_000)
  const page = await context.newPage()
  const faults: string[] = []
  page.on('pageerror', (error) => faults.push(String(error)))
  page.on('console', (message) => {
    if (['error', 'warning'].includes(message.type())) faults.push(message.text())
  })
  page.on('request', (request) => {
    if (new URL(request.url()).origin !== new URL(url).origin) faults.push(request.url())
  })
  await page.goto(new URL('/dashboard', url).href)
  const row = (name: string): Locator =>
    page.locator('tbody tr', { has: page.locator('th', { hasText: name }) })
  return {
    page,
    faults,
    row,
    isLive: () => page.locator('#connection[data-is=live]').waitFor(),
    cell: async (name, label) =>
      (await row(name).locator(`[data-label="${label}"]`).textContent()) ?? '',
    close: () => context.close(),
  }
}

const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8')

/** What keeps people from using the page as it is now, each with where it is. */
export async function barriersOf(page: Page): Promise<readonly string[]> {
  await page.evaluate(`${axe};0`)
  return page.evaluate(`axe.run().then(({ violations }) => violations.flatMap(
    ({ id, nodes }) => nodes.map(({ html }) => id + ' at ' + html)))`)
}

/** The page itself never scrolls sideways. */
export function overflowOf(page: Page): Promise<number> {
  return page.evaluate('document.documentElement.scrollWidth - innerWidth')
}

import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import type { Browser } from 'playwright-core'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { LATENCY_MS } from '../../mcp/operator.ts'
import { startFleet, type Fleet } from '../support/fleet.ts'
import {
  callTool,
  initialize,
  openSession,
  post,
  send,
  toolCall,
  until,
  type Fetch,
} from '../support/mcp.ts'
import { startNode } from '../support/node.ts'
import { barriersOf, openDashboard, overflowOf, startBrowser } from './browser.ts'

const HOSTILE = '<img src=x onerror=alert(1)>'

let browser: Browser
let fleet: Fleet

beforeAll(async () => {
  ;[browser, fleet] = await Promise.all([startBrowser(), startFleet()])
  await fleet.allAre('UP')
})
afterAll(async () => {
  await Promise.all([browser.close(), fleet.stop()])
})

describe('the page', () => {
  const text = readFileSync('dashboard/index.html', 'utf8')

  it('counts latencies as the server does', () => {
    const [, list = ''] = /const LATENCY_MS = (\[.*\])/.exec(text) ?? []
    expect(JSON.parse(list.replaceAll('_', ''))).toEqual(LATENCY_MS)
  })

  it('takes nothing for markup, and needs nothing that a strict policy forbids', () => {
    expect(text).not.toMatch(/innerHTML|outerHTML|insertAdjacent|\.write\(|eval|srcdoc/)
    expect(text).not.toMatch(/<[^>]+ (style|on\w+)=/)
  })
})

describe('the dashboard of a fleet', () => {
  it('follows a session from its beginning to its end', async () => {
    const { page, isLive, row, cell, faults, close } = await openDashboard(browser, fleet.url)
    await isLive()
    await page.evaluate('window.isTheSame = true')

    const session = await openHostile(fleet.fetch)
    const id = session.slice(0, 8)
    await row(id).waitFor()
    expect(await cell(id, 'Client')).toContain(HOSTILE)

    const first = await callTool(fleet.fetch, session, 'increment_counter')
    const calls = () => cell(id, 'Calls').then(Number)
    const before = await until(calls, (number) => number > 0)
    await row(id)
      .getByRole('button', { name: /^Follow/ })
      .focus()
    await callTool(fleet.fetch, session, 'increment_counter')
    await callTool(fleet.fetch, session, 'increment_counter')
    await until(calls, (number) => number === before + 2)
    expect(await page.evaluate('document.activeElement.ariaLabel')).toBe(`Follow session ${id}`)

    const holder = String(first['instance'])
    expect(await cell(id, 'Holder')).toBe(holder)
    fleet.signal(holder, 'SIGKILL')
    const { instance } = await callTool(fleet.fetch, session, 'increment_counter')
    expect(instance).not.toBe(holder)
    await until(
      () => cell(id, 'Holder'),
      (name) => name === instance,
    )
    const failover = page.locator('#failovers li', { hasText: id }).first()
    await expect.poll(() => failover.textContent()).toContain(`${holder} → ${String(instance)}`)

    await page.keyboard.press('Enter')
    await page.getByText('Listening').waitFor()
    // To subscribe takes the server a moment more.
    const changes = page.locator('#happenings').getByText(/State changed: version \d/)
    await until(
      () => callTool(fleet.fetch, session, 'increment_counter').then(() => changes.count()),
      (count) => count > 0,
    )

    await row(id).getByRole('button', { name: /^End/ }).click()
    await page.getByRole('button', { name: 'End session', exact: true }).click()
    await page.locator('#happenings').getByText('Ended').waitFor()
    const { status } = await send(fleet.fetch, session, toolCall('get_counter'))
    expect(status).toBe(404)
    await page.mouse.move(0, 0)
    await row(id).waitFor({ state: 'detached' })
    expect(await page.evaluate('window.isTheSame')).toBe(true)
    expect(await page.locator('img').count()).toBe(0)
    expect(faults).toEqual([])
    await close()
  })

  it('drains an instance and takes it back', async () => {
    const { page, row, cell, faults, close } = await openDashboard(browser, fleet.url)
    const name = 'mcp-server-3'
    const stateIs = (state: string) =>
      until(
        () => cell(name, 'State'),
        (text) => text === state,
      )
    const click = async (verb: string): Promise<void> => {
      await row(name).getByRole('button', { name: verb }).click()
      await page.getByRole('dialog').getByRole('button', { name: verb }).click()
    }
    await row(name).waitFor()
    await stateIs('ready')
    await click('Drain')
    await stateIs('draining')
    await click('Take back')
    await stateIs('ready')
    expect(faults).toEqual([])
    await close()
  })

  it('finds a session among others', async () => {
    const ids = [await openHostile(fleet.fetch), await openSession(fleet.fetch)]
    const [hostile = '', other = ''] = ids.map((session) => session.slice(0, 8))
    const { page, row, close } = await openDashboard(browser, fleet.url)
    await row(hostile).waitFor()
    await row(other).waitFor()
    await page.getByLabel('Filter').fill('IMG SRC')
    await row(other).waitFor({ state: 'hidden' })
    expect(await row(hostile).isVisible()).toBe(true)
    await page.getByLabel('Filter').fill('')
    await row(other).waitFor()
    const order = () => page.locator('#sessions tbody th').allTextContents()
    const isBefore = async (a: string, b: string): Promise<boolean> => {
      const all = await order()
      return all.indexOf(a) < all.indexOf(b)
    }
    // The newest is first, then last.
    expect(await isBefore(other, hostile)).toBe(true)
    await page.getByRole('button', { name: 'Age' }).click()
    expect(await page.getByRole('columnheader', { name: 'Age' }).getAttribute('aria-sort')).toBe(
      'descending',
    )
    expect(await isBefore(other, hostile)).toBe(false)
    await close()
  })

  it.each([
    { width: 1440, colorScheme: 'light' },
    { width: 1440, colorScheme: 'dark' },
    { width: 390, colorScheme: 'light' },
    { width: 390, colorScheme: 'dark' },
  ] as const)('is for everybody, $colorScheme and $width wide', async (look) => {
    const id = (await openHostile(fleet.fetch)).slice(0, 8)
    const { page, row, faults, close } = await openDashboard(browser, fleet.url, look)
    await row(id).waitFor()
    expect(await barriersOf(page)).toEqual([])
    expect(await overflowOf(page)).toBe(0)

    const button = row(id).getByRole('button', { name: /^End/ })
    await button.focus()
    await page.keyboard.press('Enter')
    await page.getByRole('dialog').waitFor()
    expect(await barriersOf(page)).toEqual([])
    await page.keyboard.press('Escape')
    expect(await page.evaluate('document.activeElement.ariaLabel')).toBe(`End session ${id}`)

    await row(id)
      .getByRole('button', { name: /^Follow/ })
      .press('Enter')
    await page.getByText('Listening').waitFor()
    expect(await barriersOf(page)).toEqual([])
    await page.keyboard.press('Escape')
    expect(await page.evaluate('document.activeElement.ariaLabel')).toBe(`Follow session ${id}`)
    expect(await row(id).isVisible()).toBe(true)
    expect(faults).toEqual([])
    await close()
  })

  it('says so when it is cut off, and goes on', async () => {
    const { page, isLive, close } = await openDashboard(browser, fleet.url)
    await isLive()
    fleet.signal('haproxy', 'SIGKILL')
    await page.locator('main[data-stale]').waitFor()
    expect(await page.locator('#trouble').isVisible()).toBe(true)
    await page.locator('#said', { hasText: 'Connection is back' }).waitFor()
    await page.locator('main:not([data-stale])').waitFor()
    await close()
  })
})

describe('the dashboard of a server that asks who calls', () => {
  const hashOf = (token: string) => createHash('sha256').update(token).digest('hex')

  it('asks for a token, until it has one that will do', async () => {
    const tokens = [`client:${hashOf('client')}`, `operator:${hashOf('operator')}:holdfast:admin`]
    const node = await startNode({ AUTH_TOKENS: tokens.join(',') })
    const { page, isLive, close } = await openDashboard(browser, node.url)
    const dialog = page.getByRole('dialog')
    const answer = async (token: string): Promise<void> => {
      await dialog.getByLabel('Token').fill(token)
      await page.keyboard.press('Enter')
    }
    await dialog.waitFor()
    expect(await barriersOf(page)).toEqual([])
    await page.keyboard.press('Escape')
    await page.locator('#why', { hasText: 'Not allowed' }).waitFor()
    await page.getByRole('button', { name: 'Try now' }).click()
    await dialog.getByRole('button', { name: 'Cancel' }).click()
    await dialog.waitFor({ state: 'hidden' })
    await page.getByRole('button', { name: 'Try now' }).click()
    await answer('client')
    await page.locator('#token-text', { hasText: 'scope' }).waitFor()
    await answer('operator')
    await isLive()
    await page.reload()
    await isLive()
    await close()
    await node.kill('SIGTERM')
  })
})

async function openHostile(fetch: Fetch): Promise<string> {
  const clientInfo = { name: HOSTILE, version: '1' }
  const message = { ...initialize, params: { ...initialize.params, clientInfo } }
  const response = await fetch(post(JSON.stringify(message)))
  await response.text()
  const session = response.headers.get('mcp-session-id')
  if (session === null) throw new Error(`No session: HTTP ${response.status}`)
  return session
}

import type { Browser } from 'playwright-core'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { fetchFrom } from '../support/fleet.ts'
import { callTool, openSession, send, toolCall, until } from '../support/mcp.ts'
import { startWrangler, type Wrangler } from '../support/wrangler.ts'
import { barriersOf, openDashboard, startBrowser } from './browser.ts'

let browser: Browser
let edge: Wrangler

beforeAll(async () => {
  ;[browser, edge] = await Promise.all([startBrowser(), startWrangler()])
})
afterAll(async () => {
  await Promise.all([browser.close(), edge.kill()])
})

it('shows the sessions of the edge, and ends one', async () => {
  const { page, isLive, row, cell, faults, close } = await openDashboard(browser, edge.url)
  await isLive()
  const fetch = fetchFrom(`${edge.url}/mcp`)
  const session = await openSession(fetch)
  await callTool(fetch, session, 'increment_counter')
  const id = session.slice(0, 8)
  await row(id).waitFor()
  await until(
    () => cell(id, 'Calls').then(Number),
    (calls) => calls > 0,
  )
  // Instances are the platform's: there is nothing to drain.
  expect(await page.getByRole('heading', { name: 'Instances' }).isVisible()).toBe(false)
  expect(await barriersOf(page)).toEqual([])

  await row(id).getByRole('button', { name: /^End/ }).click()
  await page.getByRole('button', { name: 'End session', exact: true }).click()
  await page.mouse.move(0, 0)
  await row(id).waitFor({ state: 'detached' })
  const { status } = await send(fetch, session, toolCall('get_counter'))
  expect(status).toBe(404)
  expect(faults).toEqual([])
  await close()
})

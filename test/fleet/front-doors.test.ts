/** nginx in HAProxy's place, before the instances of a fleet: whichever one it picks, all is the same. */
import { afterAll, beforeAll } from 'vitest'
import { loadBalancing } from '../contract/load-balancing.ts'
import { startFleet, type Fleet } from '../support/fleet.ts'
import { DOORS, startNginx } from '../support/nginx.ts'

let fleet: Fleet

beforeAll(async () => {
  fleet = await startFleet()
})
afterAll(() => fleet.stop())

for (const door of DOORS) {
  const start = () =>
    startNginx(
      door,
      fleet.map().instances.map(({ url }) => url),
    )
  // Bare HTTP keeps no cookies.
  const affinity = door === 'by-session' ? 'by session' : 'none'
  loadBalancing(`nginx, ${door}`, start, affinity)
}

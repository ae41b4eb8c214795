import { loadBalancing } from '../contract/load-balancing.ts'
import { startFleet } from '../support/fleet.ts'

loadBalancing('HAProxy', () => startFleet(), 'by session')

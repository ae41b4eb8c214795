import { sessionsContract } from '../contract/sessions.ts'
import { edgeFetch } from './support.ts'

sessionsContract('Worker and Durable Object', edgeFetch)

import { sessionsContract } from '../../contract/sessions.ts'
import { createLocalApp } from '../../support/local-app.ts'

sessionsContract('memory store in Node', createLocalApp().fetch)

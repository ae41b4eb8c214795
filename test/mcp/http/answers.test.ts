import { httpAnswersContract } from '../../contract/http-answers.ts'
import { createLocalApp } from '../../support/local-app.ts'

httpAnswersContract('memory store in Node', createLocalApp().fetch)

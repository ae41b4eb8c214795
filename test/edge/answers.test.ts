import { httpAnswersContract } from '../contract/http-answers.ts'
import { edgeFetch } from './support.ts'

httpAnswersContract('Worker and Durable Object', edgeFetch)

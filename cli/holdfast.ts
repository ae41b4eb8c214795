#!/usr/bin/env node
/** What the people who run a server do from a terminal: `npm run holdfast -- --help`. */
import { run } from './run.ts'

const { stdout } = process
// What is piped into `head` has been read enough of.
stdout.on('error', () => process.exit(0))
process.exitCode = await run(process.argv.slice(2), {
  env: process.env,
  folder: process.cwd(),
  print: (text) => void stdout.write(`${text}\n`),
  complain: (text) => console.error(text),
  // Which NO_COLOR can forbid.
  hasColours: stdout.isTTY && stdout.hasColors(),
})

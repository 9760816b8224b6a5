/** A worker for `Worker.test.ts`: does the steps of its argument, a JSON array, one after the other. */
import { writeSync } from "node:fs"
import { io } from "../io.ts"
import { MessageReader, send } from "./child.ts"

export type Step =
  | { readonly out: string }
  | { readonly err: string }
  | { readonly message: object; readonly byteCount?: number }
  | { readonly sleepMs: number }
  /** Answers this many messages with what they are. */
  | { readonly echo: number }
  /** Waits for one message, sleeps, and says which others have come. */
  | { readonly pollAfterMs: number }
  /** A process of its own keeps the pipes open. */
  | { readonly leaveBehindMs: number }
  | { readonly exit: number }
  | { readonly signal: NodeJS.Signals }

const echo = (count: number): void => {
  const messages = new MessageReader<object>()
  for (let at = 0; at < count; at++) send({ echo: messages.next() ?? null })
}

const poll = (afterMs: number): void => {
  const messages = new MessageReader<object>()
  const isReadable = (): boolean => io().io_wait_readable(0, 0) > 0
  const first = messages.next()
  Bun.sleepSync(afterMs)
  const others: Array<object> = []
  for (let other = messages.poll(isReadable); other !== undefined; ) {
    others.push(other)
    other = messages.poll(isReadable)
  }
  send({ first, others })
}

const perform = (step: Step): void => {
  if ("out" in step) writeSync(1, step.out)
  else if ("err" in step) writeSync(2, step.err)
  else if ("message" in step) {
    const { byteCount = 0 } = step
    if (byteCount > 0) io().io_tune_socket(1, 0)
    send(
      step.message,
      Uint8Array.from({ length: byteCount }, (_, index) => index),
    )
  } else if ("sleepMs" in step) Bun.sleepSync(step.sleepMs)
  else if ("echo" in step) echo(step.echo)
  else if ("pollAfterMs" in step) poll(step.pollAfterMs)
  else if ("leaveBehindMs" in step) {
    const program = `Bun.sleepSync(${step.leaveBehindMs})`
    Bun.spawn([process.execPath, "-e", program], { stdio: ["ignore", 1, 2] }).unref()
  } else if ("exit" in step) process.exit(step.exit)
  else process.kill(process.pid, step.signal)
}

for (const step of JSON.parse(process.argv[2] ?? "[]") as ReadonlyArray<Step>) perform(step)

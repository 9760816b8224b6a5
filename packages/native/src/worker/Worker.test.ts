import { describe, expect, test } from "bun:test"
import { closeSync, openSync, readFileSync, rmSync, writeSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import type { Step } from "./Worker.testChild.ts"
import { Worker, type WorkerExit, type WorkerOptions } from "./Worker.ts"

interface Heard {
  readonly messages: Array<{ message: object; bytes: Uint8Array }>
  readonly lines: string[]
  readonly exits: WorkerExit[]
  /** What came, in its order. */
  readonly order: string[]
}

const start = (steps: ReadonlyArray<Step>, options: Partial<WorkerOptions> = {}) => {
  const heard: Heard = { messages: [], lines: [], exits: [], order: [] }
  const worker = new Worker<object>(
    {
      module: "./Worker.testChild.ts",
      from: import.meta.dir,
      args: [JSON.stringify(steps)],
      lastWordsCount: 4,
      ...options,
    },
    {
      onMessage: (message, bytes) => {
        heard.messages.push({ message, bytes })
        heard.order.push("message")
      },
      onLine: (line) => heard.lines.push(line),
      onExit: (exit) => {
        heard.exits.push(exit)
        heard.order.push("exit")
      },
    },
  )
  return { worker, heard }
}

const run = async (
  steps: ReadonlyArray<Step>,
  options: Partial<WorkerOptions> = {},
): Promise<Heard> => {
  const { worker, heard } = start(steps, options)
  await worker.ended
  expect(heard.exits).toHaveLength(1)
  return heard
}

describe("a worker", () => {
  test("says messages, one of them with bytes, and then its end", async () => {
    const { messages, exits, order } = await run([
      { message: { event: "ready" } },
      { message: { event: "values", bytes: 5 }, byteCount: 5 },
      { message: { event: "last" } },
      { exit: 0 },
    ])
    expect(messages).toEqual([
      { message: { event: "ready" }, bytes: new Uint8Array(0) },
      { message: { event: "values", bytes: 5 }, bytes: Uint8Array.of(0, 1, 2, 3, 4) },
      { message: { event: "last" }, bytes: new Uint8Array(0) },
    ])
    expect(exits).toEqual([{ exitCode: 0, signal: null, lastWords: [] }])
    expect(order.at(-1)).toBe("exit")
  })

  test("is heard whole when it writes a message in parts", async () => {
    const { messages } = await run([
      { out: '{"te' },
      { sleepMs: 30 },
      { out: 'xt":"a' },
      { sleepMs: 30 },
      { out: 'b"}\n{"text":"c"}' },
    ])
    expect(messages.map(({ message }) => message)).toEqual([{ text: "ab" }, { text: "c" }])
  })

  test("sends more bytes than a pipe holds", async () => {
    const byteCount = 300_000
    const { messages } = await run([
      { message: { bytes: byteCount }, byteCount },
      { message: { after: true } },
    ])
    expect(messages[0]?.bytes).toEqual(Uint8Array.from({ length: byteCount }, (_, at) => at))
    expect(messages[1]?.message).toEqual({ after: true })
  })

  test("that ends by a code, or by a signal, tells which", async () => {
    expect((await run([{ exit: 7 }])).exits[0]).toMatchObject({ exitCode: 7, signal: null })
    expect((await run([{ signal: "SIGABRT" }])).exits[0]).toMatchObject({
      exitCode: null,
      signal: "SIGABRT",
    })
  })

  test("that is killed in the middle of what it sends tells the rest, and its end", async () => {
    const { worker, heard } = start([{ message: { bytes: 100 } }, { sleepMs: 60_000 }])
    await Bun.sleep(100)
    worker.kill("SIGKILL")
    await worker.ended
    expect(heard.exits).toEqual([{ exitCode: null, signal: "SIGKILL", lastWords: [] }])
    expect(heard.messages).toEqual([])
  })

  test("leaves last words: of stderr, and of stdout what is no message, the last ones", async () => {
    const { exits, lines, messages } = await run([
      { err: "one\ntwo\n\n" },
      { sleepMs: 50 },
      { out: "a driver says three\n{no JSON\n" },
      { sleepMs: 50 },
      { err: "  \nfour\nfi" },
      { exit: 1 },
    ])
    expect(exits[0]?.lastWords).toEqual(["a driver says three", "{no JSON", "four", "fi"])
    expect(lines).toEqual(["one", "two", "", "  ", "four", "fi"])
    expect(messages).toEqual([])
  })

  test("takes no JSON of stderr for a message", async () => {
    const { lines, messages } = await run([{ err: '{"a"' }, { sleepMs: 20 }, { err: ":1}\n" }])
    expect(lines).toEqual(['{"a":1}'])
    expect(messages).toEqual([])
  })

  test("that dies before its first line is reported with what the runtime said", async () => {
    const { exits } = await run([], {
      args: ["no JSON"],
    })
    expect(exits[0]?.exitCode).toBe(1)
    expect(exits[0]?.lastWords.join("\n")).toContain("JSON")
  })

  test("whose module does not exist is refused where it is started", () => {
    expect(() => start([], { module: "./nothing.ts" })).toThrow("nothing.ts")
  })

  test("takes what has come without waiting for more", async () => {
    const { worker, heard } = start([{ pollAfterMs: 300 }], { stdin: "pipe" })
    worker.write({ a: 1 })
    await Bun.sleep(50)
    worker.write({ b: 2 })
    worker.write({ c: 3 })
    await worker.ended
    expect(heard.messages.map(({ message }) => message)).toEqual([
      { first: { a: 1 }, others: [{ b: 2 }, { c: 3 }] },
    ])
  })

  test("hears messages, of any length, in their order", async () => {
    const { worker, heard } = start([{ echo: 4 }], { stdin: "pipe" })
    const long = "ü".repeat(100_000)
    worker.write({ a: 1 })
    worker.write({ long })
    worker.write({ b: 2 })
    await Bun.sleep(20)
    worker.write({ c: 3 })
    await worker.ended
    expect(heard.messages.map(({ message }) => message)).toEqual([
      { echo: { a: 1 } },
      { echo: { long } },
      { echo: { b: 2 } },
      { echo: { c: 3 } },
    ])
  })

  test("that is gone may be written to: its end tells all", async () => {
    const { worker, heard } = start([{ exit: 3 }], { stdin: "pipe" })
    await worker.ended
    worker.write({ a: 1 })
    // Before its end was noticed.
    const second = start([{ sleepMs: 60_000 }], { stdin: "pipe" })
    second.worker.kill("SIGKILL")
    Bun.sleepSync(100)
    second.worker.write({ a: 1 })
    await second.worker.ended
    expect([heard.exits[0]?.exitCode, second.heard.exits[0]?.signal]).toEqual([3, "SIGKILL"])
  })

  test("gets descriptors, and the environment as it is now", async () => {
    const path = join(tmpdir(), `worker-${process.pid}`)
    const fd = openSync(path, "w+")
    const program = join(tmpdir(), `worker-${process.pid}.ts`)
    await Bun.write(program, `require("node:fs").writeSync(3, String(process.env.WORKER_OTHER))`)
    process.env.WORKER_OTHER = "own"
    try {
      await run([], { module: program, descriptors: [fd] })
      expect(readFileSync(path, "utf8")).toBe("own")
      // The parent's copy is still open.
      writeSync(fd, "")
    } finally {
      delete process.env.WORKER_OTHER
      closeSync(fd)
      for (const file of [path, program]) rmSync(file)
    }
  })

  test("whose own child holds its pipes has ended all the same", async () => {
    const started = performance.now()
    const { exits } = await run([{ leaveBehindMs: 5000 }, { exit: 2 }])
    expect(exits[0]?.exitCode).toBe(2)
    expect(performance.now() - started).toBeLessThan(4000)
  })
})

/** The front process believes a session process no more than one that its client has taken over. */

import { dlopen } from "bun:ffi"
import { describe, expect, test } from "bun:test"
import { closeSync, writeSync } from "node:fs"
import { Command } from "@ggml-rpc/protocol"
import { sendDoubling } from "./graphs.ts"
import { isAlive, largest, waitFor } from "./processes.ts"
import { TestClient } from "./TestClient.ts"
import { type TestServer, withServer } from "./withServer.ts"

const { syscall } = dlopen("libc.so.6", {
  syscall: { args: ["i64", "i64", "i64", "i64"], returns: "i64" },
}).symbols

/** Numbers of pidfd_open and pidfd_getfd, on all architectures. */
const PIDFD_OPEN = 434
const PIDFD_GETFD = 438

/** Says something to the front process in the name of a session process. */
const sayAs = (pid: number, words: string): void => {
  const process = Number(syscall(PIDFD_OPEN, pid, 0, 0))
  const stdout = Number(syscall(PIDFD_GETFD, process, 1, 0))
  writeSync(stdout, `${words}\n`)
  for (const fd of [stdout, process]) closeSync(fd)
}

const noBytes = { receivedBytes: 0, sentBytes: 0 }

const closed = {
  ...{ event: "closed", reason: "left", message: "", hasAsked: true, again: true },
  summary: { version: "8.0.0", isOurs: false, ...noBytes, peakBytes: 0 },
  stats: { commands: [], ...noBytes, cacheHits: 0, cacheMisses: 0 },
}

/** A client whose session has run a graph, and that session's process. */
const computingClient = async (server: TestServer) => {
  const client = await TestClient.connect(server.port)
  const { buffer } = await sendDoubling(client, 64 * 1024 * 1024)
  // So that this session is the largest.
  client.send(Command.BUFFER_CLEAR, { remotePtr: buffer.remotePtr, value: 0 })
  await client.ask(Command.DEVICE_COUNT, {})
  return { client, pid: largest(server.processIds()) }
}

describe("a session process is ended, and the server goes on, when it", () => {
  test.each([
    ["wants another client after a graph", JSON.stringify(closed), "it wants another client"],
    [
      "ends its client's session twice",
      `${JSON.stringify({ ...closed, again: false })}\n`.repeat(2),
      "did not have",
    ],
    ["is ready once more", '{"event":"ready","devices":[]}', "ready once more"],
    ["leaves out what an event has", '{"event":"closed"}', "ended for what no session says"],
    [
      "has a number for a text",
      '{"event":"uncached","reason":5}',
      "ended for what no session says",
    ],
    ["has nothing for a list", '{"event":"stats"}', "ended for what no session says"],
    [
      "wants a link with a key that is none",
      '{"event":"expect","id":1,"key":"00"}',
      "a link without a key",
    ],
    [
      "wants a link to nowhere",
      `{"event":"dial","id":1,"key":"${"0".repeat(32)}","host":5,"port":50052}`,
      "a link to nowhere",
    ],
    [
      "has a text for a number",
      JSON.stringify({ ...closed, again: false, summary: { ...closed.summary, peakBytes: "9" } }),
      "are no numbers",
    ],
  ])("%s", (_, words, reason) =>
    withServer({}, async (server) => {
      const { client, pid } = await computingClient(server)
      sayAs(pid, words)
      await waitFor("the process ends", () => !isAlive(pid))
      await client.closed
      await server.logged(reason)
      const next = await TestClient.connect(server.port)
      expect((await next.ask(Command.DEVICE_COUNT, {})).deviceCount).toBe(1)
      next.close()
    }),
  )
})

test("what no session says, and nothing comes of, does no harm", () =>
  withServer({}, async (server) => {
    const { client, pid } = await computingClient(server)
    for (const words of [
      '{"event":"no such"}',
      "{}",
      '{"event":null}',
      "[]",
      "no JSON",
      '{"event":',
    ])
      sayAs(pid, words)
    expect((await client.ask(Command.DEVICE_COUNT, {})).deviceCount).toBe(1)
    expect(isAlive(pid)).toBe(true)
    client.close()
  }))

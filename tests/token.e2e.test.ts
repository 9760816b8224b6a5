/** A server with a token: who has it is served as ever, and who has not is told. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test"
import { chmodSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { probe } from "@ggml-rpc/client"
import {
  Command,
  encodeGateRequest,
  encodeRequest,
  noConnCaps,
  parseEndpoint,
} from "@ggml-rpc/protocol"
import { Effect, Stream } from "effect"
import { writeDemoModel } from "ggml-rpc/demo-model"
import { runCli, temporaryFolder } from "./cli/program.ts"
import { runUpstreamClient } from "./peers/upstreamClient.ts"
import { failureOf, type OurServer, openCluster, recite, run, startOurServer } from "./servers.ts"

setDefaultTimeout(60_000)

const folder = temporaryFolder()
const model = join(folder.path, "demo.gguf")
const tokenFile = join(folder.path, "token")
const otherFile = join(folder.path, "other-token")
const token = "5e0f2a7c9b1d4e6f8a0b"
let server: OurServer

beforeAll(async () => {
  writeDemoModel(model)
  writeFileSync(tokenFile, `${token}\n`, { mode: 0o600 })
  writeFileSync(otherFile, "another-token-of-20-x", { mode: 0o600 })
  server = await startOurServer({ flags: ["--token-file", tokenFile], protocol: "peers" })
})

afterAll(async () => {
  await server?.stop()
  folder[Symbol.dispose]()
})

const request = { prompt: [1, 2, 3], maxTokens: 12 }

const tokensWith = (given: string | undefined) =>
  run(
    Effect.gen(function* () {
      const cluster = yield* openCluster([server.endpoint], { token: given })
      const loaded = yield* cluster.load(yield* cluster.plan(model, { threads: 1 }))
      const pieces = yield* Stream.runCollect(
        loaded.generate(request.prompt, { maxTokens: request.maxTokens, temp: 0 }),
      )
      return [...pieces].map(({ id }) => id).filter((id) => id >= 0)
    }),
  )

const logOf = async (text: string): Promise<void> => {
  for (let tries = 0; tries < 200 && !server.stderr().includes(text); tries++) await Bun.sleep(25)
  expect(server.stderr()).toContain(text)
}

test("a client with the token computes what it would without one", async () => {
  expect(await tokensWith(token)).toEqual([...(await recite([], model, request)).tokens])
})

test("a client without it, or with another one, is told what to do", async () => {
  for (const [given, reason] of [
    [undefined, "token-missing"],
    ["another-token-of-20-x", "server-unproven"],
  ] as const) {
    const error = await failureOf(openCluster([server.endpoint], { token: given }))
    expect(error).toMatchObject({ _tag: "AccessError", endpoint: server.endpoint, reason })
    const probed = Effect.flip(probe(parseEndpoint(server.endpoint), { token: given }))
    expect(await Effect.runPromise(probed)).toMatchObject({ _tag: "AccessError", reason })
  }
  expect((await Effect.runPromise(probe(parseEndpoint(server.endpoint), { token }))).kind).toBe(
    "ggml-rpc",
  )
})

test("a client of llama.cpp is refused with a line that says why, and others go on", async () => {
  const theirs = runUpstreamClient({ model, prompt: request.prompt, endpoints: [server.endpoint] })
  await expect(theirs).rejects.toThrow()
  await logOf("showed no token, which this server asks for")
  expect(await tokensWith(token)).toHaveLength(request.maxTokens)
})

/** Bytes to the server, one after an answer to the other; what it said, until it closed or for a moment. */
const talk = async (...requests: readonly Uint8Array[]): Promise<Uint8Array[]> => {
  const answers: Uint8Array[] = []
  let wake = (): void => {}
  let isOpen = true
  const close = (): void => {
    isOpen = false
    wake()
  }
  const socket = await Bun.connect({
    hostname: "127.0.0.1",
    port: server.port,
    socket: {
      data: (_, bytes) => {
        answers.push(bytes.slice())
        wake()
      },
      close,
      end: close,
      error: close,
    },
  })
  for (const bytes of requests) {
    if (!isOpen) break
    const next = new Promise<void>((resolve) => {
      wake = resolve
    })
    socket.write(bytes)
    await Promise.race([next, Bun.sleep(3000)])
  }
  socket.terminate()
  return answers
}

const hello = encodeRequest(Command.HELLO, { connCaps: noConnCaps() })
const challenge = encodeGateRequest("CHALLENGE", { nonce: new Uint8Array(32).fill(1) })

test("the server's own proof, sent back, is not the client's", async () => {
  const [, answer] = await talk(hello, challenge)
  const proof = answer!.slice(8 + 32)
  const [, again] = await talk(hello, challenge)
  expect(again!.slice(8, 40)).not.toEqual(answer!.slice(8, 40))
  const reflected = await talk(hello, challenge, encodeGateRequest("PROVE", { proof }))
  expect([...reflected[2]!]).toEqual([1, 0, 0, 0, 0, 0, 0, 0, 0])
  await logOf("showed another token than this server's")
})

test("nothing is answered to who asks for a session at once, or sends requests ahead", async () => {
  const ask = encodeRequest(Command.DEVICE_COUNT, {})
  expect(await talk(hello, ask)).toHaveLength(1)
  expect(await talk(Buffer.concat([hello, ask]))).toEqual([])
  expect(await talk(Buffer.concat([hello, challenge]))).toEqual([])
})

test("the command takes it from a file, and says what is wrong with one", async () => {
  const devices = (path: string) =>
    runCli(["devices", "--rpc", server.endpoint, "--token-file", path])
  const good = await devices(tokenFile)
  expect([good.exitCode, good.stderr]).toEqual([0, ""])
  const other = await devices(otherFile)
  expect([other.exitCode, other.stderr]).toEqual([1, expect.stringContaining("another one than")])
  const missing = await devices(join(folder.path, "none"))
  expect([missing.exitCode, missing.stderr]).toEqual([1, expect.stringContaining("ENOENT")])
  const short = join(folder.path, "short")
  writeFileSync(short, "abc")
  expect((await devices(short)).stderr).toContain("it has 3 characters")
  chmodSync(tokenFile, 0o644)
  expect((await devices(tokenFile)).stderr).toContain("others of this machine can read the token")
  chmodSync(tokenFile, 0o600)
})

test("it is in no log and on no command line", () => {
  expect(server.stdout() + server.stderr()).not.toContain(token)
  for (const pid of [server.pid, ...server.sessionPids()]) {
    const line = Bun.spawnSync(["cat", `/proc/${pid}/cmdline`, `/proc/${pid}/environ`])
    expect(line.stdout.toString()).not.toContain(token)
  }
})

/** Servers that encrypt, and clients that know whom they mean. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test"
import { readFileSync, statSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { probe } from "@ggml-rpc/client"
import { parseEndpoint } from "@ggml-rpc/protocol"
import { Effect, Stream } from "effect"
import { writeDemoModel } from "ggml-rpc/demo-model"
import { runCli, temporaryFolder } from "./cli/program.ts"
import { ensureModel } from "./models/models.ts"
import { runUpstreamClient } from "./peers/upstreamClient.ts"
import { failureOf, type OurServer, openCluster, recite, run, startOurServer } from "./servers.ts"

setDefaultTimeout(60_000)

const folder = temporaryFolder()
const demo = join(folder.path, "demo.gguf")
const state = join(folder.path, "state")
const tokenFile = join(folder.path, "token")
const token = "5e0f2a7c9b1d4e6f8a0b"
const request = { prompt: [1, 2, 3], maxTokens: 12 }
let server: OurServer
let plainServer: OurServer
let fingerprint: string

const startSecure = (...flags: readonly string[]): Promise<OurServer> =>
  startOurServer({ flags: ["--tls", "self", ...flags], env: { XDG_STATE_HOME: state } })

beforeAll(async () => {
  writeDemoModel(demo)
  writeFileSync(tokenFile, token, { mode: 0o600 })
  server = await startSecure("--token-file", tokenFile)
  plainServer = await startOurServer()
  fingerprint = /^certificate fingerprint: (.+)$/m.exec(server.stdout())![1]!
})

afterAll(async () => {
  await server?.stop()
  await plainServer.stop()
  folder[Symbol.dispose]()
})

const secure = () => ({ token, tls: { fingerprints: [fingerprint] } })

const tokensOver = (endpoints: readonly string[], path: string) =>
  run(
    Effect.gen(function* () {
      const cluster = yield* openCluster(endpoints, secure())
      const loaded = yield* cluster.load(yield* cluster.plan(path, { threads: 1 }))
      const pieces = yield* Stream.runCollect(
        loaded.generate(request.prompt, { maxTokens: request.maxTokens, temp: 0 }),
      )
      return [...pieces].map(({ id }) => id).filter((id) => id >= 0)
    }),
  )

const logOf = async (from: OurServer, text: string): Promise<void> => {
  for (let tries = 0; tries < 200 && !from.stderr().includes(text); tries++) await Bun.sleep(25)
  expect(from.stderr()).toContain(text)
}

test("a model computes over an encrypted and a plain server what it does here", async () => {
  const endpoints = [server.endpoint, `tcp://${plainServer.endpoint}`]
  expect(await tokensOver(endpoints, demo)).toEqual([...(await recite([], demo, request)).tokens])
})

test("weights of many megabytes arrive", async () => {
  const path = await ensureModel("q8_0")
  expect(await tokensOver([server.endpoint], path)).toEqual([
    ...(await recite([], path, request)).tokens,
  ])
})

test("the certificate is made once, and its key is for nobody else", async () => {
  await using again = await startSecure()
  expect(again.stdout()).toContain(fingerprint)
  const path = join(state, "ggml-rpc", "tls.pem")
  expect(statSync(path).mode & 0o777).toBe(0o600)
  expect(server.stdout() + server.stderr()).not.toContain("PRIVATE KEY")
})

test("another certificate is not believed, and the one that was seen is told", async () => {
  const other = "00".repeat(32)
  const tls = { fingerprints: [other] }
  const error = await failureOf(openCluster([server.endpoint], { token, tls }))
  expect(error).toMatchObject({ _tag: "AccessError", reason: "untrusted" })
  expect(error.message).toContain(fingerprint)
  const unsigned = await failureOf(openCluster([`tls://${server.endpoint}`], { token }))
  expect(unsigned).toMatchObject({ _tag: "AccessError", reason: "untrusted" })
})

test("an authority's certificate is believed for its name", async () => {
  const { generate } = await import("selfsigned")
  const made = await generate([{ name: "commonName", value: "localhost" }], {
    keyType: "ec",
    extensions: [{ name: "subjectAltName", altNames: [{ type: 2, value: "localhost" }] }],
  })
  const [cert, key] = [join(folder.path, "cert.pem"), join(folder.path, "key.pem")]
  writeFileSync(cert, made.cert)
  writeFileSync(key, made.private)
  await using named = await startOurServer({ flags: ["--tls-cert", cert, "--tls-key", key] })
  const devices = (host: string) =>
    runCli(["devices", "--rpc", `${host}:${named.port}`, "--tls-ca", cert])
  const good = await devices("localhost")
  expect([good.exitCode, good.stderr]).toEqual([0, ""])
  const wrong = await devices("127.0.0.1")
  expect([wrong.exitCode, wrong.stderr]).toEqual([1, expect.stringContaining("is not trusted")])
  expect(readFileSync(cert, "utf8")).toContain("CERTIFICATE")
})

test("a client that does not encrypt is refused with a line that says so", async () => {
  expect(await failureOf(openCluster([server.endpoint], { token }))).toMatchObject({
    _tag: "HandshakeError",
  })
  await logOf(server, "speaks no TLS")
  const theirs = runUpstreamClient({
    model: demo,
    prompt: request.prompt,
    endpoints: [server.endpoint],
  })
  await expect(theirs).rejects.toThrow()
  const probed = await Effect.runPromise(probe(parseEndpoint(server.endpoint), secure()))
  expect(probed.kind).toBe("ggml-rpc")
})

test("a server that does not encrypt is told apart from one that is not trusted", async () => {
  const error = await failureOf(openCluster([plainServer.endpoint], secure()))
  expect(error).toMatchObject({ _tag: "AccessError", reason: "no-tls" })
})

test("who connects and says nothing of TLS is dropped in time, and others go on", async () => {
  let isClosed = false
  const close = (): void => {
    isClosed = true
  }
  const silent = await Bun.connect({
    hostname: "127.0.0.1",
    port: server.port,
    socket: { data() {}, close, end: close, error: close },
  })
  // The first byte of a TLS record, and no more.
  silent.write(new Uint8Array([22]))
  expect(await tokensOver([server.endpoint], demo)).toHaveLength(request.maxTokens)
  for (let tries = 0; tries < 600 && !isClosed; tries++) await Bun.sleep(25)
  expect(isClosed).toBe(true)
  silent.terminate()
})

/** `@ggml-rpc/client/promise` with a server of ours and the demo's model, and the examples of both doors. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test"
import { mkdtempSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import {
  ConnectError,
  EndpointError,
  type GenerateStats,
  GgufError,
  type Model,
  ModelError,
  openCluster,
  PlanError,
  type PromiseCluster,
} from "@ggml-rpc/client/promise"
import { recitalText, writeDemoModel } from "ggml-rpc/demo-model"
import { freePort, runProcess, waitUntil } from "./peers/process.ts"
import { noState, type OurServer, startOurServer } from "./servers.ts"

setDefaultTimeout(60_000)

let folder = ""
let path = ""
let server: OurServer
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "ggml-rpc-promise-"))
  path = join(folder, "demo.gguf")
  writeDemoModel(path)
  server = await startOurServer({ env: noState })
})
afterAll(async () => {
  await server?.stop()
  rmSync(folder, { recursive: true, force: true })
})

const open = (signal?: AbortSignal): Promise<PromiseCluster> =>
  openCluster([server.endpoint], { localDevices: [], signal })

const loadOn = async (cluster: PromiseCluster): Promise<Model> =>
  cluster.load(await cluster.plan(path, { contextSize: 512 }))

const greedy = { temp: 0 } as const

/** What a promise rejects with. */
const rejection = (promise: Promise<unknown>): Promise<unknown> =>
  promise.then(
    () => "nothing",
    (error: unknown) => error,
  )

describe("a cluster", () => {
  test("opens, plans, loads, generates and evaluates", async () => {
    await using cluster = await open()
    expect(cluster.servers.length).toBe(1)
    expect(cluster.devices.map(({ place }) => place)).toEqual([server.endpoint])
    const progress: number[] = []
    const plan = await cluster.plan(path, { contextSize: 512 })
    const model = await cluster.load(plan, {
      onProgress: ({ doneBytes }) => progress.push(doneBytes),
    })
    expect(model.contextSize).toBe(512)
    expect(progress.at(-1)).toBeGreaterThan(1e6)
    let stats: GenerateStats | undefined
    const onStats = (given: GenerateStats): void => {
      stats = given
    }
    expect(await model.complete("Hello", { ...greedy, onStats })).toContain(
      recitalText.slice(0, 100),
    )
    expect(stats?.stopReason).toBe("end-of-text")
    const ids = await model.tokenize("Hello")
    expect(await cluster.tokenize(path, "Hello")).toEqual([...ids])
    expect((await model.evaluate(ids)).rowCount).toBe(ids.length)
  })

  test("is freed by close, once or more often, and takes another model then", async () => {
    await using cluster = await open()
    const first = await loadOn(cluster)
    expect(await rejection(loadOn(cluster))).toBeInstanceOf(ModelError)
    await Promise.all([first.close(), first.close()])
    await using second = await loadOn(cluster)
    expect(await second.complete("Hello", { ...greedy, maxTokens: 3 })).not.toBe("")
    await cluster.close()
    await cluster.close()
  })
})

describe("a generation", () => {
  test("stops where the loop is left, and the next one starts anew", async () => {
    await using cluster = await open()
    const model = await loadOn(cluster)
    const seen: string[] = []
    for await (const token of model.generate("Hello", greedy)) {
      seen.push(token.text)
      if (seen.length === 5) break
    }
    const again: string[] = []
    for await (const { text } of model.generate("Hello", { ...greedy, maxTokens: 5 }))
      again.push(text)
    expect(again.join("")).toStartWith(seen.join("").trimEnd())
  })

  test("ends by its signal, with the signal's reason, and leaves the model in order", async () => {
    await using cluster = await open()
    const model = await loadOn(cluster)
    const controller = new AbortController()
    let count = 0
    const aborted = (async () => {
      for await (const _ of model.generate("Hello", { ...greedy, signal: controller.signal })) {
        count++
        if (count === 3) controller.abort(new Error("enough"))
      }
    })()
    expect(await rejection(aborted)).toMatchObject({ message: "enough" })
    expect(count).toBe(3)
    expect(await model.complete("Hello", { ...greedy, maxTokens: 2 })).not.toBe("")
    const early = rejection(model.complete("Hello", { signal: AbortSignal.abort() }))
    expect(await early).toMatchObject({ name: "AbortError" })
  })
})

describe("what goes wrong is an error of the same classes", () => {
  test("a server that is not there, and a text that is no endpoint", async () => {
    const endpoint = `127.0.0.1:${freePort()}`
    const refused = await rejection(openCluster([endpoint]))
    expect(refused).toBeInstanceOf(ConnectError)
    expect(refused).toMatchObject({ _tag: "ConnectError", endpoint, reason: "refused" })
    expect(await rejection(openCluster(["host:port:more"]))).toBeInstanceOf(EndpointError)
  })

  test("a file that is no model, and a split that nobody can make", async () => {
    await using cluster = await open()
    expect(await rejection(cluster.plan(join(folder, "none.gguf")))).toBeInstanceOf(GgufError)
    const split = cluster.plan(path, { tensorSplit: [1, 2, 3] })
    expect(await rejection(split)).toBeInstanceOf(PlanError)
  })

  test("an opening that is aborted leaves no engine and no session behind", async () => {
    const controller = new AbortController()
    const opening = rejection(open(controller.signal))
    controller.abort()
    expect(await opening).toMatchObject({ name: "AbortError" })
    await using cluster = await open()
    expect(cluster.servers.length).toBe(1)
  })
})

describe("the examples", () => {
  const examples = join(import.meta.dir, "..", "packages", "client", "examples")
  for (const name of ["promise", "effect"]) {
    const file = join(examples, `${name}.ts`)

    test(`${name}.ts runs, and tells of a server that is not there`, async () => {
      const ran = await runProcess([process.execPath, file, path, server.endpoint])
      expect(ran).toMatchObject({ exitCode: 0, stderr: "" })
      expect(ran.stdout).toStartWith("You are watching")
      const endpoint = `127.0.0.1:${freePort()}`
      const failed = await runProcess([process.execPath, file, path, endpoint])
      expect(failed.exitCode).toBe(1)
      expect(failed.stderr).toMatch(new RegExp(`^${endpoint}: refused\\. Cannot connect to `))
    })

    test(`${name}.ts is what the README shows`, () => {
      const readme = readFileSync(join(examples, "..", "README.md"), "utf8")
      expect(readme).toContain(`\`\`\`ts\n${readFileSync(file, "utf8")}\`\`\``)
    })
  }
})

test("no session is left when all clusters are closed", async () => {
  // One waits for the next client.
  expect(await waitUntil(() => server.sessionPids().length <= 1, 5000)).toBe(true)
})

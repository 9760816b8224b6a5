/** What planning leaves in the temporary folder: nothing, whatever happens. */
import { afterEach, beforeEach, expect, spyOn, test } from "bun:test"
import * as fs from "node:fs"
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { type GgufFile, readGguf, writeGguf } from "@ggml-rpc/gguf"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import { modelOutline } from "./modelOutline.ts"

let root: string
let temporary: string
let model: GgufFile
const before = process.env.TMPDIR

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), "ggml-rpc-outlines-"))
  temporary = join(root, "tmp")
  mkdirSync(temporary)
  const words = Array.from({ length: 2000 }, (_, index) => `word ${index}`)
  const path = join(root, "model.gguf")
  writeGguf(path, {
    metadata: [
      ["general.architecture", { type: "string", value: "llama" }],
      ["tokenizer.ggml.tokens", { type: "array", elementType: "string", values: words }],
    ],
    tensors: [{ name: "a", type: "F32", ne: [64, 64], fill: () => undefined }],
  })
  model = readGguf(path, { arrayLimit: 1024 })
  process.env.TMPDIR = temporary
})

afterEach(() => {
  if (before === undefined) delete process.env.TMPDIR
  else process.env.TMPDIR = before
  rmSync(root, { recursive: true })
})

const left = (): readonly string[] => readdirSync(temporary)

/** Plans with an outline: `use` gets its path. */
const planned = <A, E>(use: (path: string | undefined) => Effect.Effect<A, E>) =>
  Effect.scoped(Effect.flatMap(modelOutline(model), use))

/** What a plan sees of its outline. */
const look = (path: string | undefined) =>
  Effect.sync(() => ({
    names: readGguf(path!).tensors.map(({ name }) => name),
    count: left().length,
  }))

test("an outline is gone after the plan", async () => {
  expect(await Effect.runPromise(planned(look))).toEqual({ names: ["a"], count: 1 })
  expect(left()).toEqual([])
})

test("and after one that failed", async () => {
  const exit = await Effect.runPromiseExit(planned(() => Effect.fail("no room")))
  expect(exit).toEqual(Exit.fail("no room"))
  expect(left()).toEqual([])
})

test("and after one that was interrupted", async () => {
  const fiber = Effect.runFork(planned(() => Effect.never))
  while (left().length === 0) await Bun.sleep(1)
  await Effect.runPromise(Fiber.interrupt(fiber))
  expect(left()).toEqual([])
})

test("two plans at once have one each", async () => {
  const both = await Effect.runPromise(
    planned((one) => planned((other) => Effect.all([look(one), look(other)]))),
  )
  expect(both).toEqual([
    { names: ["a"], count: 2 },
    { names: ["a"], count: 2 },
  ])
  expect(left()).toEqual([])
})

test("where nothing can be written, and of a small vocabulary, there is none", async () => {
  const own = (path: string | undefined) => Effect.succeed(path)
  model = { ...model, metadata: new Map() }
  expect(await Effect.runPromise(planned(own))).toBeUndefined()
  expect(left()).toEqual([])
  process.env.TMPDIR = join(root, "nowhere")
  expect(await Effect.runPromise(planned(own))).toBeUndefined()
  expect(existsSync(join(root, "nowhere"))).toBe(false)
})

test("where holes take room there is none, and no large file is written to find that out", async () => {
  const { statSync } = fs
  const full = spyOn(fs, "statSync").mockImplementation(((path: string) => {
    const stats = statSync(path)
    stats.blocks = Math.ceil(stats.size / 512)
    return stats
  }) as typeof statSync)
  const enlarge = spyOn(fs, "truncateSync")
  try {
    const own = (path: string | undefined) => Effect.succeed(path)
    expect(await Effect.runPromise(planned(own))).toBeUndefined()
    expect(enlarge.mock.calls.map(([, sizeBytes]) => sizeBytes)).toEqual([1024 * 1024])
  } finally {
    full.mockRestore()
    enlarge.mockRestore()
  }
  expect(left()).toEqual([])
})

test("what killed ones left is removed, and nothing else", async () => {
  const make = (name: string, ageHours: number): void => {
    const folder = join(temporary, name)
    mkdirSync(folder)
    writeFileSync(join(folder, "outline.gguf"), "")
    const seconds = Date.now() / 1000 - ageHours * 3600
    utimesSync(folder, seconds, seconds)
  }
  make("ggml-rpc-plan-killed", 25)
  make("ggml-rpc-plan-at-work", 23)
  make("ggml-rpc-other", 25)
  make("target", 25)
  symlinkSync(join(temporary, "target"), join(temporary, "ggml-rpc-plan-link"))
  expect(await Effect.runPromise(planned(look))).toEqual({ names: ["a"], count: 5 })
  expect(left().toSorted()).toEqual([
    "ggml-rpc-other",
    "ggml-rpc-plan-at-work",
    "ggml-rpc-plan-link",
    "target",
  ])
  expect(readdirSync(join(temporary, "target"))).toEqual(["outline.gguf"])
})

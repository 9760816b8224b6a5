/** Which weights are offered to a server before they are sent, and what is remembered of it. */
import { afterAll, afterEach, beforeEach, expect, spyOn, test } from "bun:test"
import {
  appendFileSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { writeGguf } from "@ggml-rpc/gguf"
import { io } from "@ggml-rpc/native/bindings"
import { Command, ExtensionCommand, Fnv1a64, RpcTensor } from "@ggml-rpc/protocol"
import type { RpcConnection } from "../connection/RpcConnection.ts"
import { serverWith } from "./cacheServer.testHelper.ts"
import type { Exchange } from "./Exchange.ts"
import { type ComingWeight, type TensorData, WeightUpload } from "./WeightUpload.ts"

let root: string
let model: string

// A file that was written a moment ago may change again: of one nothing is remembered.
const now = Date.now
const later = spyOn(Date, "now").mockImplementation(() => now() + 10_000)
afterAll(() => later.mockRestore())

beforeEach(() => {
  io().io_clear_abort()
  root = mkdtempSync(join(tmpdir(), "ggml-rpc-upload-"))
  model = join(root, "model.gguf")
  process.env.GGML_RPC_WEIGHT_HASHES = join(root, "hashes")
})

afterEach(() => {
  io().io_stop_hashing()
  process.env.GGML_RPC_WEIGHT_HASHES = "none"
  rmSync(root, { recursive: true })
})

const WEIGHT_COUNT = 40
/** Elements of an F32 weight: more than anybody finds too small to be offered. */
const LENGTH = 128 * 1024
const nameOf = (index: number): string => `blk.${index}.weight`
const dataOf = (index: number): Uint8Array =>
  new Uint8Array(new Float32Array(LENGTH).fill(index + 1).buffer)
const hashOf = (index: number): string => new Fnv1a64().update(dataOf(index)).digestHex()

const writeModel = (): void => {
  writeGguf(model, {
    metadata: [["general.architecture", { type: "string", value: "test" }]],
    tensors: Array.from({ length: WEIGHT_COUNT }, (_, index) => ({
      name: nameOf(index),
      type: "F32",
      ne: [LENGTH],
      fill: (target) => void target.set(dataOf(index).subarray(0, target.length)),
    })),
  })
}

/** What libllama sets of a weight that nobody cuts. */
const whole = {
  ...{ address: 0, offset: 0, sizeBytes: 4 * LENGTH, rowBytes: 4 * LENGTH, strideBytes: 0 },
} satisfies TensorData

const all = Array.from({ length: WEIGHT_COUNT }, (_, index) => index)

/** Loads the model, weights to servers in turn; which of them were sent. */
const load = (
  connections: readonly RpcConnection[],
  change = (weight: ComingWeight) => weight,
  hashesBeside = true,
) => {
  const exchange = { tensorId: 0 }
  const coming = all.map((index) =>
    change({
      id: 1000 + index,
      name: nameOf(index),
      sizeBytes: 4 * LENGTH,
      connection: connections[index % connections.length]!,
      record: new Uint8Array(RpcTensor.size),
    }),
  )
  const weights = new WeightUpload(exchange as Exchange, () => coming)
  weights.begin(model, false)
  const sent = all.filter((index) => {
    exchange.tensorId = coming[index]!.id
    return !weights.isThere(whole)
  })
  weights.end(hashesBeside)
  return { sent, weights }
}

const remembered = (): number =>
  readdirSync(join(root, "hashes")).flatMap((file) =>
    readFileSync(join(root, "hashes", file), "utf8")
      .trim()
      .split("\n")
      .slice(1),
  ).length

/** Waits until all hashes of the model are known. */
const settle = async (): Promise<void> => {
  while (remembered() < WEIGHT_COUNT) await Bun.sleep(5)
}

test("a start after the first asks for everything, and reads no weight but one", async () => {
  writeModel()
  const cold = serverWith(() => false)
  const first = load([cold.connection])
  expect(first.sent).toEqual(all)
  // A few, to find out whether it has any.
  expect(cold.asked).toHaveLength(3)
  await settle()
  const warm = serverWith(() => true)
  const second = load([warm.connection])
  expect(second.sent).toEqual([])
  expect(second.weights.cachedBytes).toBe(4 * LENGTH * WEIGHT_COUNT)
  expect(second.weights.doneBytes).toBe(4 * LENGTH * WEIGHT_COUNT)
  expect(warm.asked).toEqual(all.map(hashOf))
  expect(warm.commands).toEqual([ExtensionCommand.OFFER_WEIGHTS])
  // Others are asked one by one, and all before the first answer is waited for.
  const theirs = serverWith(() => true, 0)
  expect(load([theirs.connection]).sent).toEqual([])
  expect(theirs.commands).toEqual(all.map(() => Command.SET_TENSOR_HASH))
  // What it lacks is sent, and nothing else.
  const lacking = new Set([3, 17, 39].map(hashOf))
  expect(load([serverWith((hash) => !lacking.has(hash)).connection]).sent).toEqual([3, 17, 39])
  // A tensor of another size is not what was hashed.
  const others = serverWith(() => true)
  const { sent } = load([others.connection], (weight) => ({ ...weight, sizeBytes: 2 * LENGTH }))
  expect(sent).toEqual(all)
  expect(others.asked).toEqual([])
})

test("nothing is hashed after a load that somebody measures on", async () => {
  writeModel()
  const { connection } = serverWith(() => false)
  load([connection], undefined, false)
  await Bun.sleep(100)
  expect(remembered()).toBe(3)
  load([connection])
  await settle()
})

test("an answer is waited for before its place goes, also where a weight comes in parts", async () => {
  writeModel()
  load([serverWith(() => false).connection])
  await settle()
  const { connection, awaitedCount } = serverWith(() => true, 0)
  const exchange = { tensorId: 1 }
  const weights = new WeightUpload(exchange as Exchange, () =>
    [1, 2].map((id) => ({
      ...{ id, name: nameOf(id), sizeBytes: 4 * LENGTH, connection },
      record: new Uint8Array(RpcTensor.size),
    })),
  )
  weights.begin(model, false)
  expect(weights.isThere({ ...whole, sizeBytes: 2 * LENGTH, rowBytes: 2 * LENGTH })).toBe(false)
  expect(awaitedCount()).toBe(1)
  weights.end(false)
  expect(awaitedCount()).toBe(0)
})

test("a client that knows no hashes finds what a server has, of each server", async () => {
  writeModel()
  const warm = serverWith(() => true)
  const cold = serverWith(() => false)
  expect(load([warm.connection, cold.connection]).sent).toEqual(
    all.filter((index) => index % 2 === 1),
  )
  expect(warm.asked).toHaveLength(WEIGHT_COUNT / 2)
  expect(cold.asked).toHaveLength(3)
  await settle()
})

test("one that has no cache is asked nothing, and nothing is hashed for it", () => {
  writeModel()
  const { connection, asked } = serverWith(() => true)
  const weights = new WeightUpload({ tensorId: 1 } as Exchange, () => [
    { id: 1, name: nameOf(0), sizeBytes: 4 * LENGTH, connection, record: new Uint8Array(296) },
  ])
  weights.expectNoCache(connection)
  weights.begin(model, false)
  expect(weights.isThere(whole)).toBe(false)
  weights.end(true)
  expect(asked).toEqual([])
  expect(() => readdirSync(join(root, "hashes"))).toThrow("ENOENT")
})

test("what was remembered and is not true is forgotten", async () => {
  writeModel()
  load([serverWith(() => false).connection])
  await settle()
  const file = join(root, "hashes", readdirSync(join(root, "hashes"))[0]!)
  const [title] = readFileSync(file, "utf8").split("\n")
  writeFileSync(file, `${title}\n`)
  for (const index of all) {
    const line = `${hashOf(index + 1)} ${4 * LENGTH} 0 ${1024 + index} ${nameOf(index)}`
    const check = new Fnv1a64().update(new TextEncoder().encode(line)).digestHex()
    appendFileSync(file, `${line} ${check}\n`)
  }
  const { connection, asked } = serverWith(() => true)
  expect(load([connection]).sent).toEqual([])
  expect(asked.toSorted()).toEqual(all.map(hashOf).toSorted())
})

test("a model that cannot be read is left to libllama", () => {
  writeFileSync(model, "no model")
  const { connection, asked } = serverWith(() => true)
  expect(load([connection]).sent).toEqual(all)
  expect(asked).toEqual([])
})

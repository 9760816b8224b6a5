/** Of weights that are cut over servers, which parts are offered before they are sent, and what is remembered of them. */
import { ptr } from "bun:ffi"
import { afterAll, afterEach, beforeEach, expect, spyOn, test } from "bun:test"
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { writeGguf } from "@ggml-rpc/gguf"
import { type Address, io, WeightFile } from "@ggml-rpc/native/bindings"
import { Command, ExtensionCommand, Fnv1a64, RpcTensor } from "@ggml-rpc/protocol"
import type { RpcConnection } from "../connection/RpcConnection.ts"
import { serverWith } from "./cacheServer.testHelper.ts"
import type { Exchange } from "./Exchange.ts"
import { WeightUpload } from "./WeightUpload.ts"

let root: string

// A file that was written a moment ago may change again: of one nothing is remembered.
const now = Date.now
const later = spyOn(Date, "now").mockImplementation(() => now() + 10_000)
const hashing = spyOn(WeightFile.prototype, "hash")
afterAll(() => {
  later.mockRestore()
  hashing.mockRestore()
})

/** F32. */
type Shape = readonly [number, number, number]

/** How a weight goes to devices: whole to each, cut along an axis, or in several segments, each cut along its axis. */
type Cut = "whole" | { readonly axis: number; readonly segments?: number }

interface Weight {
  readonly name: string
  readonly shape: Shape
  readonly cut: Cut
}

const WIDTH = 1024
const weights: readonly Weight[] = [
  { name: "blk.0.norm.weight", shape: [WIDTH, 1, 1], cut: "whole" },
  { name: "blk.0.attn_q.weight", shape: [WIDTH, 512, 1], cut: { axis: 1 } },
  { name: "blk.0.attn_output.weight", shape: [WIDTH, 512, 1], cut: { axis: 0 } },
  { name: "blk.0.ffn_up_exps.weight", shape: [WIDTH, 128, 4], cut: { axis: 1 } },
  { name: "blk.0.ffn_down_exps.weight", shape: [WIDTH, 128, 4], cut: { axis: 0 } },
  { name: "blk.0.attn_output_a.weight", shape: [WIDTH, 64, 8], cut: { axis: 2 } },
]

const bytesOf = ([a, b, c]: Shape): number => 4 * a * b * c

const dataOf = ({ name, shape }: Weight): Uint8Array => {
  const seed = [...name].reduce((sum, character) => sum + character.charCodeAt(0), 0)
  const values = new Uint32Array(bytesOf(shape) / 4)
  for (let index = 0; index < values.length; index++) values[index] = seed * 100_003 + index
  return new Uint8Array(values.buffer)
}

const writeModel = (of: readonly Weight[]): void => {
  writeGguf(join(root, "model.gguf"), {
    metadata: [["general.architecture", { type: "string", value: "test" }]],
    tensors: of.map((weight) => {
      const data = dataOf(weight)
      const rowBytes = 4 * weight.shape[0]
      const fill = (target: Uint8Array, row: number): void =>
        target.set(data.subarray(row * rowBytes, row * rowBytes + target.length))
      return { name: weight.name, type: "F32", ne: [...weight.shape], fill }
    }),
  })
}

/** What libllama sets of a weight on one device: rows of its data, that lie one behind the other in the device's tensor. */
interface Run {
  readonly offset: number
  readonly fromBytes: number
  readonly rowBytes: number
  readonly rowCount: number
  readonly strideBytes: number
}

/** What each of several devices gets, in these proportions. */
const cutOver = ({ shape, cut }: Weight, proportions: readonly number[]) => {
  if (cut === "whole") {
    const all = { offset: 0, fromBytes: 0, rowBytes: bytesOf(shape), rowCount: 1, strideBytes: 0 }
    return proportions.map(() => ({ ne: shape, runs: [all] as Run[] }))
  }
  const { axis, segments = 1 } = cut
  const total = proportions.reduce((sum, one) => sum + one, 0)
  const unitBytes = shape.slice(0, axis).reduce((product, length) => product * length, 4)
  const strideBytes = unitBytes * shape[axis]!
  const parts = proportions.map((one) => ({
    ne: shape.map((length, at) => (at === axis ? (length * one) / total : length)),
    runs: [] as Run[],
  }))
  const used = proportions.map(() => 0)
  let fromBytes = 0
  for (let segment = 0; segment < segments; segment++) {
    for (const [device, { ne, runs }] of parts.entries()) {
      const rowBytes = (unitBytes * ne[axis]!) / segments
      const rowCount = bytesOf(shape) / strideBytes
      runs.push({ offset: used[device]!, fromBytes, rowBytes, rowCount, strideBytes })
      used[device]! += rowBytes
      fromBytes += rowBytes
    }
  }
  return parts
}

const hashOf = (weight: Weight, { fromBytes, rowBytes, rowCount, strideBytes }: Run): string => {
  const data = dataOf(weight)
  const hash = new Fnv1a64()
  for (let row = 0; row < rowCount; row++) {
    const at = fromBytes + row * strideBytes
    hash.update(data.subarray(at, at + rowBytes))
  }
  return hash.digestHex()
}

/** Hashes of all that a device gets of weights. */
const hashesOf = (of: readonly Weight[], proportions: readonly number[], device: number) =>
  of.flatMap((weight) =>
    cutOver(weight, proportions)[device]!.runs.map((run) => hashOf(weight, run)),
  )

const recordOf = (ne: readonly number[]): Uint8Array => {
  const record = new Uint8Array(RpcTensor.size)
  const view = new DataView(record.buffer)
  for (const [axis, length] of [...ne, 1].entries()) {
    view.setUint32(RpcTensor.offsets.ne + 4 * axis, length, true)
  }
  return record
}

/** Of what the last load sent, hashes of what servers were told to keep. */
const kept: string[] = []

/**
 * Loads the model over these servers; undefined stands for a device of this host. `withoutCache`: one that says so. Gives hashes of what
 * was sent to each.
 */
const load = (
  servers: readonly (RpcConnection | undefined)[],
  of: readonly Weight[] = weights,
  proportions: readonly number[] = servers.map(() => 1),
  withoutCache?: RpcConnection,
) => {
  const exchange = { tensorId: 0 }
  const idOf = (weight: number, device: number): number => 1000 * (device + 1) + weight
  const coming = servers.flatMap((connection, device) =>
    connection === undefined
      ? []
      : of.map((weight, index) => {
          const { ne, runs } = cutOver(weight, proportions)[device]!
          const sizeBytes = runs.reduce((sum, run) => sum + run.rowBytes * run.rowCount, 0)
          const id = idOf(index, device)
          return { id, name: weight.name, sizeBytes, connection, record: recordOf(ne) }
        }),
  )
  const upload = new WeightUpload(exchange as Exchange, () => coming)
  if (withoutCache !== undefined) upload.expectNoCache(withoutCache)
  upload.begin(join(root, "model.gguf"), true)
  kept.length = 0
  const sent: string[][] = servers.map(() => [])
  for (const [index, weight] of of.entries()) {
    const data = dataOf(weight)
    const parts = cutOver(weight, proportions)
    const count = parts[0]!.runs.length
    // Each segment goes to all devices before the next one does.
    for (let at = 0; at < count; at++) {
      for (const [device, { runs }] of parts.entries()) {
        const connection = servers[device]
        if (connection === undefined) continue
        const run = runs[at]!
        exchange.tensorId = idOf(index, device)
        const sizeBytes = run.rowBytes * run.rowCount
        const isThere = upload.isThere({
          address: (ptr(data) as Address) + run.fromBytes,
          offset: run.offset,
          sizeBytes,
          rowBytes: run.rowBytes,
          strideBytes: run.strideBytes,
        })
        if (isThere) continue
        const hash = hashOf(weight, run)
        sent[device]!.push(hash)
        if (upload.isCacheable(connection, sizeBytes)) kept.push(hash)
      }
    }
  }
  upload.end(true)
  return sent
}

const settle = async (): Promise<void> => {
  while (io().io_is_hashing() !== 0) await Bun.sleep(5)
}

const lines = (): readonly string[] => {
  const folder = join(root, "hashes")
  const [file] = readdirSync(folder)
  return readFileSync(join(folder, file!), "utf8").trim().split("\n").slice(1)
}

const nothing = () => serverWith(() => false)
const everything = () => serverWith(() => true)

beforeEach(() => {
  io().io_clear_abort()
  root = mkdtempSync(join(tmpdir(), "ggml-rpc-cut-"))
  process.env.GGML_RPC_WEIGHT_HASHES = join(root, "hashes")
  writeModel(weights)
})

afterEach(() => {
  io().io_stop_hashing()
  process.env.GGML_RPC_WEIGHT_HASHES = "none"
  rmSync(root, { recursive: true })
})

test("a start after the first asks for every part, and reads no weight but one", async () => {
  const both = [0, 1].map((device) => hashesOf(weights, [1, 1], device))
  expect(load([nothing().connection, nothing().connection])).toEqual(both)
  await settle()
  // What is whole on both has one hash.
  expect(lines()).toHaveLength(1 + 2 * (weights.length - 1))
  hashing.mockClear()
  const servers = [everything(), everything()]
  expect(load(servers.map(({ connection }) => connection))).toEqual([[], []])
  for (const [device, { asked, commands }] of servers.entries()) {
    expect(asked).toEqual(both[device]!)
    expect(commands).toEqual([ExtensionCommand.OFFER_WEIGHTS])
  }
  expect(hashing.mock.calls.map(([places]) => places.length)).toEqual([1])
  // What one lacks is sent, and nothing else.
  const lost = both[1]![2]!
  const lacking = serverWith((hash) => hash !== lost)
  expect(load([everything().connection, lacking.connection])).toEqual([[], [lost]])
})

test("parts of other shares are other ones, and those of whole layers are whole", async () => {
  load([nothing().connection, nothing().connection])
  await settle()
  const servers = [everything(), everything(), everything()]
  const proportions = [1, 2, 1]
  expect(
    load(
      servers.map(({ connection }) => connection),
      weights,
      proportions,
    ),
  ).toEqual([[], [], []])
  for (const [device, { asked }] of servers.entries()) {
    expect(asked.toSorted()).toEqual(hashesOf(weights, proportions, device).toSorted())
  }
  const alone = everything()
  expect(load([alone.connection])).toEqual([[]])
  expect(alone.asked.toSorted()).toEqual(hashesOf(weights, [1], 0).toSorted())
})

test("shares that were had before are known, whatever came later", async () => {
  for (const proportions of [
    [1, 1],
    [1, 3],
    [3, 1],
  ]) {
    load([nothing().connection, nothing().connection], weights, proportions)
    await settle()
  }
  hashing.mockClear()
  const servers = [everything(), everything()]
  for (const proportions of [
    [3, 1],
    [1, 1],
    [1, 3],
  ]) {
    const connections = servers.map(({ connection }) => connection)
    expect(load(connections, weights, proportions)).toEqual([[], []])
  }
  expect(hashing.mock.calls.map(([places]) => places.length)).toEqual([1, 1, 1])
})

test("a client that knows no hashes finds what a server has, of each server", () => {
  const [warm, cold] = [everything(), nothing()]
  expect(load([warm.connection, cold.connection])).toEqual([[], hashesOf(weights, [1, 1], 1)])
  expect(warm.asked.toSorted()).toEqual(hashesOf(weights, [1, 1], 0).toSorted())
  expect(cold.asked).toHaveLength(3)
})

test("where a device gets several pieces of a weight each is asked for by its own hash, and no other is guessed", async () => {
  const segmented = [
    { name: "blk.0.attn_qkv.weight", shape: [WIDTH, 768, 1], cut: { axis: 1, segments: 3 } },
    // As Phi 3's, with the gate in it.
    { name: "blk.0.ffn_up.weight", shape: [WIDTH, 512, 1], cut: { axis: 1, segments: 2 } },
  ] as const
  const down = { name: "blk.0.ffn_down.weight", shape: [256, WIDTH, 1], cut: { axis: 0 } } as const
  // Another layer's is what its name says.
  const up = { name: "blk.1.ffn_up.weight", shape: [WIDTH, 256, 1], cut: { axis: 1 } } as const
  const next = { ...down, name: "blk.1.ffn_down.weight" }
  const guessed = [down, up, next]
  const model = [...segmented, ...guessed]
  writeModel(model)
  hashing.mockClear()
  const pieces = [0, 1].map((device) => hashesOf(segmented, [1, 1], device))
  const warm = [everything(), everything()]
  const connections = warm.map(({ connection }) => connection)
  expect(load(connections, model)).toEqual(pieces)
  const others = [0, 1].map((device) => hashesOf(guessed, [1, 1], device))
  for (const [device, { asked }] of warm.entries()) {
    expect(asked.toSorted()).toEqual(others[device]!.toSorted())
  }
  expect(hashing.mock.calls.flatMap(([places]) => places)).toHaveLength(2 * guessed.length)
  await settle()
  expect(lines()).toHaveLength(pieces.flat().length + others.flat().length)
  const servers = [everything(), everything()]
  expect(
    load(
      servers.map(({ connection }) => connection),
      model,
    ),
  ).toEqual([[], []])
  for (const [device, { asked, commands }] of servers.entries()) {
    expect(asked.toSorted()).toEqual([...pieces[device]!, ...others[device]!].toSorted())
    expect(commands.filter((command) => command === Command.SET_TENSOR_HASH)).toHaveLength(5)
  }
})

test("where a device of this host has a part nobody is asked for the others", async () => {
  load([nothing().connection, nothing().connection])
  await settle()
  const before = lines().length
  const server = everything()
  const [norm, ...cut] = hashesOf(weights, [1, 1], 1)
  // Of what is whole on each device the hash is known.
  expect(load([undefined, server.connection])).toEqual([[], cut])
  expect(server.asked).toEqual([norm!])
  await settle()
  expect(lines()).toHaveLength(before)
})

test("where the first server has no cache the parts of the second are its own", async () => {
  const both = [0, 1].map((device) => hashesOf(weights, [1, 1], device))
  for (const has of [false, true]) {
    const [first, second] = [everything(), serverWith(() => has)]
    const connections = [first.connection, second.connection]
    const sent = load(connections, weights, [1, 1], first.connection)
    expect(sent).toEqual([both[0]!, has ? [] : both[1]!])
    expect(first.asked).toEqual([])
    expect(both[1]).toEqual(expect.arrayContaining([...second.asked]))
    await settle()
  }
  expect(lines()).toHaveLength(weights.length)
})

const divided: Weight = {
  name: "blk.0.ffn_down_exps.bias",
  shape: [WIDTH, 128, 1],
  cut: "whole",
}

test("a bias that each device adds a part of is neither asked for nor kept, and others are", async () => {
  const biased: readonly Weight[] = [
    { name: "blk.0.ffn_up_exps.bias", shape: [WIDTH, 128, 1], cut: { axis: 0 } },
    { name: "blk.0.attn_output.bias", shape: [WIDTH, 1, 1], cut: "whole" },
    divided,
  ]
  writeModel(biased)
  const [bias] = hashesOf([divided], [1, 1], 0)
  const both = [0, 1].map((device) => hashesOf(biased, [1, 1], device))
  expect(load([nothing().connection, nothing().connection], biased)).toEqual(both)
  expect(kept.toSorted()).toEqual(
    both
      .flat()
      .filter((hash) => hash !== bias)
      .toSorted(),
  )
  await settle()
  const servers = [everything(), everything()]
  const connections = servers.map(({ connection }) => connection)
  expect(load(connections, biased)).toEqual([[bias!], [bias!]])
  expect(kept).toEqual([])
  for (const [device, { asked }] of servers.entries()) {
    expect(asked.toSorted()).toEqual(both[device]!.filter((hash) => hash !== bias).toSorted())
  }
  expect(lines().join("\n")).not.toContain(divided.name)
})

test("nor is it where a device of this host adds the other part", async () => {
  writeModel([divided])
  const [bias] = hashesOf([divided], [1, 1], 1)
  for (let round = 0; round < 2; round++) {
    const { connection, asked } = everything()
    expect(load([undefined, connection], [divided])).toEqual([[], [bias!]])
    expect(asked).toEqual([])
    await settle()
  }
})

/** Weights in the CPU backend's own layouts, and back; shim/ggml/repack.h. */

import { type Pointer, toArrayBuffer } from "bun:ffi"
import { afterAll, beforeEach, describe, expect, test } from "bun:test"
import { asPointer, io } from "./io.ts"
import { ggml, listDevices, loadBackends, repackedTypes } from "./libggml.ts"
import {
  getTensor,
  setTensor,
  type TensorFields,
  tensorRecord,
  tensorRecords,
} from "./tensorRecord.ts"

/** ggml.h of v0.5.0. */
const [f32, q4_0, i32] = [0, 2, 26]
const op = { mulMat: 29, mulMatId: 30, getRows: 40, view: 37, argsort: 69 }

loadBackends()
const symbols = ggml()
const types = repackedTypes()
const cpu = listDevices().find(({ type }) => type === "CPU")!
const buffer = symbols.gs_buffer_alloc(
  symbols.ggml_backend_dev_buffer_type(asPointer(cpu.address)),
  2 ** 25,
) as Pointer
const base = symbols.gs_buffer_base(buffer)
/** What really lies in the buffer. */
const memory = new Uint8Array(toArrayBuffer(asPointer(base), 0, 2 ** 25))
const backend = symbols.ggml_backend_dev_init(asPointer(cpu.address), null)
symbols.gs_backend_set_threads(backend, 2)
symbols.gs_backend_set_abort_flag(backend, io().io_abort_flag())
afterAll(() => {
  symbols.ggml_backend_free(backend)
  symbols.gs_buffer_free(buffer)
})
beforeEach(() => symbols.gs_buffer_clear(buffer, 0))

type Tensor = Omit<TensorFields, "buffer" | "data"> & { readonly at: number }

const graph = (tensors: readonly Tensor[], nodes: readonly number[], isRepacked = true) => {
  const fields = tensors.map(({ at, ...tensor }) => ({
    ...tensor,
    buffer: { address: Number(buffer) },
    data: base + at,
  }))
  const built = symbols.gs_graph_build(
    Uint32Array.from(nodes),
    nodes.length,
    tensorRecords(fields),
    fields.length,
  )
  if (isRepacked) expect(symbols.gs_graph_repack(built)).toBe(1)
  const records = fields.map(tensorRecord)
  const compute = (): number => symbols.gs_graph_compute(backend, built, 1)
  return {
    compute,
    run: (): void => {
      expect(symbols.gs_graph_settle(built)).toBe(1)
      expect(compute()).toBe(0)
    },
    set: (tensor: number, data: Uint8Array): void => setTensor(records[tensor - 1]!, data),
    get: (tensor: number, count: number): Float32Array => {
      const target = new Float32Array(count)
      getTensor(records[tensor - 1]!, new Uint8Array(target.buffer))
      return target
    },
    [Symbol.dispose]: (): void => symbols.gs_graph_free(built),
  }
}

/** Marsaglia's xorshift. */
const randomWords = (count: number, seed: number): Uint32Array => {
  const words = new Uint32Array(count)
  let state = Math.imul(seed + 1, 2654435761)
  for (let at = 0; at < count; at++) {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    words[at] = state
  }
  return words
}

const randomBytes = (count: number, seed = 1): Uint8Array =>
  new Uint8Array(randomWords(Math.ceil(count / 4), seed).buffer).subarray(0, count)

const randomFloats = (count: number, seed = 7): Uint8Array =>
  new Uint8Array(Float32Array.from(randomWords(count, seed), (word) => word / 2 ** 31 - 1).buffer)

const blockOf = (type: number) => ({
  blockSize: Number(symbols.ggml_blck_size(type)),
  blockBytes: Number(symbols.ggml_type_size(type)),
})

const sizeOf = (type: number, columns: number, rows: number): number => {
  const { blockSize, blockBytes } = blockOf(type)
  return (columns / blockSize) * blockBytes * rows
}

/** Places of a block's f16 scales, by type; ggml-common.h. MXFP4's is a power of two in a byte. */
const scales: Readonly<Record<number, readonly number[]>> = {
  [q4_0]: [0],
  8: [0],
  10: [80, 82],
  12: [0, 2],
  13: [0, 2],
  14: [208],
  20: [0],
  41: [0],
}
const MXFP4 = 39

/** Random weights of which no product is infinite. */
const randomWeights = (type: number, columns: number, rows: number): Uint8Array => {
  const bytes = randomBytes(sizeOf(type, columns, rows))
  const view = new DataView(bytes.buffer, bytes.byteOffset)
  const { blockBytes } = blockOf(type)
  for (let at = 0; at < bytes.length; at += blockBytes) {
    if (type === MXFP4) bytes[at] = 120 + (at % 5)
    for (const scale of scales[type] ?? [])
      view.setFloat16(at + scale, 0.01 + (at % 7) / 1000, true)
  }
  return bytes
}

/** Where the input and the result lie, behind any weight. */
const INPUT = 2 ** 24
const RESULT = 3 * 2 ** 23

/** The product of a weight and `columns` of input. */
const product = (type: number, columns: number, rows: number, count = 5): Tensor[] => [
  { type, ne: [columns, rows], at: 0 },
  { type: f32, ne: [columns, count], at: INPUT },
  { type: f32, ne: [rows, count], op: op.mulMat, src: [1, 2], at: RESULT },
]

const original = (at: number, size: number): void =>
  symbols.gs_repack_original(buffer, base + at, size)

const distance = (found: Float32Array, expected: Float32Array): number => {
  let difference = 0
  let square = 0
  for (const [index, value] of expected.entries()) {
    difference += (found[index]! - value) ** 2
    square += value ** 2
  }
  return difference / square
}

test("this CPU has layouts", () => {
  expect(types).toContain(q4_0)
})

describe.each([...types])("type %i", (type) => {
  const { blockSize, blockBytes } = blockOf(type)

  test.each([
    [1, 16],
    [3, 48],
    [7, 112],
    // Several slices of 4 MiB, the last one short.
    [11, 16 * Math.ceil((10 * 2 ** 20) / (11 * 16 * blockBytes))],
  ])("%i blocks by %i rows come back as they were", (blocks, rows) => {
    const columns = blocks * blockSize
    using run = graph(product(type, columns, rows, 1), [3])
    const bytes = randomBytes(sizeOf(type, columns, rows), rows)
    run.set(1, bytes)
    run.run()
    const packed = memory.subarray(0, bytes.length)
    expect(Buffer.compare(packed, bytes)).not.toBe(0)
    expect(memory[bytes.length]).toBe(0)
    original(bytes.length - 1, 1)
    expect(Buffer.compare(packed, bytes)).toBe(0)
  })

  test("the product is the same, but for rounding", () => {
    const [columns, rows, count] = [4 * blockSize, 64, 9]
    const tensors = product(type, columns, rows, count)
    using plain = graph(tensors, [3], false)
    using run = graph(tensors, [3])
    run.set(1, randomWeights(type, columns, rows))
    run.set(2, randomFloats(columns * count))
    plain.run()
    const expected = plain.get(3, rows * count)
    run.run()
    expect(distance(run.get(3, rows * count), expected)).toBeLessThan(1e-5)
  })
})

const WIDTH = 64
const bytes = randomWeights(q4_0, WIDTH, 64)
const isPacked = (at = 0, expected = bytes): boolean =>
  Buffer.compare(memory.subarray(at, at + expected.length), expected) !== 0

test("a graph runs only over memory as it needs it", () => {
  using run = graph(product(q4_0, WIDTH, 64), [3])
  run.set(1, bytes)
  expect(run.compute()).toBe(-1)
  run.run()
  expect(isPacked()).toBe(true)
  expect(run.compute()).toBe(0)
  original(0, 1)
  expect(isPacked()).toBe(false)
  expect(run.compute()).toBe(-1)
  run.run()
  expect(isPacked()).toBe(true)
})

test("what lies beside a weight leaves it as it is", () => {
  using run = graph(product(q4_0, WIDTH, 64), [3])
  run.set(1, bytes)
  run.run()
  original(bytes.length, 4096)
  original(INPUT, 4096)
  expect(run.compute()).toBe(0)
})

test("two graphs that use it otherwise take turns, twice; then it stays as it is", () => {
  const rows: readonly Tensor[] = [
    { type: q4_0, ne: [WIDTH, 64], at: 0 },
    { type: i32, ne: [2], at: INPUT + 65536 },
    { type: f32, ne: [WIDTH, 2], op: op.getRows, src: [1, 2], at: RESULT + 65536 },
  ]
  using multiply = graph(product(q4_0, WIDTH, 64), [3])
  using look = graph(rows, [3])
  multiply.set(1, bytes)
  multiply.set(2, randomFloats(WIDTH * 5))
  look.set(2, new Uint8Array(Int32Array.of(3, 60).buffer))
  look.run()
  const seen = look.get(3, WIDTH * 2)
  const packed: boolean[] = []
  for (let turn = 0; turn < 4; turn++) {
    multiply.run()
    packed.push(isPacked())
    look.run()
    expect(isPacked()).toBe(false)
    expect(look.get(3, WIDTH * 2)).toEqual(seen)
  }
  expect(packed).toEqual([true, true, false, false])
})

test("a graph that uses it in both ways has it as it is", () => {
  using both = graph(
    [
      ...product(q4_0, WIDTH, 64),
      { type: i32, ne: [2], at: INPUT + 65536 },
      { type: f32, ne: [WIDTH, 2], op: op.getRows, src: [1, 4], at: RESULT + 65536 },
    ],
    [3, 5],
  )
  both.set(1, bytes)
  both.run()
  expect(isPacked()).toBe(false)
})

test.each([
  ["of another shape", { type: q4_0, ne: [WIDTH * 2, 32], at: 0 }],
  ["of another type", { type: 20, ne: [WIDTH, 64], at: 0 }],
  ["that is a part", { type: q4_0, ne: [WIDTH, 8], at: sizeOf(q4_0, WIDTH, 16) }],
  ["that is the same", { type: q4_0, ne: [WIDTH, 64], at: 0 }],
] as const)("two weights over the same memory, one %s", (_, other) => {
  const columns = other.ne[0]
  const second: readonly Tensor[] = [
    { type: f32, ne: [columns, 5], at: INPUT + 65536 },
    { type: f32, ne: [other.ne[1], 5], op: op.mulMat, src: [4, 5], at: RESULT + 65536 },
  ]
  const tensors: readonly Tensor[] = [...product(q4_0, WIDTH, 64), { ...other }, ...second]
  using run = graph(tensors, [3, 6])
  run.set(1, bytes)
  run.run()
  expect(isPacked()).toBe(false)
  // In graphs of their own, each has it in its way.
  using first = graph(product(q4_0, WIDTH, 64), [3])
  using alone = graph(tensors, [6])
  using plain = graph(tensors, [6], false)
  alone.set(5, randomFloats(columns * 5))
  plain.run()
  const expected = plain.get(6, other.ne[1] * 5)
  first.run()
  expect(isPacked()).toBe(true)
  alone.run()
  expect(distance(alone.get(6, other.ne[1] * 5), expected)).toBeLessThan(1e-5)
  original(0, bytes.length)
  expect(isPacked()).toBe(false)
})

test("a node that writes into a weight has it as it is", () => {
  using run = graph(
    [...product(q4_0, WIDTH, 64), { type: f32, ne: [64, 1], op: op.mulMat, src: [1, 2], at: 64 }],
    [3],
  )
  using writing = graph(
    [
      { type: q4_0, ne: [WIDTH, 64], at: 0 },
      { type: f32, ne: [WIDTH, 1], at: INPUT },
      { type: f32, ne: [64, 1], op: op.mulMat, src: [1, 2], at: 64 },
    ],
    [3],
  )
  run.set(1, bytes)
  // The node that is not run touches nothing.
  run.run()
  expect(isPacked()).toBe(true)
  writing.run()
  expect(isPacked(0, bytes.subarray(0, 64))).toBe(false)
  expect(isPacked(320, bytes.subarray(320))).toBe(false)
})

test.each([
  [
    "rows of it lie apart",
    { type: f32, ne: [WIDTH, 5], nb: [4, 8 * WIDTH, 40 * WIDTH, 40 * WIDTH], at: INPUT },
  ],
  ["it is of another type", { type: 8, ne: [WIDTH, 5], at: INPUT }],
] as const)("an input that the layouts' kernels would misread: %s", (_, input) => {
  const [weight, , result] = product(q4_0, WIDTH, 64)
  using run = graph([weight!, { ...input }, result!], [3])
  run.set(1, bytes)
  run.run()
  expect(isPacked()).toBe(false)
})

test("a weight that does not lie as the backend's buffers do", () => {
  const [weight, input, result] = product(q4_0, WIDTH, 64)
  using run = graph([{ ...weight!, at: 18 }, input!, result!], [3])
  run.set(1, bytes)
  run.run()
  expect(isPacked(18)).toBe(false)
})

test("clearing the buffer leaves nothing to convert back", () => {
  using run = graph(product(q4_0, WIDTH, 64), [3])
  run.set(1, bytes)
  run.run()
  symbols.gs_buffer_clear(buffer, 3)
  original(0, bytes.length)
  expect(memory.subarray(0, bytes.length).every((byte) => byte === 3)).toBe(true)
  run.set(1, bytes)
  run.run()
  expect(isPacked()).toBe(true)
})

describe("experts", () => {
  const [experts, tokens, used] = [6, 3, 2]
  const weights = randomWeights(q4_0, WIDTH, 32 * experts)
  const at = (place: number): number => RESULT + place * 65536
  const tensors = (ids: readonly Tensor[]): Tensor[] => [
    { type: q4_0, ne: [WIDTH, 32, experts], at: 0 },
    { type: f32, ne: [WIDTH, 1, tokens], at: INPUT },
    { type: f32, ne: [experts, tokens], at: at(0) },
    ...ids,
    { type: f32, ne: [32, used, tokens], op: op.mulMatId, src: [1, 2, 5], at: at(2) },
  ]
  const sorted: Tensor = {
    type: i32,
    ne: [experts, tokens],
    op: op.argsort,
    src: [3],
    opParams: [1],
    at: at(1),
  }
  const part = (nb0: number): Tensor => ({
    type: i32,
    ne: [used, tokens],
    nb: [nb0, 4 * experts, 4 * experts * tokens, 4 * experts * tokens],
    op: op.view,
    src: [4],
    viewSrc: 4,
    at: at(1),
  })

  test("that are sorted are packed, and compute the same", () => {
    using run = graph(tensors([sorted, part(4)]), [4, 5, 6])
    using plain = graph(tensors([sorted, part(4)]), [4, 5, 6], false)
    run.set(1, weights)
    run.set(2, randomFloats(WIDTH * tokens))
    run.set(3, randomFloats(experts * tokens, 3))
    plain.run()
    const expected = plain.get(6, 32 * used * tokens)
    run.run()
    expect(isPacked(0, weights)).toBe(true)
    expect(distance(run.get(6, 32 * used * tokens), expected)).toBeLessThan(1e-5)
    original(0, 1)
    expect(isPacked(0, weights)).toBe(false)
  })

  test("of which a token may have one twice are not: the kernel has no room for them", () => {
    const written: Tensor = { type: i32, ne: [used, tokens], at: at(1) }
    using given = graph(tensors([written, written]), [6])
    using repeated = graph(tensors([sorted, part(0)]), [4, 5, 6])
    given.set(1, weights)
    for (const run of [given, repeated]) {
      run.run()
      expect(isPacked(0, weights)).toBe(false)
    }
  })
})

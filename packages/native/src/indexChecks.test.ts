/** Indices that stop a graph right before the node that would use them; shim/ggml/index_checks.h. */

import type { Pointer } from "bun:ffi"
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test"
import { asPointer, io } from "./io.ts"
import { ggml, listDevices, loadBackends } from "./libggml.ts"
import {
  getTensor,
  setTensor,
  type TensorFields,
  tensorRecord,
  tensorRecords,
} from "./tensorRecord.ts"

// Threads of ggml's wait for each other without sleeping: on a machine with other work, four take their time.
setDefaultTimeout(60_000)

/** ggml.h of v0.5.0. */
const [f32, i32, i64] = [0, 26, 27]
const op = { sqr: 9, cpy: 34, getRows: 40, argsort: 69, optStepSgd: 99 }

/** `index_check_way`. */
const ways = { parts: 0, nodes: 1 }

const BAD_INDEX = 2

loadBackends()
const symbols = ggml()
const cpu = listDevices().find(({ type }) => type === "CPU")!
const bufferOf = (sizeBytes: number): Pointer =>
  symbols.gs_buffer_alloc(
    symbols.ggml_backend_dev_buffer_type(asPointer(cpu.address)),
    sizeBytes,
  ) as Pointer
const buffer = bufferOf(2 ** 26)
const otherBuffer = bufferOf(64)
const base = symbols.gs_buffer_base(buffer)
afterAll(() => {
  for (const each of [buffer, otherBuffer]) symbols.gs_buffer_free(each)
})

type Tensor = Omit<TensorFields, "buffer" | "data"> & {
  readonly at?: number
  /** Default: the one that all data really lies in. */
  readonly buffer?: Pointer
}

const integers = (...values: readonly number[]): Uint8Array =>
  new Uint8Array(Int32Array.from(values).buffer)

/** A graph over tensors that lie 4096 bytes apart, or where they say. */
const graph = (
  tensors: readonly Tensor[],
  nodes: readonly number[],
  checks: readonly (readonly [node: number, source: number, limit: number])[],
  way: number,
  threadCount: number,
) => {
  const fields = tensors.map(({ at, buffer: own = buffer, ...tensor }, index) => ({
    ...tensor,
    buffer: { address: Number(own) },
    data: base + (at ?? index * 4096),
  }))
  const backend = symbols.ggml_backend_dev_init(asPointer(cpu.address), null)
  symbols.gs_backend_set_threads(backend, threadCount)
  symbols.gs_backend_set_abort_flag(backend, io().io_abort_flag())
  const built = symbols.gs_graph_build(
    Uint32Array.from(nodes),
    nodes.length,
    tensorRecords(fields),
    fields.length,
  )
  const list = Uint32Array.from(checks.flat())
  expect(symbols.gs_graph_check_indices(built, list, checks.length, way)).toBe(1)
  const records = fields.map(tensorRecord)
  return {
    compute: (): number => symbols.gs_graph_compute(backend, built, 1),
    set: (tensor: number, data: Uint8Array): void => setTensor(records[tensor - 1]!, data),
    get: (tensor: number, count: number): number[] => {
      const target = new Float32Array(count)
      getTensor(records[tensor - 1]!, new Uint8Array(target.buffer))
      return [...target]
    },
    /** Place of the record, op, source, value, limit, place of the value. */
    bad: (): number[] => {
      const out = new BigInt64Array(9)
      symbols.gs_graph_bad_index(built, out)
      return Array.from(out, Number)
    },
    [Symbol.dispose]: (): void => {
      symbols.gs_graph_free(built)
      symbols.ggml_backend_free(backend)
    },
  }
}

const floats = (...values: readonly number[]): Uint8Array =>
  new Uint8Array(Float32Array.from(values).buffer)

const everyWay = Object.entries(ways).flatMap(([name, way]) =>
  [1, 4].map((threadCount) => [name, threadCount, way] as const),
)

describe.each(everyWay)("by %s, on %i threads", (_, threadCount, way) => {
  test("neither the node that would use the index nor one after it runs", () => {
    const rows = [
      { type: f32, ne: [256, 4] },
      { type: i32, ne: [4] },
    ] as const
    using run = graph(
      [
        ...rows,
        { type: i32, ne: [4], op: op.cpy, src: [2, 3] },
        { type: f32, ne: [256, 4], op: op.getRows, src: [1, 3] },
        { type: f32, ne: [256, 4], op: op.sqr, src: [4] },
      ],
      [3, 4, 5],
      [[1, 1, 4]],
      way,
      threadCount,
    )
    const untouched = Array<number>(1024).fill(7)
    run.set(1, floats(...Array<number>(1024).fill(2)))
    for (let round = 0; round < 8; round++) {
      for (const tensor of [4, 5]) run.set(tensor, floats(...untouched))
      run.set(2, integers(0, 1, 2, 4 + round))
      expect(run.compute()).toBe(BAD_INDEX)
      expect(run.bad()).toEqual([3, op.getRows, 1, 4 + round, 4, 3, 0, 0, 0])
      expect([run.get(4, 1024), run.get(5, 1024)]).toEqual([untouched, untouched])
      run.set(2, integers(0, 1, 2, 3))
      expect(run.compute()).toBe(0)
      expect(run.get(5, 1024)).toEqual(Array<number>(1024).fill(4))
    }
  })

  test("memory of another buffer is another, also at the same address", () => {
    const writing = (own: Pointer) =>
      graph(
        [
          { type: f32, ne: [256, 4] },
          { type: i32, ne: [4] },
          { type: i32, ne: [4] },
          { type: i32, ne: [4], op: op.cpy, src: [2, 3], at: 2 * 4096, buffer: own },
          { type: f32, ne: [256, 4], op: op.getRows, src: [1, 3] },
        ],
        [4, 5],
        [[1, 1, 4]],
        way,
        threadCount,
      )
    for (const [own, status] of [
      [buffer, 0],
      [otherBuffer, BAD_INDEX],
    ] as const) {
      using run = writing(own)
      run.set(2, integers(0, 1, 2, 3))
      run.set(3, integers(0, 1, 2, 4))
      expect(run.compute()).toBe(status)
    }
  })

  test("64 bits are looked at", () => {
    using run = graph(
      [
        { type: f32, ne: [8, 4] },
        { type: i64, ne: [3] },
        { type: i64, ne: [3], op: op.cpy, src: [2, 3] },
        { type: f32, ne: [8, 3], op: op.getRows, src: [1, 3] },
      ],
      [3, 4],
      [[1, 1, 4]],
      way,
      threadCount,
    )
    run.set(2, new Uint8Array(BigInt64Array.of(0n, 2n ** 40n, 0n).buffer))
    expect(run.compute()).toBe(BAD_INDEX)
    expect(run.bad()).toEqual([3, op.getRows, 1, 2 ** 40, 4, 1, 0, 0, 0])
  })

  test("indices may lie far from one another", () => {
    const far = 12 * 2 ** 20
    const spread = { type: i32, ne: [2, 3], nb: [4, far, 3 * far, 3 * far], at: 2 ** 20 }
    using run = graph(
      [
        { type: f32, ne: [8, 4] },
        spread,
        { type: f32, ne: [8, 2, 3], op: op.getRows, src: [1, 2] },
        { type: i32, ne: [2], at: 2 ** 20 + 2 * far },
      ],
      [3],
      [[0, 1, 4]],
      way,
      threadCount,
    )
    run.set(4, integers(3, 3))
    expect(run.compute()).toBe(0)
    run.set(4, integers(3, -1))
    expect(run.compute()).toBe(BAD_INDEX)
    expect(run.bad()).toEqual([2, op.getRows, 1, -1, 4, 1, 2, 0, 0])
  })

  test("an optimizer step writes the tensor that it improves", () => {
    using run = graph(
      [
        { type: f32, ne: [4] },
        { type: f32, ne: [4] },
        { type: f32, ne: [2] },
        { type: f32, ne: [4], op: op.optStepSgd, src: [1, 2, 3] },
        { type: f32, ne: [8, 4] },
        { type: i32, ne: [4], at: 0 },
        { type: f32, ne: [8, 4], op: op.getRows, src: [5, 6] },
      ],
      [4, 7],
      [[1, 1, 4]],
      way,
      threadCount,
    )
    run.set(1, floats(0, 0, 0, 0))
    run.set(2, floats(0, 1, 0, 0))
    run.set(3, floats(1, 0))
    expect(run.compute()).toBe(BAD_INDEX)
    const bitsOfMinusOne = -1082130432
    expect(run.bad()).toEqual([6, op.getRows, 1, bitsOfMinusOne, 4, 1, 0, 0, 0])
  })
})

describe("random graphs stop when a run in one's head finds a bad index, and only then", () => {
  /** Words that copies move around, and gathers take indices from. */
  const WORDS = 32

  const random = (seed: number) => {
    let state = seed
    return (below: number): number => {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0
      return Math.floor((state / 2 ** 32) * below)
    }
  }

  interface Step {
    readonly isCopy: boolean
    readonly from: number
    readonly to: number
    readonly count: number
    readonly stride: number
    readonly limit: number
  }

  const step = (below: (below: number) => number): Step => {
    const isCopy = below(2) === 0
    const count = 1 + below(4)
    const stride = isCopy ? 1 : 1 + below(2)
    const from = below(WORDS / 2 - count * stride)
    const to = WORDS / 2 + below(WORDS / 2 - count)
    // Copies go up or down, and gathers take from both halves.
    const isDown = isCopy && below(2) === 0
    const isUpper = !isCopy && below(2) === 0
    return {
      isCopy,
      from: isDown ? to : isUpper ? from + WORDS / 2 : from,
      to: isDown ? from : to,
      count,
      stride,
      limit: 2 + below(4),
    }
  }

  /** The steps whose indices are bad when they come to it. */
  const follow = (steps: readonly Step[], memory: number[]): number[] =>
    steps.flatMap(({ isCopy, from, to, count, stride, limit }, index) => {
      const taken = Array.from({ length: count }, (_, place) => memory[from + place * stride]!)
      if (isCopy) memory.splice(to, count, ...taken)
      return isCopy || taken.every((value) => value >= 0 && value < limit) ? [] : index
    })

  test.each(Object.entries(ways))("by %s", (_, way) => {
    for (let seed = 1; seed <= 300; seed++) {
      const below = random(seed)
      const steps = Array.from({ length: 12 }, () => step(below))
      const tensors: Tensor[] = [
        { type: i32, ne: [WORDS], at: 0 },
        { type: f32, ne: [1, 8] },
      ]
      const nodes: number[] = []
      const checks: [number, number, number][] = []
      for (const { isCopy, from, to, count, stride, limit } of steps) {
        const nb = [4 * stride, 4 * stride * count, 4 * stride * count, 4 * stride * count]
        const source = tensors.push({ type: i32, ne: [count], nb, at: 4 * from })
        const result = isCopy
          ? { type: i32, ne: [count], at: 4 * to, op: op.cpy, src: [source, source + 1] }
          : { type: f32, ne: [1, count], op: op.getRows, src: [2, source] }
        if (!isCopy) checks.push([nodes.length, 1, limit])
        nodes.push(tensors.push(result))
      }
      using run = graph(tensors, nodes, checks, way, 1)
      for (let round = 0; round < 3; round++) {
        const memory = Array.from({ length: WORDS }, () =>
          below(12) === 0 ? below(9) - 3 : below(2),
        )
        run.set(1, integers(...memory))
        const failing = follow(steps, memory)
        expect([seed, run.compute()]).toEqual([seed, failing.length === 0 ? 0 : BAD_INDEX])
        if (failing.length === 0) continue
        const records = failing.map((failed) => nodes[failed]! - 1)
        expect(records, `seed ${seed}`).toContain(run.bad()[0]!)
      }
    }
  })
})

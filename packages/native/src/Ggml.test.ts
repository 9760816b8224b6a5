import { describe, expect, test } from "bun:test"
import { readFileSync } from "node:fs"
import { Cause, Effect, Exit } from "effect"
import * as Ggml from "./Ggml.ts"
import { io } from "./io.ts"
import type { Device } from "./libggml.ts"
import {
  copyTensor,
  getTensor,
  memsetTensor,
  setTensor,
  type TensorFields,
  tensorRecord,
  tensorRecords,
} from "./tensorRecord.ts"

const run = <A, E>(effect: Effect.Effect<A, E, Ggml.Ggml>): Promise<A> =>
  Effect.runPromise(Effect.provide(effect, Ggml.layer))

const cpu = Effect.gen(function* () {
  const { devices } = yield* Ggml.Ggml
  const device = (yield* devices).find(({ type }) => type === "CPU")
  if (device === undefined) throw new Error("ggml always has a CPU device")
  return device
})

/** ggml.h of v0.5.0. */
const f32 = 0
const q8_0 = 8
const op = { add: 2, mulMat: 29 }

const floats = (...values: ReadonlyArray<number>): Uint8Array =>
  new Uint8Array(Float32Array.from(values).buffer)

const readFloats = (record: Uint8Array, count: number): Array<number> => {
  const target = new Float32Array(count)
  getTensor(record, new Uint8Array(target.buffer))
  return [...target]
}

/** Tensors one after the other in a buffer, each 128 bytes apart. */
const layOut = (
  buffer: Ggml.DeviceBuffer,
  tensors: ReadonlyArray<Omit<TensorFields, "buffer" | "data">>,
): ReadonlyArray<TensorFields> =>
  tensors.map((tensor, index) => ({ ...tensor, buffer, data: buffer.baseAddress + index * 128 }))

describe("devices", () => {
  test("have names, and memory that is read anew", async () => {
    const [first, second] = await run(
      Effect.flatMap(Ggml.Ggml, ({ devices }) => Effect.all([devices, devices])),
    )
    expect(second.map(({ name }) => name)).toEqual(first.map(({ name }) => name))
    const device = first.find(({ type }) => type === "CPU")!
    expect(device.name).toBe("CPU")
    expect(device.description).not.toBe("")
    expect(device.freeBytes).toBeGreaterThan(0)
    expect(device.freeBytes).toBeLessThanOrEqual(device.totalBytes)
  })
})

describe("graph", () => {
  const sizes = { type: f32, ne: [4] }

  test("adds, and multiplies the sum by a matrix", () =>
    run(
      Effect.scoped(
        Effect.gen(function* () {
          const ggml = yield* Ggml.Ggml
          const device = yield* cpu
          const backend = yield* ggml.backend(device, { threads: 1 })
          const buffer = yield* ggml.buffer(device, 4096)
          // d = m · (a + b), m of 2 rows of 4.
          const tensors = layOut(buffer, [
            sizes,
            sizes,
            { type: f32, ne: [4, 2] },
            { ...sizes, op: op.add, src: [1, 2], useCount: 1 },
            { type: f32, ne: [2], op: op.mulMat, src: [3, 4] },
          ])
          const [a, b, m, , d] = tensors.map(tensorRecord)
          setTensor(a!, floats(1, 2, 3, 4))
          setTensor(b!, floats(10, 20, 30, 40))
          setTensor(m!, floats(1, 0, 0, 1, 0.5, 0.5, 0.5, 0.5))
          const graph = yield* ggml.graph(backend, Uint32Array.of(4, 5), tensorRecords(tensors))
          expect(graph.compute()).toBe(0)
          expect(readFloats(d!, 2)).toEqual([55, 55])
          // The records are copied, the data is not: the same graph sees new inputs.
          setTensor(a!, floats(-10, -20, -30, -39))
          expect(graph.compute()).toBe(0)
          expect(readFloats(d!, 2)).toEqual([1, 0.5])
        }),
      ),
    ))

  test("computes through a view", () =>
    run(
      Effect.scoped(
        Effect.gen(function* () {
          const ggml = yield* Ggml.Ggml
          const device = yield* cpu
          const backend = yield* ggml.backend(device)
          const buffer = yield* ggml.buffer(device, 4096)
          const [whole, twice] = layOut(buffer, [
            { type: f32, ne: [4] },
            { type: f32, ne: [2], op: op.add, src: [2, 2] },
          ])
          const view: TensorFields = {
            type: f32,
            ne: [2],
            buffer,
            data: buffer.baseAddress + 8,
            viewSrc: 1,
            viewOffsetBytes: 8,
          }
          setTensor(tensorRecord(whole!), floats(1, 2, 3, 4))
          const graph = yield* ggml.graph(
            backend,
            Uint32Array.of(3),
            tensorRecords([whole!, view, twice!]),
          )
          expect(graph.compute()).toBe(0)
          expect(readFloats(tensorRecord(twice!), 2)).toEqual([6, 8])
        }),
      ),
    ))

  test("stops when the abort flag is raised", () =>
    run(
      Effect.scoped(
        Effect.gen(function* () {
          const ggml = yield* Ggml.Ggml
          const device = yield* cpu
          const abortFlag = Number(io().io_abort_flag())
          const backend = yield* ggml.backend(device, { threads: 1, abortFlag })
          const buffer = yield* ggml.buffer(device, 4096)
          const tensors = layOut(buffer, [
            { type: f32, ne: [4] },
            { type: f32, ne: [4], op: op.add, src: [1, 1] },
            { type: f32, ne: [4], op: op.add, src: [2, 2] },
          ])
          const graph = yield* ggml.graph(backend, Uint32Array.of(2, 3), tensorRecords(tensors))
          expect(graph.compute()).toBe(0)
          io().io_raise_abort()
          expect(graph.compute()).toBe(1)
          // Watching nobody lowers the flag.
          io().io_watch_client(-1)
          expect(graph.compute()).toBe(0)
        }),
      ),
    ))

  test("refuses nodes without a record, before native code sees them", async () => {
    const exit = await Effect.runPromiseExit(
      Effect.gen(function* () {
        const ggml = yield* Ggml.Ggml
        const device = yield* cpu
        const backend = yield* ggml.backend(device)
        return yield* ggml.graph(backend, Uint32Array.of(2), new Uint8Array(296))
      }).pipe(Effect.scoped, Effect.provide(Ggml.layer)),
    )
    expect(Exit.isFailure(exit) && Cause.pretty(exit.cause)).toContain("nodes from 1")
  })
})

describe("tensors", () => {
  const withTwo = (
    use: (first: Uint8Array, second: Uint8Array, buffer: Ggml.DeviceBuffer) => void,
  ): Promise<void> =>
    run(
      Effect.scoped(
        Effect.gen(function* () {
          const ggml = yield* Ggml.Ggml
          const buffer = yield* ggml.buffer(yield* cpu, 256)
          const [first, second] = layOut(buffer, [
            { type: f32, ne: [2, 2] },
            { type: f32, ne: [2, 2] },
          ]).map(tensorRecord)
          use(first!, second!, buffer)
        }),
      ),
    )

  test("are written and read in part", () =>
    withTwo((first) => {
      setTensor(first, floats(1, 2, 3, 4))
      setTensor(first, floats(7), 8)
      expect(readFloats(first, 4)).toEqual([1, 2, 7, 4])
      const part = new Uint8Array(4)
      getTensor(first, part, 4)
      expect([...part]).toEqual([...floats(2)])
    }))

  test("are copied, set to a byte and cleared", () =>
    withTwo((first, second, buffer) => {
      setTensor(first, floats(1, 2, 3, 4))
      expect(copyTensor(first, second)).toBe(true)
      expect(readFloats(second, 4)).toEqual([1, 2, 3, 4])
      memsetTensor(second, 0, 4, 8)
      expect(readFloats(second, 4)).toEqual([1, 0, 0, 4])
      expect(readFloats(first, 4)).toEqual([1, 2, 3, 4])
      buffer.clear(0)
      expect(readFloats(first, 4)).toEqual([0, 0, 0, 0])
    }))

  test("have ggml's strides", () => {
    const strides = (type: number, ne: ReadonlyArray<number>) => {
      const record = tensorRecord({ type, ne, buffer: { address: 0 }, data: 0 })
      const view = new DataView(record.buffer)
      return [36, 40, 44, 48].map((offset) => view.getUint32(offset, true))
    }
    expect(strides(f32, [4, 3, 2])).toEqual([4, 16, 48, 96])
    // Q8_0 packs 32 elements into 34 bytes.
    expect(strides(q8_0, [64, 3])).toEqual([34, 68, 204, 204])
  })

  test("keep the end of a name for its terminator", () => {
    const record = tensorRecord({
      type: f32,
      ne: [1],
      buffer: { address: 0 },
      data: 0,
      name: "n".repeat(100),
    })
    expect(record[228 + 62]).toBe("n".charCodeAt(0))
    expect(record[228 + 63]).toBe(0)
  })
})

describe("buffers", () => {
  const residentBytes = (): number =>
    Number(readFileSync("/proc/self/statm", "utf8").split(" ")[1]) * 4096

  test("go with their scope", async () => {
    const sizeBytes = 64 * 2 ** 20
    const use = run(
      Effect.scoped(
        Effect.gen(function* () {
          const ggml = yield* Ggml.Ggml
          const buffer = yield* ggml.buffer(yield* cpu, sizeBytes)
          buffer.clear(1)
          return buffer
        }),
      ),
    )
    const buffer = await use
    expect(buffer.sizeBytes).toBe(sizeBytes)
    expect(buffer.isHost).toBe(true)
    if (process.platform !== "linux") return
    const before = residentBytes()
    for (let i = 0; i < 8; i++) {
      await run(
        Effect.scoped(
          Effect.gen(function* () {
            const ggml = yield* Ggml.Ggml
            const again = yield* ggml.buffer(yield* cpu, sizeBytes)
            again.clear(1)
          }),
        ),
      )
    }
    // Kept, they would be 8 times as much.
    expect(residentBytes() - before).toBeLessThan(2 * sizeBytes)
  })

  test("that a device cannot hold say which device, how much, and what is free", async () => {
    const device: Device = await run(cpu)
    const error = await run(
      Effect.scoped(
        Effect.gen(function* () {
          const ggml = yield* Ggml.Ggml
          return yield* Effect.flip(ggml.buffer(device, 2 ** 50))
        }),
      ),
    )
    expect(error._tag).toBe("BufferAllocError")
    expect(error.sizeBytes).toBe(2 ** 50)
    expect(error.device).toBe("CPU")
    expect(error.freeBytes).toBeGreaterThan(0)
    expect(error.log).toContain("failed to allocate")
    expect(error.message).toMatch(
      /^The device CPU cannot allocate 1125899906842624 bytes \(\d+ are free\): /,
    )
  })
})

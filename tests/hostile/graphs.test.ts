/**
 * Graphs whose tensors all lie inside their buffers, and that ggml's kernels would not survive: one of each kind. Each is
 * refused in a line that names the operation, and another client computes on.
 */
import { describe, expect, test } from "bun:test"
import { Command, TensorFlag, typeId } from "@ggml-rpc/protocol"
import {
  f32Tensor,
  floats,
  newestOpId,
  node,
  sources,
} from "../../packages/server/test/TestClient.ts"
import { tensorsOf, VALID_NODE_BYTES, validNodes } from "../../packages/server/test/validNodes.ts"
import { type Attack, attackServer, changed, compute, dense, params, refuses } from "./attack.ts"

attackServer()

describe("graphs that fit their buffers", () => {
  const MIB = 2 ** 20

  const layouts: ReadonlyArray<readonly [string, Attack, string]> = [
    [
      "CLAMP writes a plane at a chosen distance",
      changed("CLAMP", {
        0: dense([1, 1, 2, 1]),
        [-1]: { ne: [1, 1, 2, 1], nb: [4, 16 * MIB, 0, 0] },
      }),
      "CLAMP",
    ],
    [
      "LEAKY_RELU reads a row 16 MiB behind a buffer of 64 bytes",
      async (client, target) => {
        const small = await client.allocate(64)
        compute(client, [
          f32Tensor(1, small, 0, [8, 1, 2], { nb: [4, 16 * MIB, 32, 64] }),
          f32Tensor(2, target, 0, [8, 1, 2], node("LEAKY_RELU", 1)),
        ])
      },
      "LEAKY_RELU",
    ],
    ["a result whose rows overlap", changed("ADD", { [-1]: { nb: [4, 16, 128, 256] } }), "ADD"],
    ["a result of stride 0", changed("SOFT_MAX", { [-1]: { nb: [4, 0, 0, 0] } }), "SOFT_MAX"],
    [
      "a result whose elements lie apart",
      changed("RMS_NORM", { [-1]: { nb: [8, 64, 256, 512] } }),
      "RMS_NORM",
    ],
    [
      "a result that partly overlaps its source",
      (client, buffer) =>
        compute(client, [
          f32Tensor(1, buffer, 0, [8, 4]),
          f32Tensor(2, buffer, 48, [8, 4], node("CUMSUM", 1)),
        ]),
      "CUMSUM",
    ],
    [
      "an empty source of a result that is not",
      changed("SUM_ROWS", { 0: dense([0, 4, 2, 1]) }),
      "SUM_ROWS",
    ],
  ]
  test.each(layouts)("%s", (_, attack, op) => refuses(attack, "GRAPH_COMPUTE: tensors[", op))

  const kernels: ReadonlyArray<readonly [string, Attack, string]> = [
    [
      "ADD of integers, for which there is no kernel",
      changed("ADD", {
        0: { type: typeId("I32") },
        1: { type: typeId("I32") },
        [-1]: { type: typeId("I32") },
      }),
      "ADD",
    ],
    [
      "MUL_MAT with the hint of a Hadamard matrix",
      changed("MUL_MAT", { [-1]: params(0, 1) }),
      "MUL_MAT",
    ],
    [
      "MUL_MAT of a type without a dot product",
      changed("MUL_MAT", { 0: { type: typeId("I32") } }),
      "MUL_MAT",
    ],
    [
      "MUL_MAT_ID of a type without a dot product",
      changed("MUL_MAT_ID", { 0: { type: typeId("I32") } }),
      "MUL_MAT_ID",
    ],
    [
      "FLASH_ATTN_EXT with keys of a type without a dot product",
      changed("FLASH_ATTN_EXT", { 1: { type: typeId("I16") } }),
      "FLASH_ATTN_EXT",
    ],
    [
      "SET_ROWS to integers",
      changed("SET_ROWS", { 2: { type: typeId("I16") }, [-1]: { type: typeId("I16") } }),
      "SET_ROWS",
    ],
    [
      "COUNT_EQUAL of four dimensions",
      changed("COUNT_EQUAL", { 0: dense([8, 4, 1, 3]), 1: dense([8, 4, 1, 3]) }),
      "COUNT_EQUAL",
    ],
  ]
  test.each(kernels)("%s", (_, attack, op) => refuses(attack, "GRAPH_COMPUTE: tensors[", op))

  test.each(["ROPE", "ROPE_BACK"])("%s of rows with an odd number of elements", (op) =>
    refuses(
      (client, buffer) => {
        const source = f32Tensor(1, buffer, 0, [7, 4, 3])
        const positions = f32Tensor(2, buffer, 4096, [3], { type: typeId("I32") })
        const rope = { ...node(op, 1, 2), ...params(0, 6, 0, 0, 0, 0x461c_4000, 0x3f80_0000) }
        compute(client, [source, positions, f32Tensor(3, buffer, 8192, [7, 4, 3], rope)])
      },
      "GRAPH_COMPUTE: tensors[2]",
      op,
    ),
  )
})

describe("numbers in index tensors", () => {
  /** The operation, its index tensor, and how many bytes a number in it has. */
  const indexed: ReadonlyArray<readonly [op: string, source: number, bytes: number]> = [
    ["GET_ROWS", 1, 4],
    ["GET_ROWS_BACK", 1, 4],
    ["SET_ROWS", 1, 8],
    ["ADD_ID", 2, 4],
    ["MUL_MAT_ID", 2, 4],
    ["SSM_SCAN", 6, 4],
  ]
  const numbers = (values: readonly number[], bytes: number): Uint8Array =>
    bytes === 8
      ? new Uint8Array(new BigInt64Array(values.map(BigInt)).buffer)
      : new Uint8Array(new Int32Array(values).buffer)

  const cases = indexed.flatMap(([op, source, bytes]) =>
    [-1, 1_000_000].map((value) => [op, value, source, bytes] as const),
  )
  test.each(cases)("%s with index %d", (op, value, source, bytes) =>
    refuses(
      (client, buffer) => {
        const tensors = tensorsOf(validNodes.find((candidate) => candidate.op === op)!, buffer)
        client.send(Command.BUFFER_CLEAR, { remotePtr: buffer.remotePtr, value: 0 })
        client.setTensor(tensors[source]!, numbers([value], bytes))
        compute(client, tensors)
      },
      "GRAPH_COMPUTE: ",
      op,
    ),
  )

  test("MUL_MAT_ID with ids that an earlier node of the graph computed", () =>
    refuses(
      (client, buffer) => {
        const tensors = tensorsOf(validNodes.find(({ op }) => op === "MUL_MAT_ID")!, buffer)
        const values = f32Tensor(9, buffer, VALID_NODE_BYTES - 4096, [64, 5])
        const ids = {
          ...tensors[2]!,
          ...{ op: newestOpId("ARGSORT"), flags: TensorFlag.COMPUTE, src: sources(9) },
        }
        // The whole sorting is what is written; the ids are its first two columns, of 64 experts where there are 4.
        const sorted = { ...ids, id: 10n, ...dense([64, 5, 1, 1]) }
        const view = {
          ...tensors[2]!,
          ...{ op: newestOpId("VIEW"), src: sources(10), viewSrc: 10n, nb: [4, 256, 1280, 1280] },
        }
        client.send(Command.BUFFER_CLEAR, { remotePtr: buffer.remotePtr, value: 0 })
        const falling = Array.from({ length: 320 }, (_, index) => -(index % 64))
        client.setTensor(values, floats(...falling))
        compute(client, [...tensors.toSpliced(2, 1, view), values, sorted], [10n, 3n, 4n])
      },
      "GRAPH_COMPUTE: ",
      "MUL_MAT_ID",
    ))

  test("GRAPH_RECOMPUTE of ids that were changed after GRAPH_COMPUTE", () =>
    refuses(
      async (client, buffer) => {
        const tensors = tensorsOf(validNodes.find(({ op }) => op === "MUL_MAT_ID")!, buffer)
        client.send(Command.BUFFER_CLEAR, { remotePtr: buffer.remotePtr, value: 0 })
        compute(client, tensors)
        expect((await client.ask(Command.DEVICE_COUNT, {})).deviceCount).toBe(1)
        client.setTensor(tensors[2]!, numbers([1_000_000], 4))
        client.send(Command.GRAPH_RECOMPUTE, { device: 0, uid: 1n })
      },
      "GRAPH_RECOMPUTE: ",
      "MUL_MAT_ID",
    ))
})

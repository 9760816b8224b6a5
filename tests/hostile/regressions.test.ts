/**
 * Published attacks on ggml's RPC server: each ends in a line that says what is wrong, in the attacker's own session, before
 * ggml sees it. Another client computes on.
 */
import { describe, test } from "bun:test"
import { Command, encodeRequest, type RpcTensor, typeId } from "@ggml-rpc/protocol"
import type { TestClient } from "../../packages/server/test/TestClient.ts"
import { f32Tensor, node } from "../../packages/server/test/TestClient.ts"
import { attackServer, changed, compute, dense, params, refuses } from "./attack.ts"

attackServer()

const setTensor = (client: TestClient, tensor: RpcTensor, data = new Uint8Array(4)): void =>
  client.send(Command.SET_TENSOR, { tensor, cacheFlag: 0, offsetBytes: 0n, data })

describe("published", () => {
  test("CVE-2024-42477: a type beyond all types", () =>
    refuses(
      (client, buffer) => setTensor(client, f32Tensor(1, buffer, 0, [4], { type: 1000 })),
      "SET_TENSOR: tensor.type is no type of ggml (got 1000)",
    ))

  test("CVE-2024-42478: GET_TENSOR of any address", () =>
    refuses(
      (client, buffer) =>
        client.send(Command.GET_TENSOR, {
          tensor: f32Tensor(1, buffer, 0, [4], { data: 0x7fff_0000_0000n }),
          offsetBytes: 0n,
          sizeBytes: 16n,
        }),
      "GET_TENSOR: tensor.data lies outside its buffer",
    ))

  test("CVE-2024-42479: SET_TENSOR to any address", () =>
    refuses(
      (client, buffer) =>
        setTensor(client, f32Tensor(1, buffer, 0, [4], { data: 0x7fff_0000_0000n })),
      "SET_TENSOR: tensor.data lies outside its buffer",
    ))

  test("ggml 1103: COPY_TENSOR of more than fits behind the target", () =>
    refuses(async (client) => {
      const [small, large] = [await client.allocate(64), await client.allocate(4096)]
      const [src, dst] = [f32Tensor(1, large, 0, [1024]), f32Tensor(2, small, 0, [16])]
      client.send(Command.COPY_TENSOR, { src, dst })
    }, "COPY_TENSOR: dst.data has 64 bytes to the end of its buffer, src needs (got 4096)"))

  test.each([
    ["GET_TENSOR", (tensor: RpcTensor) => ({ tensor, offsetBytes: 0n, sizeBytes: 16n })],
    [
      "SET_TENSOR",
      (tensor: RpcTensor) => ({
        ...{ tensor, cacheFlag: 0, offsetBytes: 0n },
        data: new Uint8Array(16),
      }),
    ],
  ] as const)("CVE-2026-34159: %s with buffer 0", (command, request) =>
    refuses((client, buffer) => {
      const tensor = f32Tensor(1, buffer, 0, [4], { buffer: 0n, data: 0x7fff_0000_0000n })
      client.write(encodeRequest(Command[command], request(tensor) as never))
    }, `${command}: tensor.buffer is no buffer of this connection (got 0x0)`),
  )

  test("CVE-2026-34159: a graph over a tensor with buffer 0", () =>
    refuses(
      changed("ADD", { 0: { buffer: 0n, data: 0x7fff_0000_0000n } }),
      "GRAPH_COMPUTE: tensors[0].data must be 0 for a tensor without a buffer",
    ))

  test("GHSA-2phh-px2f-2qmx: GRAPH_RECOMPUTE after FREE_BUFFER", () =>
    refuses(async (client, buffer) => {
      await changed("ADD", {})(client, buffer)
      client.send(Command.FREE_BUFFER, { remotePtr: buffer.remotePtr })
      client.send(Command.GRAPH_RECOMPUTE, { device: 0, uid: 1n })
    }, "GRAPH_RECOMPUTE: device has no computed graph under uid"))

  test.each(["CUSTOM", "MAP_CUSTOM1", "MAP_CUSTOM2", "MAP_CUSTOM3"])(
    "CVE-2026-78147: %s with a function pointer in op_params",
    (op) =>
      refuses(
        (client, buffer) =>
          compute(client, [
            f32Tensor(1, buffer, 0, [4]),
            f32Tensor(2, buffer, 64, [4], {
              ...{ ...node(op, 1), ...params(0x4141_4141, 0x4141) },
            }),
          ]),
        "GRAPH_COMPUTE: tensors[1].op calls a function of the client, which is never run",
        op,
      ),
  )

  test("llama.cpp 25299: node id 0", () =>
    refuses(
      (client, buffer) => compute(client, [f32Tensor(1, buffer, 0, [4])], [0n]),
      "GRAPH_COMPUTE: nodes[0] must not be 0",
    ))

  test.each(["SET_TENSOR", "GET_TENSOR", "INIT_TENSOR", "COPY_TENSOR", "GRAPH_COMPUTE"] as const)(
    "llama.cpp 25288: %s with ne[0] off the block size",
    (command) =>
      refuses(
        (client, buffer) => {
          const tensor = f32Tensor(1, buffer, 0, [1], { type: typeId("Q4_0") })
          const range = { tensor, offsetBytes: 0n }
          const request = {
            SET_TENSOR: { ...range, cacheFlag: 0, data: new Uint8Array(4) },
            GET_TENSOR: { ...range, sizeBytes: 4n },
            INIT_TENSOR: { tensor },
            COPY_TENSOR: { src: tensor, dst: tensor },
            GRAPH_COMPUTE: { uid: 1n, device: 0, nodes: [1n], tensors: [tensor] },
          }[command]
          client.write(encodeRequest(Command[command], request as never))
        },
        `${command}: `,
        "ne[0] must be a multiple of the type's block size 32 (got 1)",
      ),
  )

  test("llama.cpp 26825: GET_ROWS of more planes than there are", () =>
    refuses(
      changed("GET_ROWS", { 0: dense([8, 5, 1, 1]), 1: { type: typeId("I32") } }),
      "GRAPH_COMPUTE: tensors[2]",
      "GET_ROWS",
    ))

  test("llama.cpp 26912: SET_ROWS into fewer planes than are written", () =>
    refuses(
      changed("SET_ROWS", {
        2: { ...dense([8, 5, 1, 1], 2), nb: [2, 16, 2 ** 20, 2 ** 20] },
        3: { ...dense([8, 5, 1, 1], 2), nb: [2, 16, 2 ** 20, 2 ** 20] },
      }),
      "GRAPH_COMPUTE: tensors[3]",
      "SET_ROWS",
    ))

  test.each(["ACC", "SET"])("llama.cpp 25764: %s with strides that cancel out", (op) =>
    refuses(
      changed(op, { 1: dense([2, 2, 2, 1]), [-1]: params(-(2 ** 20), 2 ** 20, 2 ** 20, 0, 1) }),
      "GRAPH_COMPUTE: tensors[2] cannot be computed: op_params[",
      op,
    ),
  )

  test("llama.cpp 25704: GATED_DELTA_NET with more snapshots than the result holds", () =>
    refuses(
      changed("GATED_DELTA_NET", { [-1]: params(1000) }),
      "GRAPH_COMPUTE: tensors[6] cannot be computed: ",
      "GATED_DELTA_NET",
    ))
})

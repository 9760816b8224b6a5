/** Several contexts on one server: each waits for its own answers. */
import { expect, test } from "bun:test"
import { join } from "node:path"
import { Command, encodeResponse, GetTensorRequest, HelloExtension } from "@ggml-rpc/protocol"
import { goodAnswers, helloOf, startFakeServer } from "./fakeServer.ts"
import { ensureModel } from "./models/models.ts"

const LATE_MS = 1500

/** Of `HelloExtension`: the flags, and no commands. */
const FLAGS_LEVEL = 1

const child = join(
  import.meta.dir,
  "..",
  "packages",
  "client",
  "src",
  "devices",
  "twoContexts.testChild.ts",
)

interface Said {
  readonly statuses: ReadonlyArray<number>
  /** How long each context waited for its logits, in ms. */
  readonly waits: readonly [number, number]
  /** The first one of each context. */
  readonly logits: ReadonlyArray<number>
  readonly failure: string | null
}

test("a context does not wait for what another asked for later", async () => {
  let buffers = 0n
  let reads = 0
  using server = startFakeServer({
    ...goodAnswers,
    [Command.HELLO]: () =>
      helloOf(7, 0, 0, FLAGS_LEVEL | HelloExtension.NO_CACHE | HelloExtension.PLAIN_SIZES),
    [Command.ALLOC_BUFFER]: () =>
      encodeResponse(Command.ALLOC_BUFFER, {
        remotePtr: ++buffers,
        remoteSizeBytes: 64n * 2n ** 20n,
      }),
    [Command.BUFFER_GET_BASE]: () =>
      encodeResponse(Command.BUFFER_GET_BASE, { basePtr: buffers << 32n }),
    [Command.GET_TENSOR]: (payload) => {
      const view = new DataView(payload.buffer, payload.byteOffset, payload.length)
      const sizeBytes = Number(view.getBigUint64(GetTensorRequest.offsets.sizeBytes, true))
      const data = new Uint8Array(new Float32Array(sizeBytes / 4).fill(++reads).buffer)
      const answer = encodeResponse(Command.GET_TENSOR, { data })
      return reads === 1 ? answer : Bun.sleep(LATE_MS).then(() => answer)
    },
  })
  const running = Bun.spawn(
    [process.execPath, child, String(server.port), await ensureModel("tiny")],
    { stdio: ["ignore", "pipe", "inherit"] },
  )
  const { statuses, waits, logits, failure } = JSON.parse(await running.stdout.text()) as Said
  expect({ statuses, logits, failure }).toEqual({
    statuses: [0, 0],
    logits: [1, 2],
    failure: null,
  })
  expect(waits[0]).toBeLessThan(LATE_MS / 2)
  expect(waits[1]).toBeGreaterThan(LATE_MS / 2)
}, 60_000)

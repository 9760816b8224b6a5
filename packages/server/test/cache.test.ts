import { afterEach, beforeEach, describe, expect, test } from "bun:test"
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { Command, encodeExtensionRequest, encodeRequest, type RpcTensor } from "@ggml-rpc/protocol"
import { fnv1a64 } from "../../protocol/fixtures/fnv1a64.ts"
import { f32Tensor, TestClient } from "./TestClient.ts"
import { withServer } from "./withServer.ts"

let folder: string

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "ggml-rpc-cache-"))
})

afterEach(() => rmSync(folder, { recursive: true }))

const data = new Uint8Array(300_000).map((_, index) => index * 13)
const hash = fnv1a64(data)
const name = hash.toString(16).padStart(16, "0")

/** A client with a tensor for the data, some bytes longer than that. */
const open = async (port: number, longer = 0) => {
  const client = await TestClient.connect(port)
  const sizeBytes = data.length + longer
  const buffer = await client.allocate(sizeBytes)
  return { client, tensor: f32Tensor(1, buffer, 0, [sizeBytes / 4]) }
}

/** The files of the cache, and those that are not finished. */
const files = (): string[] =>
  readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => entry.name)
    .sort()

/** With all data in the cache, however small. */
const cached = { cacheMinBytes: 1 }

const offer = async (client: TestClient, tensor: RpcTensor, offset = 0): Promise<number> =>
  (await client.ask(Command.SET_TENSOR_HASH, { tensor, offsetBytes: BigInt(offset), hash })).result

test.each([true, false])(
  "data with the flag is stored, and loaded by the next client, at any offset (direct: %p)",
  (directMemory) =>
    withServer({ cacheDir: folder, ...cached, directMemory }, async ({ port, cacheDir }) => {
      expect(cacheDir).toBe(folder)
      const first = await open(port)
      expect(await offer(first.client, first.tensor)).toBe(0)
      first.client.setTensor(first.tensor, data, 0, 1)
      await first.client.getTensor(first.tensor, 1)
      expect(files()).toEqual([name])
      expect(Buffer.compare(readFileSync(join(folder, name)), data)).toBe(0)
      first.client.close()
      const second = await open(port, 1000)
      // Nothing may lie behind the tensor's end.
      expect(await offer(second.client, second.tensor, 1001)).toBe(0)
      for (const offset of [0, 1000]) {
        expect(await offer(second.client, second.tensor, offset)).toBe(1)
      }
      const loaded = await second.client.getTensor(second.tensor, data.length, 1000)
      expect(Buffer.compare(loaded, data)).toBe(0)
      second.client.close()
    }),
)

test("an upload that breaks off leaves nothing behind", () =>
  withServer({ cacheDir: folder, ...cached, directMemory: false }, async ({ port, logged }) => {
    const { client, tensor } = await open(port)
    const whole = encodeRequest(Command.SET_TENSOR, {
      tensor,
      cacheFlag: 1,
      offsetBytes: 0n,
      data,
    })
    client.write(whole.subarray(0, whole.length - 1000))
    while (!files().some((file) => file.endsWith(".part"))) await Bun.sleep(1)
    client.write(new Uint8Array(1))
    client.close()
    // A line of the debug level, when the session is over.
    await logged("left")
    expect(files()).toEqual([])
  }))

test("a server removes what others, that were killed, have left unfinished long ago", async () => {
  // Where they are written now, and where older servers wrote them.
  const [old, older, fresh] = [
    ...[".parts-1000/.123-0.part", ".125-0.part", ".parts-1000/.124-0.part"],
  ].map((file) => join(folder, file))
  mkdirSync(join(folder, ".parts-1000"))
  for (const path of [old!, older!, fresh!, join(folder, name)]) writeFileSync(path, data)
  const hourAgo = Date.now() / 1000 - 3600
  for (const path of [old!, older!, join(folder, name)]) utimesSync(path, hourAgo, hourAgo)
  await withServer({ cacheDir: folder, ...cached }, async () => {
    expect(files()).toEqual([".124-0.part", name])
  })
})

test("data that costs less to send than to ask for is not stored", () =>
  withServer({ cacheDir: folder }, async ({ port }) => {
    const { client, tensor } = await open(port)
    client.setTensor(tensor, data.subarray(0, 1020), 0, 1)
    await client.getTensor(tensor, 1)
    expect(files()).toEqual([])
    client.close()
  }))

test("two servers whose clients store more than one folder may have give each its own bytes", async () => {
  const limits = { ...cached, cacheDir: folder, cacheLimitBytes: 3 * data.length }
  const payload = (seed: number): Uint8Array<ArrayBuffer> => data.map((byte) => byte ^ seed)
  await withServer(limits, (first) =>
    withServer(limits, async (second) => {
      const work = async (port: number, start: number): Promise<void> => {
        for (let seed = start; seed < start + 12; seed++) {
          const bytes = payload(seed % 16)
          const { client, tensor } = await open(port)
          const request = { tensor, offsetBytes: 0n, hash: fnv1a64(bytes) }
          const { result } = await client.ask(Command.SET_TENSOR_HASH, request)
          if (result === 0) client.setTensor(tensor, bytes, 0, 1)
          expect(Buffer.compare(await client.getTensor(tensor, bytes.length), bytes)).toBe(0)
          client.close()
        }
      }
      await Promise.all([work(first.port, 0), work(second.port, 4), work(second.port, 8)])
      const stored = readdirSync(folder).filter((file) => !file.startsWith("."))
      expect(stored.length).toBeWithin(1, 5)
      for (const file of stored) {
        expect(
          fnv1a64(readFileSync(join(folder, file)))
            .toString(16)
            .padStart(16, "0"),
        ).toBe(file)
      }
    }),
  )
})

test("what cannot be stored is told once, with the reason", () =>
  withServer({ cacheDir: folder, ...cached, cacheLimitBytes: 1000 }, async ({ port, log }) => {
    for (let round = 0; round < 3; round++) {
      const { client, tensor } = await open(port)
      client.setTensor(tensor, data, 0, 1)
      await client.getTensor(tensor, 1)
      client.close()
    }
    const warnings = log.filter(({ level }) => level === "warning")
    expect(warnings.map(({ message }) => message)).toEqual([
      "the cache does not take all weights: a weight of 293 KiB is above the limit of 0.98 KiB (--cache-size)",
    ])
    expect(files()).toEqual([])
  }))

test("data without the flag is not stored", () =>
  withServer({ cacheDir: folder, ...cached }, async ({ port }) => {
    const { client, tensor } = await open(port)
    client.setTensor(tensor, data, 0, 0)
    await client.getTensor(tensor, 1)
    expect(files()).toEqual([])
    client.close()
  }))

test("without a cache nothing is stored, and the answer is 0 without a look at the tensor", () =>
  withServer({}, async ({ port }) => {
    const { client, tensor } = await open(port)
    expect(await offer(client, { ...tensor, type: 99 })).toBe(0)
    client.setTensor(tensor, data, 0, 1)
    expect(await offer(client, tensor)).toBe(0)
    client.close()
  }))

test("a damaged file is not served, and the connection lives", () =>
  withServer({ cacheDir: folder, ...cached }, async ({ port, log }) => {
    const { client, tensor } = await open(port)
    for (const bytes of [data.subarray(1), Buffer.concat([data, data]), data.toReversed()]) {
      writeFileSync(join(folder, name), bytes)
      expect(await offer(client, tensor)).toBe(0)
    }
    client.setTensor(tensor, data, 0, 1)
    expect(await offer(client, tensor)).toBe(1)
    expect(log.filter(({ level }) => level === "error")).toEqual([])
    client.close()
  }))

test("a bad tensor in an offer that the cache could serve is refused", () =>
  withServer({ cacheDir: folder, ...cached }, async ({ port, logged }) => {
    writeFileSync(join(folder, name), data)
    const cases: ReadonlyArray<readonly [Partial<RpcTensor>, bigint, string]> = [
      [{ buffer: 0n, data: 0n }, 0n, "tensor.buffer is no buffer"],
      [{ type: 99 }, 0n, "tensor.type is no type of ggml (got 99)"],
      [{}, 2n ** 64n - 8n, "offset lies outside the tensor's 300000 bytes"],
    ]
    for (const [fields, offsetBytes, expected] of cases) {
      const { client, tensor } = await open(port)
      client.send(Command.SET_TENSOR_HASH, { tensor: { ...tensor, ...fields }, offsetBytes, hash })
      await client.closed
      await logged(`SET_TENSOR_HASH: ${expected}`)
    }
  }))

describe("many offers at once", () => {
  const payload = (seed: number): Uint8Array<ArrayBuffer> => data.map((byte) => byte ^ seed)

  const answerOf = async (client: TestClient): Promise<readonly number[]> => {
    const header = await client.read(8)
    return [
      ...(await client.read(new DataView(header.buffer, header.byteOffset).getUint32(0, true))),
    ]
  }

  test.each([true, false])(
    "are answered one by one, and none for another (direct: %p)",
    (directMemory) =>
      withServer({ cacheDir: folder, ...cached, directMemory }, async ({ port }) => {
        const count = 20
        // Of every third nothing is there, and of some another thing than the name says.
        for (let index = 0; index < count; index++) {
          const bytes = payload(index)
          const file = join(folder, fnv1a64(bytes).toString(16).padStart(16, "0"))
          if (index % 3 > 0) writeFileSync(file, index % 7 === 1 ? payload(index + 1) : bytes)
        }
        const client = await TestClient.connect(port)
        const buffer = await client.allocate(count * data.length)
        const tensors = Array.from({ length: count }, (_, index) =>
          f32Tensor(index + 1, buffer, index * data.length, [data.length / 4]),
        )
        const expected = tensors.map((_, index) => (index % 3 > 0 && index % 7 !== 1 ? 1 : 0))
        // The second time some are known to be good.
        for (let round = 0; round < 2; round++) {
          client.write(
            encodeExtensionRequest(
              "OFFER_WEIGHTS",
              tensors.map((tensor, index) => ({
                ...{ tensor, offsetBytes: 0n, hash: fnv1a64(payload(index)) },
              })),
            ),
          )
          expect(await answerOf(client)).toEqual(expected)
          for (const [index, tensor] of tensors.entries()) {
            if (expected[index] === 0) continue
            const loaded = await client.getTensor(tensor, data.length)
            expect(Buffer.compare(loaded, payload(index))).toBe(0)
          }
          for (const tensor of tensors) client.setTensor(tensor, new Uint8Array(data.length))
        }
        client.close()
      }),
  )

  test("are refused when one of them is bad, or their bytes are no whole number", () =>
    withServer({ cacheDir: folder, ...cached }, async ({ port, logged }) => {
      writeFileSync(join(folder, name), data)
      const first = await open(port)
      const good = { tensor: first.tensor, offsetBytes: 0n, hash }
      const bad = { ...good, tensor: { ...first.tensor, type: 99 } }
      first.client.write(encodeExtensionRequest("OFFER_WEIGHTS", [good, bad]))
      await first.client.closed
      await logged("OFFER_WEIGHTS: tensor.type is no type of ggml (got 99)")
      const second = await open(port)
      const request = encodeExtensionRequest("OFFER_WEIGHTS", [good])
      new DataView(request.buffer).setUint32(1, request.length - 9 + 8, true)
      second.client.write(request)
      second.client.write(new Uint8Array(8))
      await second.client.closed
      await logged("OFFER_WEIGHTS: payload_size must be a multiple of 312 (got 320)")
      const third = await open(port)
      third.client.write(
        encodeExtensionRequest(
          "OFFER_WEIGHTS",
          Array.from({ length: 129 }, () => good),
        ),
      )
      await third.client.closed
      await logged("OFFER_WEIGHTS: payload_size exceeds the limit of 39936 bytes")
    }))
})

import { afterAll, afterEach, beforeEach, describe, expect, test } from "bun:test"
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { type FakeHub, gitOid, sha256, startFakeHub } from "../test/FakeHub.ts"
import { digestOf } from "./Checksum.ts"
import { type DownloadOptions, type DownloadRequest, download } from "./download.ts"
import type { ModelsError } from "./errors.ts"

const KiB = 1024
const root = mkdtempSync(join(tmpdir(), "ggml-rpc-download-"))
afterAll(() => rmSync(root, { recursive: true, force: true }))

/** Bytes that differ everywhere, so that none can stand in another's place. */
const bytesOf = (sizeBytes: number, seed = 1): Uint8Array<ArrayBuffer> => {
  const bytes = new Uint8Array(sizeBytes)
  for (let at = 0, state = seed; at < sizeBytes; at++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    bytes[at] = state >>> 24
  }
  return bytes
}

let hub: FakeHub
let folder: string
beforeEach(async () => {
  hub = await startFakeHub()
  folder = mkdtempSync(join(root, "to-"))
})
afterEach(async () => hub[Symbol.asyncDispose]())

const content = bytesOf(1000 * KiB)
const CHUNK = 100 * KiB

const requestFor = (more: Partial<DownloadRequest> = {}): DownloadRequest => ({
  url: hub.serveFile("model.gguf", content),
  headers: {},
  path: join(folder, "model.gguf"),
  sizeBytes: content.length,
  digest: digestOf(sha256(content)),
  asker: { name: "model", page: "http://hub/model", hasToken: false },
  ...more,
})

const start = (more: Partial<DownloadRequest> = {}, options: Partial<DownloadOptions> = {}) =>
  download(requestFor(more), {
    signal: new AbortController().signal,
    chunkBytes: CHUNK,
    retryDelayMs: 1,
    ...options,
  })

const failure = async (
  more: Partial<DownloadRequest> = {},
  options: Partial<DownloadOptions> = {},
): Promise<ModelsError> => {
  try {
    await start(more, options)
  } catch (error) {
    return error as ModelsError
  }
  throw new Error("the download succeeded")
}

const arrived = () => new Uint8Array(readFileSync(join(folder, "model.gguf")))
const filesThere = () => readdirSync(folder).sort()
const rangesAsked = () => hub.storageRequests.map(({ range }) => range)

describe("a server with ranges", () => {
  test("is asked for several at a time, each byte once", async () => {
    let running = 0
    let most = 0
    hub.fault = () => {
      most = Math.max(most, ++running)
      setTimeout(() => running--, 20)
      return { pieceDelayMs: 2 }
    }
    const seen: number[] = []
    await start({}, { onProgress: (doneBytes) => seen.push(doneBytes) })
    expect(arrived()).toEqual(content)
    expect(filesThere()).toEqual(["model.gguf"])
    expect(most).toBeGreaterThan(1)
    expect(hub.storageRequests).toHaveLength(10)
    const sizes = rangesAsked().map((range) => range![1] + 1 - range![0])
    expect(sizes.reduce((sum, size) => sum + size)).toBe(content.length)
    expect(seen[0]).toBe(0)
    expect(seen.at(-1)).toBe(content.length)
    expect(seen).toEqual(seen.toSorted((a, b) => a - b))
  })

  test("gives an empty file, and one of a byte", async () => {
    for (const bytes of [new Uint8Array(0), bytesOf(1)]) {
      const url = hub.serveFile("small", bytes)
      await start({ url, sizeBytes: bytes.length, digest: digestOf(sha256(bytes)) })
      expect(arrived()).toEqual(bytes)
    }
  })

  test("a file that Git holds is checked by its object id", async () => {
    await start({ digest: digestOf(gitOid(content)) })
    expect(arrived()).toEqual(content)
    const other = await failure({ digest: digestOf(gitOid(bytesOf(5))) })
    expect(other._tag).toBe("ChecksumError")
  })

  test("replaces an older file only once the new one is whole", async () => {
    writeFileSync(join(folder, "model.gguf"), "older")
    hub.fault = ({ index }) => (index >= 3 ? { status: 404 } : undefined)
    expect((await failure())._tag).toBe("ModelNotFoundError")
    expect(readFileSync(join(folder, "model.gguf"), "utf8")).toBe("older")
    hub.fault = () => undefined
    await start()
    expect(arrived()).toEqual(content)
  })
})

describe("connections that break", () => {
  test("go on where they broke, as long as something comes", async () => {
    hub.fault = ({ index }) => (index % 2 === 0 ? { breakAfter: 30 * KiB } : undefined)
    await start()
    expect(arrived()).toEqual(content)
    // On a busy machine a break may come before its bytes; hardly for all of them.
    const continued = rangesAsked().filter((range) => range![0] % CHUNK > 0)
    expect(continued.length).toBeGreaterThan(3)
  })

  test("that bring nothing end it after five attempts, and what came stays", async () => {
    hub.fault = ({ range }) => (range![0] >= 500 * KiB ? { breakAfter: 0 } : undefined)
    const error = await failure({}, { connections: 1 })
    expect(error._tag).toBe("UnreachableError")
    expect(error.message).toContain("5 times in a row; 500 KiB are here and stay")
    expect(filesThere()).toEqual(["model.gguf.part", "model.gguf.part.json"])
    hub.fault = () => undefined
    hub.storageRequests.length = 0
    await start({}, { connections: 1 })
    expect(arrived()).toEqual(content)
    expect(rangesAsked()[0]![0]).toBe(500 * KiB)
    expect(filesThere()).toEqual(["model.gguf"])
  })

  test("that go silent count as broken", async () => {
    hub.fault = ({ index }) => (index < 2 ? { isSilent: true } : undefined)
    await start({}, { timeoutMs: 100 })
    expect(arrived()).toEqual(content)
  })

  test.each([429, 500, 503])("status %d is asked again", async (status) => {
    hub.fault = ({ index }) => (index % 3 === 0 ? { status } : undefined)
    await start()
    expect(arrived()).toEqual(content)
  })

  test("a server that asks to wait is waited for", async () => {
    const times: number[] = []
    hub.fault = ({ index }) => {
      times.push(performance.now())
      return index === 0 ? { status: 429, headers: { "retry-after": "1" } } : undefined
    }
    await start()
    expect(times[1]! - times[0]!).toBeGreaterThan(950)
  })
})

describe("an abort", () => {
  test("stops at once, keeps what came, and frees what was open", async () => {
    hub.fault = () => ({ pieceDelayMs: 5 })
    const controller = new AbortController()
    const reason = new Error("no longer wanted")
    const running = start(
      {},
      {
        signal: controller.signal,
        onProgress: (doneBytes) => doneBytes > 200 * KiB && controller.abort(reason),
      },
    )
    expect(await running.catch((error) => error)).toBe(reason)
    const asked = hub.storageRequests.length
    await Bun.sleep(50)
    expect(hub.storageRequests).toHaveLength(asked)
    hub.fault = () => undefined
    const first: number[] = []
    await start({}, { onProgress: (doneBytes) => first.push(doneBytes) })
    expect(first[0]).toBeGreaterThan(200 * KiB)
    expect(arrived()).toEqual(content)
  })
})

describe("what was kept", () => {
  /** Leaves a download that broke off behind 300 KiB. */
  const leavePart = async () => {
    hub.fault = ({ range }) => (range![0] >= 300 * KiB ? { status: 404 } : undefined)
    await failure({}, { connections: 1 })
    hub.fault = () => undefined
    hub.storageRequests.length = 0
  }

  test("of another version of the file is not used", async () => {
    await leavePart()
    const other = bytesOf(content.length, 2)
    await start({ url: hub.serveFile("other", other), digest: digestOf(sha256(other)) })
    expect(arrived()).toEqual(other)
    expect(hub.storageRequests).toHaveLength(10)
  })

  test("and is damaged, is fetched anew, once", async () => {
    await leavePart()
    const path = join(folder, "model.gguf.part")
    const bytes = readFileSync(path)
    bytes[1000]! ^= 1
    writeFileSync(path, bytes)
    await start()
    expect(arrived()).toEqual(content)
    expect(hub.storageRequests).toHaveLength(7 + 10)
  })

  test.each([
    ["nothing", ""],
    ["no JSON", "{"],
    ["other counts", JSON.stringify({ doneBytes: [5] })],
  ])("with a journal of %s is begun anew", async (_, text) => {
    await leavePart()
    writeFileSync(join(folder, "model.gguf.part.json"), text)
    await start()
    expect(arrived()).toEqual(content)
    expect(hub.storageRequests).toHaveLength(10)
  })
})

describe("a server without ranges", () => {
  test("gives the file in one piece", async () => {
    hub.fault = () => ({ ignoresRange: true })
    const seen: number[] = []
    await start({}, { onProgress: (doneBytes) => seen.push(doneBytes) })
    expect(arrived()).toEqual(content)
    expect(seen.at(-1)).toBe(content.length)
    // One to find out, one for the file.
    expect(hub.storageRequests).toHaveLength(2)
  })

  test("and with a break is begun anew", async () => {
    hub.fault = ({ index }) =>
      index < 3 ? { ignoresRange: true, breakAfter: 500 * KiB } : { ignoresRange: true }
    await start()
    expect(arrived()).toEqual(content)
  })

  test("of which nobody knows the size", async () => {
    await start({ sizeBytes: undefined, digest: undefined })
    expect(arrived()).toEqual(content)
    hub.fault = () => ({ breakAfter: 10 * KiB })
    const error = await failure({ sizeBytes: undefined, digest: undefined })
    expect(error.message).toContain("5 times in a row")
    expect(filesThere()).toEqual(["model.gguf"])
  })

  test("now and then keeps what came before", async () => {
    hub.fault = ({ index }) => (index === 4 ? { ignoresRange: true } : undefined)
    await start({}, { connections: 1 })
    expect(arrived()).toEqual(content)
    expect(hub.storageRequests).toHaveLength(11)
  })
})

describe("a server that lies", () => {
  test("about the size: told, in both directions", async () => {
    const larger = await failure({ sizeBytes: content.length + 1 })
    expect(larger._tag).toBe("BadAnswerError")
    expect(larger.message).toContain(
      `${content.length + 1} bytes were announced, and the server has ${content.length}`,
    )
    const smaller = await failure({ sizeBytes: content.length - 1 })
    expect(smaller.message).toContain("bytes were announced, and the server has")
    expect(filesThere()).toEqual([])
  })

  test("about the size, without ranges", async () => {
    hub.fault = () => ({ ignoresRange: true })
    const error = await failure({ sizeBytes: content.length + 1 })
    expect(error._tag).toBe("BadAnswerError")
  })

  test("and says more than it has", async () => {
    const sizeBytes = content.length + 50 * KiB
    hub.fault = () => ({ totalBytes: sizeBytes })
    const error = await failure({ sizeBytes })
    expect(error._tag).toBe("BadAnswerError")
    expect(error.message).toMatch(/Content-Range|the server has fewer/)
  })

  test("with other bytes of the right number", async () => {
    hub.serveFile("wrong.gguf", bytesOf(content.length, 3))
    const error = await failure({ url: hub.serveFile("wrong.gguf", bytesOf(content.length, 3)) })
    expect(error._tag).toBe("ChecksumError")
    expect(error.message).toContain(sha256(content))
    expect(filesThere()).toEqual([])
    expect(hub.storageRequests).toHaveLength(10)
  })

  test("with another file in the middle", async () => {
    hub.fault = ({ index }) =>
      index < 3 ? { headers: { etag: '"a"' } } : { headers: { etag: '"b"' } }
    const error = await failure({ etag: '"a"', digest: undefined })
    expect(error.message).toContain("it changed while it was downloaded")
  })

  test("with compressed bytes", async () => {
    hub.fault = () => ({ headers: { "content-encoding": "br" } })
    const error = await failure()
    expect(error.message).toContain("encoding br")
  })
})

test("nobody at the address", async () => {
  const error = await failure({ url: "http://127.0.0.1:1/model.gguf?key=secret" })
  expect(error._tag).toBe("UnreachableError")
  expect(error.message).toContain("http://127.0.0.1:1/model.gguf cannot be read: nobody answers")
  expect(error.message).not.toContain("secret")
})

describe("a disk", () => {
  test("without room is told before the first byte", async () => {
    const error = await failure({ sizeBytes: 2 ** 52 })
    expect(error._tag).toBe("DiskFullError")
    expect(error.message).toContain(folder)
    expect(hub.storageRequests).toHaveLength(0)
    expect(filesThere()).toEqual([])
  })

  test("that cannot be written is told", async () => {
    writeFileSync(join(folder, "file"), "")
    const error = await failure({ path: join(folder, "file", "model.gguf") })
    expect(error._tag).toBe("ModelFolderError")
    expect(error.message).toContain("a part of its path is a file")
    expect(existsSync(join(folder, "model.gguf"))).toBe(false)
  })
})

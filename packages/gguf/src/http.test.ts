import { afterAll, afterEach, beforeAll, describe, expect, test } from "bun:test"
import { mkdtempSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { basename, join } from "node:path"
import { pathToFileURL } from "node:url"
import {
  constantTensor,
  GgufError,
  type GgufToWrite,
  type OpenGgufOptions,
  openGguf,
  openGgufArray,
  readGguf,
  readGgufArray,
  saveGgufHeader,
  writeGguf,
} from "./index.ts"

const RETRY = { retryDelayMs: 1 } as const

let folder = ""
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "ggml-rpc-http-"))
})
afterAll(() => rmSync(folder, { recursive: true, force: true }))

const closing: Array<() => void> = []
afterEach(() => {
  for (const close of closing.splice(0)) close()
})

const write = (name: string, gguf: GgufToWrite): Uint8Array => {
  writeGguf(join(folder, name), gguf)
  return new Uint8Array(readFileSync(join(folder, name)))
}

const tensors = [
  constantTensor("token_embd.weight", "F32", [64], 1),
  constantTensor("blk.0.attn_norm.weight", "F32", [64], 1),
]

/** A header of `tokenCount` × 28 bytes and some. */
const modelBytes = (name: string, tokenCount = 3): Uint8Array =>
  write(name, {
    metadata: [
      ["general.architecture", { type: "string", value: "llama" }],
      [
        "tokens",
        {
          type: "array",
          elementType: "string",
          values: Array.from({ length: tokenCount }, (_, id) => `token ${id}`.padEnd(20, ".")),
        },
      ],
      ["scores", { type: "array", elementType: "float64", values: Array(tokenCount).fill(0.5) }],
    ],
    tensors,
  })

interface Range {
  readonly from: number
  /** Of the last byte, as in the header. */
  readonly last: number
}

const rangeOf = (request: Request): Range => {
  const [, from, last] = /^bytes=(\d+)-(\d+)$/.exec(request.headers.get("range") ?? "") ?? []
  return { from: Number(from), last: Number(last) }
}

/** The right answer to a range. */
const partOf = (bytes: Uint8Array, { from, last }: Range, headers = {}): Response => {
  if (from >= bytes.length) {
    return new Response(null, {
      status: 416,
      headers: { "content-range": `bytes */${bytes.length}` },
    })
  }
  const end = Math.min(last + 1, bytes.length)
  return new Response(bytes.slice(from, end), {
    status: 206,
    headers: { "content-range": `bytes ${from}-${end - 1}/${bytes.length}`, ...headers },
  })
}

/** A server on this machine; `requests` holds what it was asked. */
const serve = (answer: (request: Request, range: Range, count: number) => Response) => {
  const requests: Array<Range & { readonly path: string; readonly headers: Headers }> = []
  const server = Bun.serve({
    port: 0,
    hostname: "127.0.0.1",
    fetch: (request) => {
      const range = rangeOf(request)
      requests.push({ ...range, path: new URL(request.url).pathname, headers: request.headers })
      return answer(request, range, requests.length)
    },
  })
  closing.push(() => server.stop(true))
  return { origin: `http://127.0.0.1:${server.port}`, requests }
}

/** A server that answers each request with these very bytes, and ends the connection a little later. */
const serveRaw = (answer: (from: number, count: number) => string | Uint8Array) => {
  const starts: number[] = []
  const listener = Bun.listen({
    port: 0,
    hostname: "127.0.0.1",
    socket: {
      data: (socket, request) => {
        const from = Number(/range: bytes=(\d+)/i.exec(request.toString())?.[1])
        starts.push(from)
        socket.write(answer(from, starts.length))
        // What came before the end is seen by itself.
        setTimeout(() => socket.end(), 20)
      },
    },
  })
  closing.push(() => listener.stop(true))
  return { url: `http://127.0.0.1:${listener.port}/model.gguf`, starts }
}

const headOf = (contentRange: string, ...more: readonly string[]): string =>
  [
    "HTTP/1.1 206 Partial Content",
    `content-range: ${contentRange}`,
    "connection: close",
    ...more,
    "\r\n",
  ].join("\r\n")

const errorOf = async (location: string | URL, options: OpenGgufOptions = RETRY) => {
  try {
    await openGguf(location, options)
  } catch (error) {
    if (error instanceof GgufError) return error
    throw error
  }
  throw new Error("nothing was thrown")
}

describe("a server with byte ranges", () => {
  test("gives the model that the file gives", async () => {
    const bytes = modelBytes("small.gguf")
    const { origin, requests } = serve((_, range) => partOf(bytes, range))
    const url = `${origin}/small.gguf`
    const gguf = await openGguf(url)
    const local = readGguf(join(folder, "small.gguf"))
    expect(gguf).toEqual({ ...local, path: url, parts: [{ ...local.parts[0]!, path: url }] })
    expect(requests).toHaveLength(1)
    expect(requests[0]).toMatchObject({ from: 0, last: 2 ** 20 - 1 })
  })

  test("is asked few times for a long header, in blocks that grow, and not for what is skipped", async () => {
    const bytes = modelBytes("long.gguf", 150_000)
    const { origin, requests } = serve((_, range) => partOf(bytes, range))
    const gguf = await openGguf(`${origin}/long.gguf`)
    expect(gguf.tensors).toEqual(readGguf(join(folder, "long.gguf")).tensors)
    expect(requests.map(({ from, last }) => (last + 1 - from) / 2 ** 20)).toEqual([1, 2, 4])
    expect(await openGgufArray(gguf, "tokens")).toEqual(
      readGgufArray(readGguf(join(folder, "long.gguf")), "tokens")!,
    )
    const before = requests.length
    expect((await openGgufArray(gguf, "scores"))?.length).toBe(150_000)
    // Only from the array on.
    expect(requests[before]!.from).toBeGreaterThan(4_000_000)
    expect(await openGgufArray(gguf, "general.architecture")).toBeUndefined()
  })

  test("jumps over an array of numbers that is longer than a block", async () => {
    const values = new Array(2 ** 20).fill(1)
    const scores = { type: "array", elementType: "float64", values } as const
    const bytes = write("jump.gguf", { metadata: [["scores", scores]], tensors })
    const { origin, requests } = serve((_, range) => partOf(bytes, range))
    expect((await openGguf(origin)).tensors).toHaveLength(2)
    expect(requests.map(({ from }) => from > 8_000_000)).toEqual([false, true])
  })

  test("takes a string that is longer than a block", async () => {
    const text = "x".repeat(3_000_000)
    const bytes = write("text.gguf", {
      metadata: [["text", { type: "string", value: text }]],
      tensors,
    })
    const { origin } = serve((_, range) => partOf(bytes, range))
    expect((await openGguf(origin)).metadata.get("text")).toEqual({ type: "string", value: text })
  })

  test("is sent the caller's headers, and no wish for compression", async () => {
    const bytes = modelBytes("token.gguf")
    const { origin, requests } = serve((request, range) =>
      request.headers.get("authorization") === "Bearer secret"
        ? partOf(bytes, range)
        : new Response(null, { status: 401 }),
    )
    const url = `${origin}/token.gguf`
    await openGguf(new URL(url), { headers: { authorization: "Bearer secret" } })
    expect(requests[0]!.headers.get("accept-encoding")).toBe("identity")
    const error = await errorOf(url)
    expect(error.reason).toBe("unreadable")
    expect(error.message).toBe(
      `${url} may not be read (the server answered 401); give a token that its server accepts`,
    )
  })

  test("may send on to another host, which does not get the token", async () => {
    const bytes = modelBytes("moved.gguf")
    const far = serve((_, range) => partOf(bytes, range))
    const near = serve(() => Response.redirect(`${far.origin}/elsewhere`, 302))
    const headers = { authorization: "Bearer secret" }
    expect((await openGguf(near.origin, { headers })).tensors).toHaveLength(2)
    expect(near.requests[0]!.headers.get("authorization")).toBe("Bearer secret")
    expect(far.requests[0]!.headers.get("authorization")).toBeNull()
    expect(far.requests[0]).toMatchObject({ from: 0 })
  })
})

describe("split models", () => {
  const part = (index: number): Uint8Array =>
    write(`split-0000${index + 1}-of-00002.gguf`, {
      metadata: [
        ["split.no", { type: "uint16", value: index }],
        ["split.count", { type: "uint16", value: 2 }],
      ],
      tensors: [constantTensor(`blk.${index}.x`, "F32", [8], index)],
    })
  const nameOf = (index: number) => `/models/split-0000${index + 1}-of-00002.gguf`

  test("the parts are found beside the first, with its query", async () => {
    const parts = new Map([0, 1].map((index) => [nameOf(index), part(index)]))
    const { origin, requests } = serve((request, range) => {
      const { pathname, search } = new URL(request.url)
      expect(search).toBe("?download=true")
      return partOf(parts.get(pathname)!, range)
    })
    const gguf = await openGguf(`${origin}${nameOf(0)}?download=true`)
    expect(gguf.tensors.map(({ name }) => name)).toEqual(["blk.0.x", "blk.1.x"])
    expect(gguf.parts[1]!.path).toBe(`${origin}${nameOf(1)}?download=true`)
    expect(requests.map(({ path }) => path)).toEqual([nameOf(0), nameOf(1)])
    const later = await errorOf(`${origin}${nameOf(1)}?download=true`)
    expect(later.reason).toBe("not-first-part")
    expect(later.message).toEndWith(`give ${origin}${nameOf(0)}`)
  })

  test("a missing part is named", async () => {
    const first = part(0)
    const { origin } = serve((_, range, count) =>
      count === 1 ? partOf(first, range) : new Response(null, { status: 404 }),
    )
    const error = await errorOf(`${origin}${nameOf(0)}`)
    expect(error).toMatchObject({ reason: "missing", path: `${origin}${nameOf(1)}` })
    expect(error.message).toContain("needs part 2 of 2")
  })
})

describe("a header that is saved", () => {
  const target = () => mkdtempSync(join(folder, "saved-"))

  test("is the file but for its weights, at its size", async () => {
    // Gaps in what was fetched are filled: the array of numbers is jumped over when the header is parsed.
    const scores = { type: "array", elementType: "float64", values: new Array(2 ** 20).fill(1) }
    const bytes = write("whole.gguf", { metadata: [["scores", scores as never]], tensors })
    const { origin } = serve((_, range) => partOf(bytes, range))
    const path = await saveGgufHeader(`${origin}/a/whole%20model.gguf?x=1`, target())
    expect(basename(path)).toBe("whole model.gguf")
    const saved = new Uint8Array(readFileSync(path))
    const { dataOffsetBytes } = readGguf(path).parts[0]!
    expect(saved.length).toBe(bytes.length)
    expect(Bun.hash(saved.subarray(0, dataOffsetBytes))).toBe(
      Bun.hash(bytes.subarray(0, dataOffsetBytes)),
    )
    expect(saved.subarray(dataOffsetBytes).every((byte) => byte === 0)).toBe(true)
    expect(bytes.subarray(dataOffsetBytes).some((byte) => byte !== 0)).toBe(true)
  })

  test("of a split model has all parts; a folder that is not there is told", async () => {
    const parts = new Map(
      [1, 2].map((number) => {
        const name = `/several-0000${number}-of-00002.gguf`
        const gguf: GgufToWrite = {
          metadata: [
            ["split.no", { type: "uint16", value: number - 1 }],
            ["split.count", { type: "uint16", value: 2 }],
          ],
          tensors: [constantTensor(`blk.${number}.x`, "F32", [4096], 1)],
        }
        return [name, write(`several-0000${number}-of-00002.gguf`, gguf)] as const
      }),
    )
    const { origin } = serve((request, range) =>
      partOf(parts.get(new URL(request.url).pathname)!, range),
    )
    const url = `${origin}/several-00001-of-00002.gguf`
    const path = await saveGgufHeader(url, target())
    expect(readGguf(path).tensors).toEqual([...(await openGguf(url)).tensors])
    const error = await saveGgufHeader(url, join(folder, "nowhere")).catch((cause) => cause)
    expect(error).toMatchObject({ _tag: "GgufError", reason: "unwritable" })
  })
})

describe("what cannot be read", () => {
  test("a server that ignores ranges is left before it sends the model", async () => {
    let sentBytes = 0
    let isCancelled = false
    const { origin } = serve(
      () =>
        new Response(
          new ReadableStream({
            pull: async (controller) => {
              await Bun.sleep(1)
              sentBytes += 65536
              controller.enqueue(new Uint8Array(65536))
            },
            cancel: () => {
              isCancelled = true
            },
          }),
        ),
    )
    const error = await errorOf(`${origin}/whole.gguf?key=secret`)
    expect(error).toMatchObject({ reason: "no-ranges", path: `${origin}/whole.gguf` })
    expect(error.message).toStartWith(`${origin}/whole.gguf cannot be read in parts`)
    for (let waited = 0; !isCancelled && waited < 400; waited++) await Bun.sleep(5)
    expect(isCancelled).toBe(true)
    expect(sentBytes).toBeLessThan(64 * 2 ** 20)
  })

  test.each([
    [404, "missing", "is not there (the server answered 404)"],
    [410, "missing", "is not there"],
    [403, "unreadable", "give a token"],
    [400, "unreadable", "the server answered 400"],
    [204, "unreadable", "the server answered 204"],
  ] as const)("status %d, asked once", async (status, reason, message) => {
    const { origin, requests } = serve(() => new Response(null, { status }))
    const error = await errorOf(`${origin}/x.gguf`)
    expect(error.reason).toBe(reason)
    expect(error.message).toContain(`${origin}/x.gguf`)
    expect(error.message).toContain(message)
    expect(requests).toHaveLength(1)
  })

  test.each([500, 503, 429])("status %d, asked again, four times at most", async (status) => {
    const { origin, requests } = serve(() => new Response(null, { status }))
    const error = await errorOf(origin)
    expect(error.reason).toBe("unreachable")
    expect(error.message).toContain(`the server answered ${status}, 4 times in a row`)
    expect(requests).toHaveLength(4)
  })

  test("nobody listens", async () => {
    const { url } = serveRaw(() => "")
    for (const close of closing.splice(0)) close()
    const error = await errorOf(url)
    expect(error.reason).toBe("unreachable")
    expect(error.message).toMatch(/from byte 0 on: the connection failed \(\w+\), 4 times in a row/)
  })

  test("a server that accepts and says nothing", async () => {
    const listener = Bun.listen({ port: 0, hostname: "127.0.0.1", socket: { data: () => {} } })
    closing.push(() => listener.stop(true))
    const error = await errorOf(`http://127.0.0.1:${listener.port}/`, { ...RETRY, timeoutMs: 50 })
    expect(error.reason).toBe("unreachable")
    expect(error.message).toContain("nothing came for 0.05 s")
  })

  test.each([
    ["no Content-Range", {}, ""],
    ["another place", { "content-range": "bytes 7-1048582/9000000" }, "bytes 7-1048582/9000000"],
    ["fewer bytes than asked for", { "content-range": "bytes 0-9/9000000" }, "bytes 0-9/9000000"],
    ["more of them", { "content-range": "bytes 0-2000000/9000000" }, "0-2000000"],
    ["an end beyond the file", { "content-range": "bytes 0-1048575/1000" }, "1048575/1000"],
    ["an unknown size", { "content-range": "bytes 0-1048575/*" }, "1048575/*"],
    [
      "an impossible size",
      { "content-range": `bytes 0-1048575/${2n ** 60n}` },
      "1152921504606846976",
    ],
    ["another unit", { "content-range": "lines 0-1048575/9000000" }, "lines"],
  ])("an answer that states %s", async (_, headers, seen) => {
    const bytes = new Uint8Array(2 ** 20)
    const { origin, requests } = serve(() => new Response(bytes, { status: 206, headers }))
    const error = await errorOf(origin)
    expect(error.reason).toBe("bad-answer")
    expect(error.message).toContain("to bytes 0-1048575")
    expect(error.message).toContain(seen)
    expect(requests).toHaveLength(1)
  })

  test("a compressed answer", async () => {
    const bytes = modelBytes("zip.gguf")
    const { origin } = serve((_, range) => partOf(bytes, range, { "content-encoding": "compress" }))
    expect((await errorOf(origin)).message).toContain("bytes in the encoding compress")
  })

  test("a Content-Length that is not the range's", async () => {
    const { url, starts } = serveRaw(() => headOf("bytes 0-99/100", "content-length: 90"))
    const error = await errorOf(url)
    expect(error.reason).toBe("bad-answer")
    expect(error.message).toContain("Content-Length 90 to bytes 0-99")
    expect(starts).toEqual([0])
  })

  test("a body without length that goes on after the range", async () => {
    const { url } = serveRaw(() => `${headOf("bytes 0-99/100")}${"x".repeat(150)}`)
    const error = await errorOf(url)
    expect(error.reason).toBe("bad-answer")
    expect(error.message).toContain("more than the bytes 0-99")
  })

  test("a file that changes between two requests", async () => {
    const bytes = modelBytes("changing.gguf", 80_000)
    const byTag = serve((_, range, count) => partOf(bytes, range, { etag: `"${count}"` }))
    const error = await errorOf(byTag.origin)
    expect(error.reason).toBe("bad-answer")
    expect(error.message).toContain("changed while it was read")
    const bySize = serve((_, range, count) => partOf(bytes.slice(0, bytes.length - count), range))
    expect((await errorOf(bySize.origin)).message).toContain("changed while it was read")
  })

  test("no GGUF, no bytes, a cut header, a cut file", async () => {
    const bytes = modelBytes("cut.gguf")
    const errorFor = (content: Uint8Array) =>
      errorOf(serve((_, range) => partOf(content, range)).origin)
    const page = await errorFor(new TextEncoder().encode("<!doctype html>"))
    expect(page.message).toContain('starts with "<!do"')
    expect((await errorFor(new Uint8Array(0))).message).toContain("it has only 0 bytes")
    expect((await errorFor(bytes.slice(0, 100))).reason).toBe("truncated")
    const cut = await errorFor(bytes.slice(0, -100))
    expect(cut).toMatchObject({ reason: "truncated" })
    expect(cut.message).toContain("100 of")
  })

  test("a URL that is none, or of another scheme", async () => {
    expect((await errorOf("http://")).message).toBe("http:// is no URL; check it")
    const file = await errorOf(pathToFileURL(join(folder, "small.gguf")))
    expect(file.message).toContain("is no HTTP address; give a path")
  })
})

describe("a connection that breaks", () => {
  test("goes on where it broke", async () => {
    const bytes = modelBytes("broken.gguf")
    const last = bytes.length - 1
    const { url, starts } = serveRaw((from, count) => {
      if (count === 2) return ""
      const length = `content-length: ${bytes.length - from}`
      const sent = bytes.subarray(from, count < 4 ? from + 100 : undefined)
      return Buffer.concat([
        Buffer.from(headOf(`bytes ${from}-${last}/${bytes.length}`, length)),
        sent,
      ])
    })
    expect((await openGguf(url, RETRY)).tensors).toHaveLength(2)
    expect(starts).toEqual([0, 100, 100, 200])
  })

  test("a body that always ends early is an error that says where", async () => {
    // Without a length only the bytes show it.
    const { url, starts } = serveRaw((from) => `${headOf(`bytes ${from}-99/100`)}0123456789`)
    const error = await errorOf(url)
    expect(error.reason).toBe("unreachable")
    expect(error.message).toContain("from byte 40 on: the answer ended 60 bytes early")
    expect(starts).toEqual([0, 10, 20, 30])
  })
})

describe("an abort", () => {
  test("ends a request", async () => {
    const { origin } = serve(() => new Response(new ReadableStream({ pull: () => Bun.sleep(10) })))
    const slow = Bun.listen({ port: 0, hostname: "127.0.0.1", socket: { data: () => {} } })
    closing.push(() => slow.stop(true))
    const controller = new AbortController()
    const opened = openGguf(`http://127.0.0.1:${slow.port}/`, { signal: controller.signal })
    setTimeout(() => controller.abort(new Error("no longer wanted")), 20)
    expect(opened).rejects.toThrow("no longer wanted")
    await opened.catch(() => undefined)
    expect(openGguf(origin, { signal: controller.signal })).rejects.toThrow("no longer wanted")
  })

  test("ends the wait before another attempt", async () => {
    const { origin } = serve(() => new Response(null, { status: 503 }))
    const started = performance.now()
    const signal = AbortSignal.timeout(30)
    const error = await openGguf(origin, { signal, retryDelayMs: 60_000 }).catch((cause) => cause)
    expect(error.name).toBe("TimeoutError")
    expect(performance.now() - started).toBeLessThan(10_000)
  })
})

test("a path is read as readGguf reads it", async () => {
  modelBytes("path.gguf")
  const path = join(folder, "path.gguf")
  expect(await openGguf(path)).toEqual(readGguf(path))
  expect(await openGgufArray(await openGguf(path, { arrayLimit: 1 }), "scores")).toEqual([
    0.5, 0.5, 0.5,
  ])
  expect((await errorOf(join(folder, "nowhere.gguf"))).reason).toBe("missing")
})

import { afterAll, afterEach, beforeEach, describe, expect, test } from "bun:test"
import {
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs"
import { tmpdir } from "node:os"
import { basename, dirname, join } from "node:path"
import { constantTensor, readGguf, writeGguf } from "@ggml-rpc/gguf"
import {
  COMMIT,
  type FakeFile,
  type FakeHub,
  gitOid,
  sha256,
  startFakeHub,
  TOKEN,
} from "../test/FakeHub.ts"
import { listModels, removeModel } from "./cached.ts"
import type { ModelsError } from "./errors.ts"
import { FileLock } from "./FileLock.ts"
import { hubEndpoint } from "./Hub.ts"
import { HubCache, hubCacheFolder } from "./HubCache.ts"
import { fetchLocated, locate, type ModelOptions, type ModelSource, saveHeader } from "./locate.ts"
import { parseModelName } from "./modelName.ts"

const root = mkdtempSync(join(tmpdir(), "ggml-rpc-models-"))
afterAll(() => rmSync(root, { recursive: true, force: true }))

const file = (text: string): FakeFile => ({ content: new TextEncoder().encode(text) })
const plain = (text: string): FakeFile => ({ ...file(text), isPlain: true })

const VARIABLES = [
  ...["LLAMA_CACHE", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME", "HOME"],
  ...["HF_ENDPOINT", "MODEL_ENDPOINT", "HF_TOKEN"],
]
const before = Object.fromEntries(VARIABLES.map((name) => [name, process.env[name]]))

let hub: FakeHub
let home: string
let cache: HubCache

beforeEach(async () => {
  hub = await startFakeHub({
    "user/repo": {
      files: {
        "README.md": plain("read me"),
        "mmproj-model-Q4_K_M.gguf": file("a projector"),
        "model-Q8_0.gguf": file("eight bits"),
        "model-Q4_K_M.gguf": file("four bits"),
        "folder/model-IQ2_XS.gguf": file("two bits"),
      },
    },
  })
  hub.pageFiles = 2
  home = mkdtempSync(join(root, "home-"))
  for (const name of VARIABLES) delete process.env[name]
  process.env.HOME = home
  process.env.HF_ENDPOINT = `${hub.endpoint}/`
  cache = new HubCache(hubCacheFolder())
})
afterEach(async () => {
  await hub[Symbol.asyncDispose]()
  for (const name of VARIABLES) {
    if (before[name] === undefined) delete process.env[name]
    else process.env[name] = before[name]
  }
})

const quick: ModelOptions = { retryDelayMs: 1 }
const named = (name: string, path?: string): ModelSource => ({ kind: "hub", name, file: path })
const never = () => new AbortController().signal

const fetchModel = async (source: ModelSource, options: ModelOptions, signal: AbortSignal) =>
  fetchLocated(await locate(source, options, signal), signal)

const fetched = (source: ModelSource | string, options: ModelOptions = {}) =>
  fetchModel(typeof source === "string" ? named(source) : source, { ...quick, ...options }, never())

const failure = async (
  source: ModelSource | string,
  options: ModelOptions = {},
): Promise<ModelsError> => {
  const error = await fetched(source, options).then(
    () => undefined,
    (cause) => cause as ModelsError,
  )
  if (error === undefined) throw new Error("the model was fetched")
  return error
}

const textOf = (path: string) => readFileSync(path, "utf8")

describe("names", () => {
  test("of a repository, with and without a quantization", () => {
    expect(parseModelName("a/b")).toEqual({ repo: "a/b" })
    expect(parseModelName("a/b:")).toEqual({ repo: "a/b" })
    expect(parseModelName("a-1/b.c_d:q4_0")).toEqual({ repo: "a-1/b.c_d", tag: "q4_0" })
  })

  test.each([
    "",
    "model.gguf",
    "a/b/c",
    "/b",
    "a/",
    "a//b",
    "../b",
    "a/..",
    "a b/c",
    "a--b/c",
    "https://h/a/b",
  ])("'%s' is none", (name) => {
    expect(() => parseModelName(name)).toThrow(/names no model: .*user\/repo/)
  })

  test("a hub's address is MODEL_ENDPOINT, then HF_ENDPOINT", () => {
    expect(hubEndpoint({})).toBe("https://huggingface.co")
    expect(hubEndpoint({ HF_ENDPOINT: "http://a/" })).toBe("http://a")
    expect(hubEndpoint({ HF_ENDPOINT: "http://a", MODEL_ENDPOINT: "http://b//" })).toBe("http://b")
  })

  test("the cache's folder is llama.cpp's", () => {
    const all = {
      LLAMA_CACHE: "/1",
      HF_HUB_CACHE: "/2",
      HUGGINGFACE_HUB_CACHE: "/3",
      HF_HOME: "/4",
      XDG_CACHE_HOME: "/5",
      HOME: "/6",
    }
    const places = ["/1", "/2", "/3", "/4/hub", "/5/huggingface/hub", "/6/.cache/huggingface/hub"]
    for (const [index, place] of places.entries()) {
      const left = Object.entries(all).slice(index)
      expect(hubCacheFolder(Object.fromEntries(left))).toBe(place)
      // An empty one counts as none.
      const emptied = Object.keys(all)
        .slice(0, index)
        .map((name) => [name, ""] as const)
      expect(hubCacheFolder(Object.fromEntries([...emptied, ...left]))).toBe(place)
    }
  })
})

describe("a model of a hub", () => {
  test.each([
    ["user/repo", "four bits"],
    ["user/repo:Q8_0", "eight bits"],
    ["user/repo:q8_0", "eight bits"],
    ["user/repo:IQ2_XS", "two bits"],
  ])("%s is found", async (name, text) => {
    const model = await fetched(name)
    expect(textOf(model.path)).toBe(text)
    expect(model).toMatchObject({ sizeBytes: text.length, downloadedBytes: text.length })
  })

  test("without Q4_K_M it is Q8_0, without that the first", async () => {
    const { files } = hub.repos.get("user/repo")!
    const { "model-Q4_K_M.gguf": _, ...rest } = files
    hub.repos.set("user/repo", { files: rest })
    expect(textOf((await fetched("user/repo")).path)).toBe("eight bits")
    const { "model-Q8_0.gguf": __, ...least } = rest
    hub.repos.set("user/repo", { files: least })
    expect(textOf((await fetched("user/repo")).path)).toBe("two bits")
  })

  test("lies where llama.cpp has it: blob, link, commit", async () => {
    const { path } = await fetched("user/repo:IQ2_XS")
    const folder = join(home, ".cache", "huggingface", "hub", "models--user--repo")
    expect(path).toBe(join(folder, "snapshots", COMMIT, "folder", "model-IQ2_XS.gguf"))
    const blob = sha256(new TextEncoder().encode("two bits"))
    expect(readlinkSync(path)).toBe(join("..", "..", "..", "blobs", blob))
    expect(textOf(join(folder, "refs", "main"))).toBe(COMMIT)
    expect(readdirSync(join(folder, "blobs"))).toEqual([blob])
  })

  test("a file by its path; one that Git itself holds is checked too", async () => {
    hub.repos.set("user/repo", { files: { "small.gguf": plain("small") } })
    const { path } = await fetched(named("user/repo", "small.gguf"))
    const oid = gitOid(new TextEncoder().encode("small"))
    expect(basename(readlinkSync(path))).toBe(oid)
    const missing = await failure(named("user/repo", "other.gguf"))
    expect(missing._tag).toBe("ModelNotFoundError")
    expect(missing.message).toContain("user/repo/other.gguf")
    expect(missing.message).toContain("has small.gguf")
  })

  test("is asked for once", async () => {
    await fetched("user/repo")
    const count = hub.storageRequests.length
    expect(await fetched("user/repo")).toMatchObject({ downloadedBytes: 0 })
    expect(hub.storageRequests).toHaveLength(count)
  })

  test("that llama.cpp or Hugging Face's programs left is found, also as a plain file", async () => {
    const path = cache.snapshotPath("user/repo", COMMIT, "model-Q4_K_M.gguf")
    mkdirSync(dirname(path), { recursive: true })
    writeFileSync(path, "four bits")
    expect((await fetched("user/repo")).path).toBe(path)
    expect(hub.storageRequests).toHaveLength(0)
  })

  test("of a newer commit shares what did not change", async () => {
    const old = await fetched("user/repo")
    const { files } = hub.repos.get("user/repo")!
    const commit = "abc".padEnd(40, "1")
    hub.repos.set("user/repo", { files, commit })
    const count = hub.storageRequests.length
    const { path } = await fetched("user/repo")
    expect(path).toContain(commit)
    expect(textOf(path)).toBe("four bits")
    expect(hub.storageRequests).toHaveLength(count)
    expect(existsSync(old.path)).toBe(true)
  })

  test("whose file was cut or whose blob is gone is fetched again", async () => {
    const { path } = await fetched("user/repo")
    writeFileSync(path, "four")
    expect(textOf((await fetched("user/repo")).path)).toBe("four bits")
    rmSync(join(dirname(path), readlinkSync(path)))
    expect(textOf((await fetched("user/repo")).path)).toBe("four bits")
    rmSync(path)
    writeFileSync(path, "wrong")
    expect(textOf((await fetched("user/repo")).path)).toBe("four bits")
    expect(lstatSync(path).isSymbolicLink()).toBe(true)
  })

  test("a failed download leaves the one before in use", async () => {
    await fetched("user/repo")
    const { files } = hub.repos.get("user/repo")!
    hub.repos.set("user/repo", {
      commit: "abc".padEnd(40, "1"),
      files: { ...files, "model-Q4_K_M.gguf": file("other bits") },
    })
    hub.fault = () => ({ status: 404 })
    await failure("user/repo")
    const { path } = await fetched("user/repo", { offline: true })
    expect(textOf(path)).toBe("four bits")
  })

  test("is shown the token, and the storage behind it is not", async () => {
    const secret = { "a-Q4_K_M.gguf": file("secret") }
    hub.repos.set("user/private", { files: secret, access: "private" })
    hub.repos.set("user/gated", { files: secret, access: "gated" })
    const unknown = await failure("user/private")
    expect(unknown._tag).toBe("ModelAccessError")
    expect(unknown.message).toContain("either there is none of that name, or it is private")
    const gated = await failure("user/gated")
    expect(gated.message).toContain(`gated: ask for access on ${hub.endpoint}/user/gated`)
    expect(gated.message).toContain("HF_TOKEN")
    expect(textOf((await fetched("user/gated", { token: TOKEN })).path)).toBe("secret")
    process.env.HF_TOKEN = TOKEN
    // The storage answers 400 to whoever shows it a token.
    expect(textOf((await fetched("user/private")).path)).toBe("secret")
    expect((await failure("user/none")).message).toContain("has no such repository")
  })
})

describe("split models", () => {
  const part = (number: number) => `Q4_K_M/model-Q4_K_M-0000${number}-of-00003.gguf`
  const parts = (numbers: readonly number[]) =>
    Object.fromEntries(numbers.map((number) => [part(number), file(`part ${number}`)]))

  test("come with all their files, in order", async () => {
    hub.repos.set("user/split", { files: parts([2, 3, 1]) })
    const seen: number[] = []
    const model = await fetched("user/split", {
      onProgress: ({ doneBytes, totalBytes }) => {
        expect(totalBytes).toBe(18)
        seen.push(doneBytes)
      },
    })
    expect(model.paths.map(textOf)).toEqual(["part 1", "part 2", "part 3"])
    expect(model.path).toBe(model.paths[0]!)
    expect(model).toMatchObject({ sizeBytes: 18, downloadedBytes: 18 })
    expect(seen.at(-1)).toBe(18)
    expect(listModels().models).toMatchObject([
      { name: "user/split:Q4_K_M", sizeBytes: 18, fileCount: 3, missingCount: 0 },
    ])
  })

  test("of which one is missing on the hub are told", async () => {
    hub.repos.set("user/split", { files: parts([1, 3]) })
    expect((await failure("user/split")).message).toContain("2 of the 3 files")
  })

  test("of which one could not be fetched go on with it", async () => {
    hub.repos.set("user/split", { files: parts([1, 2, 3]) })
    hub.fault = ({ index }) => (index === 1 ? { status: 404 } : undefined)
    await failure("user/split")
    expect((await failure("user/split", { offline: true }))._tag).toBe("OfflineError")
    hub.fault = () => undefined
    const model = await fetched("user/split")
    expect(model.downloadedBytes).toBe(12)
  })
})

describe("without the hub", () => {
  test("what is here is used, with a word", async () => {
    const { path } = await fetched("user/repo")
    hub.apiStatus = 503
    const notes: string[] = []
    expect((await fetched("user/repo", { onNote: (text) => notes.push(text) })).path).toBe(path)
    expect(notes).toHaveLength(1)
    expect(notes[0]).toContain("the server answered 503, 3 times in a row")
    expect(notes[0]).toContain(cache.folder)
    const error = await failure("user/repo:Q8_0")
    expect(error._tag).toBe("UnreachableError")
  })

  test("--offline asks nobody", async () => {
    const error = await failure("user/repo", { offline: true })
    expect(error._tag).toBe("OfflineError")
    const { path } = await fetched("user/repo")
    hub.requests.length = 0
    expect((await fetched("user/repo", { offline: true })).path).toBe(path)
    expect((await fetched("user/repo:q4_k_m", { offline: true })).path).toBe(path)
    expect((await failure("user/repo:Q8_0", { offline: true }))._tag).toBe("OfflineError")
    expect(hub.requests).toEqual([])
  })

  test("an address that is no hub is told", async () => {
    process.env.HF_ENDPOINT = hub.serveFile("page", new TextEncoder().encode("<html>"))
    const page = await failure("user/repo")
    expect(page._tag).toBe("ModelNotFoundError")
    const server = Bun.serve({
      port: 0,
      hostname: "127.0.0.1",
      fetch: () => new Response("<html>"),
    })
    process.env.HF_ENDPOINT = `http://127.0.0.1:${server.port}`
    const error = await failure("user/repo")
    server.stop(true)
    expect(error._tag).toBe("BadAnswerError")
    expect(error.message).toContain("none of Hugging Face's API")
  })
})

describe("what a hub lies about", () => {
  test("a size: told, and nothing is left behind", async () => {
    const content = new TextEncoder().encode("four bits")
    for (const statedBytes of [5, 20, 2 ** 52]) {
      hub.repos.set("user/lies", { files: { "a-Q4_K_M.gguf": { content, statedBytes } } })
      const error = await failure("user/lies")
      expect(["BadAnswerError", "DiskFullError"]).toContain(error._tag)
      expect(error.message).toMatch(/bytes were announced|is too small/)
    }
    expect(listModels()).toMatchObject({ models: [], partials: [] })
  })

  test("a checksum: told, and nothing is left behind", async () => {
    const content = new TextEncoder().encode("four bits")
    const statedOid = "0".repeat(64)
    hub.repos.set("user/lies", { files: { "a-Q4_K_M.gguf": { content, statedOid } } })
    const error = await failure("user/lies")
    expect(error._tag).toBe("ChecksumError")
    expect(error.message).toContain(sha256(content))
    expect(listModels()).toMatchObject({ models: [], partials: [] })
  })

  test("a path that leads out of the cache is no file", async () => {
    hub.repos.set("user/evil", { files: { "../../../../evil-Q4_K_M.gguf": file("evil") } })
    const error = await failure("user/evil")
    expect(error._tag).toBe("ModelNotFoundError")
    expect(error.message).toContain("has no GGUF files")
  })

  test("a quantization that is not there: told with those that are", async () => {
    const error = await failure("user/repo:Q3_K_S")
    expect(error.message).toContain("There is no model user/repo:Q3_K_S")
    expect(error.message).toContain("has Q8_0, Q4_K_M, IQ2_XS")
  })
})

describe("two at a time", () => {
  test("one of them downloads, the other waits and finds it", async () => {
    hub.fault = () => ({ pieceDelayMs: 150 })
    const notes: string[] = []
    const options = { onNote: (text: string) => notes.push(text) }
    const [first, second] = await Promise.all([
      fetched("user/repo", options),
      fetched("user/repo", options),
    ])
    expect(first.path).toBe(second.path)
    expect(first.downloadedBytes + second.downloadedBytes).toBe(9)
    expect(hub.storageRequests).toHaveLength(1)
    expect(notes).toHaveLength(1)
    expect(notes[0]).toContain("waiting for it")
  })

  test("who waits can stop waiting", async () => {
    const oid = sha256(new TextEncoder().encode("four bits"))
    const lock = FileLock.try(cache.lockPath("user/repo", oid))!
    const controller = new AbortController()
    const reason = new Error("enough")
    const waiting = fetchModel(
      named("user/repo"),
      { ...quick, onNote: () => controller.abort(reason) },
      controller.signal,
    )
    expect(await waiting.catch((error) => error)).toBe(reason)
    lock.release()
    expect((await fetched("user/repo")).downloadedBytes).toBe(9)
  })
})

describe("a model by URL", () => {
  const content = new TextEncoder().encode("by URL")
  const place = (name: string) => join(home, ".cache", "llama.cpp", name)

  test("lies where llama.cpp has it, with its ETag, and is fetched again when that changes", async () => {
    const source = { kind: "url", url: hub.serveFile("model.gguf", content, '"one"') } as const
    const model = await fetched(source)
    expect(model).toEqual({
      path: place("model.gguf"),
      paths: [place("model.gguf")],
      sizeBytes: 6,
      downloadedBytes: 6,
    })
    expect(textOf(place("model.gguf.etag"))).toBe('"one"')
    expect((await fetched(source)).downloadedBytes).toBe(0)
    hub.serveFile("model.gguf", new TextEncoder().encode("anew"), '"two"')
    expect((await fetched(source)).downloadedBytes).toBe(4)
    expect(textOf(model.path)).toBe("anew")
    expect(readdirSync(dirname(model.path)).sort()).toEqual([
      ".locks",
      "model.gguf",
      "model.gguf.etag",
    ])
  })

  test("goes where the caller says", async () => {
    const path = join(home, "here.gguf")
    await fetched({ kind: "url", url: hub.serveFile("model.gguf", content), path })
    expect(textOf(path)).toBe("by URL")
    expect(readdirSync(home).sort()).toEqual([".cache", "here.gguf"])
  })

  test("a hub's link is checked by the hub's checksum, and shown its token alone", async () => {
    hub.repos.set("user/gated", { files: { "a.gguf": file("gated") }, access: "gated" })
    const url = `${hub.endpoint}/user/gated/resolve/main/a.gguf?download=true`
    const refused = await failure({ kind: "url", url })
    expect(refused._tag).toBe("ModelAccessError")
    expect(refused.message).not.toContain("download=true")
    const model = await fetched({ kind: "url", url }, { token: TOKEN })
    expect(textOf(model.path)).toBe("gated")
    hub.repos.set("user/gated", {
      files: { "b.gguf": { ...file("gated"), statedOid: "1".repeat(64) } },
    })
    const lie = `${hub.endpoint}/user/gated/resolve/main/b.gguf`
    expect((await failure({ kind: "url", url: lie }))._tag).toBe("ChecksumError")
    let shown: string | null = null
    const server = Bun.serve({
      port: 0,
      hostname: "127.0.0.1",
      fetch: ({ headers }) => {
        shown ??= headers.get("authorization")
        return new Response("x")
      },
    })
    const other = `http://127.0.0.1:${server.port}/x.gguf`
    await fetched({ kind: "url", url: other }, { token: TOKEN })
    expect(shown).toBeNull()
    await fetched(
      { kind: "url", url: other.replace("//", "//me:pa%20ss@").replace("x.gguf", "y.gguf") },
      { token: TOKEN },
    )
    server.stop(true)
    expect(shown!).toBe(`Basic ${btoa("me:pa ss")}`)
  })

  test("a server without HEAD is asked for a byte", async () => {
    const url = hub.serveFile("model.gguf", content, '"one"')
    hub.fault = ({ method }) => (method === "HEAD" ? { status: 405 } : undefined)
    expect((await fetched({ kind: "url", url })).sizeBytes).toBe(6)
    expect((await fetched({ kind: "url", url })).downloadedBytes).toBe(0)
  })

  test("that is gone or unreachable is told; what is here is used with a word", async () => {
    const url = hub.serveFile("model.gguf", content)
    const missing = await failure({ kind: "url", url: url.replace("model", "other") })
    expect(missing._tag).toBe("ModelNotFoundError")
    const { path } = await fetched({ kind: "url", url })
    hub.fault = () => ({ status: 503 })
    const notes: string[] = []
    const model = await fetched({ kind: "url", url }, { onNote: (text) => notes.push(text) })
    expect(model.path).toBe(path)
    expect(notes[0]).toContain("503")
    expect((await fetched({ kind: "url", url }, { offline: true })).path).toBe(path)
    const offline = await failure({ kind: "url", url: `${url}2` }, { offline: true })
    expect(offline._tag).toBe("OfflineError")
  })

  test("of several files comes whole, from the URL of any", async () => {
    const urls = [1, 2].map((number) =>
      hub.serveFile(`m-0000${number}-of-00002.gguf`, new TextEncoder().encode(`part ${number}`)),
    )
    const model = await fetched({ kind: "url", url: urls[1]! })
    expect(model.paths.map(textOf)).toEqual(["part 1", "part 2"])
    expect(listModels().models).toMatchObject([{ name: "m-00001-of-00002.gguf", fileCount: 2 }])
    removeModel("m-00002-of-00002.gguf")
    expect(listModels().models).toEqual([])
  })

  test.each(["model.gguf", "ftp://h/x.gguf", "http://", "http://h", "http://h/", "http://h/a/?x"])(
    "'%s' is none",
    async (url) => {
      expect((await failure({ kind: "url", url }))._tag).toBe("ModelNameError")
    },
  )

  test("whose redirects go round is told", async () => {
    const server = Bun.serve({
      port: 0,
      hostname: "127.0.0.1",
      fetch: () => new Response(null, { status: 302, headers: { location: "/a.gguf" } }),
    })
    const error = await failure({ kind: "url", url: `http://127.0.0.1:${server.port}/a.gguf` })
    server.stop(true)
    expect(error.message).toContain("its redirects do not end")
  })
})

describe("a header alone", () => {
  const peek = async (source: ModelSource, more: ModelOptions = {}) => {
    const options = { ...quick, ...more }
    const located = await locate(source, options, never())
    if (located.kind === "local") return { path: located.paths[0]!, isHeader: false }
    const folder = mkdtempSync(join(root, "peek-"))
    return { path: await saveHeader(located, folder, options, never()), isHeader: true }
  }

  const gguf = (): FakeFile => {
    const path = join(mkdtempSync(join(root, "gguf-")), "a.gguf")
    writeGguf(path, { metadata: [], tensors: [constantTensor("a", "F32", [2 ** 21], 1)] })
    return { content: new Uint8Array(readFileSync(path)) }
  }

  test("is fetched of a model that is not here, and the weights are not", async () => {
    hub.repos.set("user/large", { files: { "a-Q4_K_M.gguf": gguf() } })
    for (const source of [
      named("user/large"),
      { kind: "url", url: hub.serveFile("b.gguf", gguf().content) } as const,
    ]) {
      hub.storageRequests.length = 0
      const { path, isHeader } = await peek(source)
      expect(isHeader).toBe(true)
      expect(readGguf(path).tensors[0]!.name).toBe("a")
      const gets = hub.storageRequests.filter(({ method }) => method === "GET")
      expect(gets.map(({ range }) => range)).toEqual([[0, 2 ** 20 - 1]])
    }
    expect(listModels()).toMatchObject({ models: [], partials: [] })
  })

  test("of a model that is here is its file", async () => {
    const { path } = await fetched("user/repo")
    expect(await peek(named("user/repo"))).toEqual({ path, isHeader: false })
  })

  test("that may not be read is told as a download would", async () => {
    hub.repos.set("user/gated", { files: { "a.gguf": gguf() }, access: "gated" })
    const error = await peek(named("user/gated")).catch((cause) => cause)
    expect(error._tag).toBe("ModelAccessError")
    expect((await peek(named("user/gated"), { token: TOKEN })).isHeader).toBe(true)
    expect((await peek(named("user/none")).catch((cause) => cause))._tag).toBe("ModelAccessError")
    expect((await peek(named("user/gated"), { offline: true }).catch((c) => c))._tag).toBe(
      "OfflineError",
    )
  })
})

describe("what is on the disk", () => {
  test("is listed: models, and what broken-off downloads left", async () => {
    await fetched("user/repo")
    await fetched("user/repo:Q8_0")
    await fetched(named("user/repo", "mmproj-model-Q4_K_M.gguf"))
    const content = new Uint8Array(300_000).fill(7)
    hub.repos.set("user/large", { files: { "a-Q4_K_M.gguf": { content } } })
    hub.fault = () => ({ breakAfter: 100_000 })
    const options = { connections: 1, chunkBytes: 100_000 }
    hub.fault = ({ index }) => (index > 3 ? { status: 404 } : undefined)
    await failure("user/large", options)
    const { models, partials, hubFolder } = listModels()
    expect(hubFolder).toBe(cache.folder)
    expect(models.map(({ name, sizeBytes }) => [name, sizeBytes])).toEqual([
      ["user/repo:Q4_K_M", 9],
      ["user/repo:Q8_0", 10],
    ])
    expect(partials).toMatchObject([{ name: "user/large" }])
    expect(partials[0]!.sizeBytes).toBeLessThan(300_000)
    removeModel("user/large")
    expect(listModels().partials).toEqual([])
  })

  test("one quantization is removed, with blobs that nothing else has", async () => {
    await fetched("user/repo")
    const kept = await fetched("user/repo:Q8_0")
    const removed = removeModel("user/repo:q4_k_m")
    expect(removed.freedBytes).toBeGreaterThan(0)
    expect(listModels().models.map(({ name }) => name)).toEqual(["user/repo:Q8_0"])
    expect(textOf(kept.path)).toBe("eight bits")
    expect(readdirSync(join(cache.repoFolder("user/repo"), "blobs"))).toHaveLength(1)
    expect(() => removeModel("user/repo:Q4_K_M")).toThrow("nothing of it is in")
  })

  test("a blob that another file has as well stays", async () => {
    hub.repos.set("user/same", {
      files: { "a-Q4_0.gguf": file("same"), "a-Q4_1.gguf": file("same") },
    })
    await fetched("user/same:Q4_0")
    const { path } = await fetched("user/same:Q4_1")
    removeModel("user/same:Q4_0")
    expect(textOf(path)).toBe("same")
  })

  test("what a link outside of the cache leads to is not removed", async () => {
    const path = cache.snapshotPath("user/repo", COMMIT, "mine-Q5_0.gguf")
    await fetched("user/repo")
    const outside = join(home, "mine.gguf")
    writeFileSync(outside, "mine")
    symlinkSync(outside, path)
    removeModel("user/repo:Q5_0")
    expect(existsSync(path)).toBe(false)
    expect(textOf(outside)).toBe("mine")
  })

  test("is not removed while it is downloaded", async () => {
    await fetched("user/repo")
    const oid = sha256(new TextEncoder().encode("four bits"))
    const lock = FileLock.try(cache.lockPath("user/repo", oid))!
    expect(() => removeModel("user/repo")).toThrow("being downloaded by another process")
    lock.release()
    removeModel("user/repo")
    expect(existsSync(cache.repoFolder("user/repo"))).toBe(false)
    expect(() => removeModel("user/repo")).toThrow("nothing of it is in")
    expect(() => removeModel("none.gguf")).toThrow("nothing of it is in")
    expect(() => removeModel("a/b/c")).toThrow("names no model")
  })

  test("nothing at all is an empty list", () => {
    expect(listModels()).toMatchObject({ models: [], partials: [] })
  })
})

/**
 * A hub on this machine with the endpoints that models are found and read by: `refs`, `tree` in pages, and `resolve`,
 * which redirects to a storage of another address, as the real one does. It breaks and lies where a test says so.
 */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http"
import type { AddressInfo } from "node:net"

export interface FakeFile {
  readonly content: Uint8Array
  /** In Git itself, not in its large file storage. */
  readonly isPlain?: boolean
  /** What the tree says instead of the truth. */
  readonly statedBytes?: number
  readonly statedOid?: string
}

export interface FakeRepo {
  readonly files: Readonly<Record<string, FakeFile>>
  readonly commit?: string
  readonly access?: "public" | "gated" | "private"
}

/** A request for a file's bytes, as it came to the storage. */
export interface StorageRequest {
  readonly path: string
  readonly method: string
  /** Absent where all of the file is asked for. */
  readonly range?: readonly [from: number, last: number]
  /** How many came before it. */
  readonly index: number
}

export interface Fault {
  /** Answer with this status alone. */
  readonly status?: number
  readonly headers?: Readonly<Record<string, string>>
  /** Break the connection behind so many bytes of the body. */
  readonly breakAfter?: number
  /** Wait so long before each piece of 16 KiB. */
  readonly pieceDelayMs?: number
  /** Answer a range with the whole file. */
  readonly ignoresRange?: boolean
  /** Say that the file has so many bytes. */
  readonly totalBytes?: number
  /** Send these bytes instead. */
  readonly body?: Uint8Array
  /** Never answer. */
  readonly isSilent?: boolean
}

export interface FakeHub extends AsyncDisposable {
  readonly endpoint: string
  /** Every request to the hub itself: method and path. */
  readonly requests: string[]
  readonly storageRequests: StorageRequest[]
  /** What is wrong with an answer of the storage; nothing, unless a test sets it. */
  fault: (request: StorageRequest) => Fault | undefined
  /** Of the API: a status for every answer. */
  apiStatus: number | undefined
  readonly repos: Map<string, FakeRepo>
  /** Files of one answer of `tree`; more come in further pages, which llama.cpp does not ask for. Default 1000. */
  pageFiles: number
  /** Serves a file by a plain URL, without a hub. */
  readonly serveFile: (name: string, content: Uint8Array, etag?: string) => string
}

export const COMMIT = "c0ffee".padEnd(40, "0")
export const TOKEN = `hf_${"t".repeat(34)}`
const PIECE_BYTES = 16 * 1024

export const sha256 = (bytes: Uint8Array): string =>
  new Bun.CryptoHasher("sha256").update(bytes).digest("hex")

export const gitOid = (bytes: Uint8Array): string =>
  new Bun.CryptoHasher("sha1").update(`blob ${bytes.length}\0`).update(bytes).digest("hex")

/** Of large files it takes longer than all the rest. */
const digests = new WeakMap<Uint8Array, string>()

const digestOf = (bytes: Uint8Array): string => {
  const digest = digests.get(bytes) ?? sha256(bytes)
  digests.set(bytes, digest)
  return digest
}

const oidOf = (file: FakeFile): string =>
  file.statedOid ?? (file.isPlain ? gitOid(file.content) : digestOf(file.content))

export const startFakeHub = async (repos: Readonly<Record<string, FakeRepo>> = {}) => {
  const requests: string[] = []
  const storageRequests: StorageRequest[] = []
  const stored = new Map<string, { content: Uint8Array; etag?: string }>()
  const storage = await listen((request, response) => {
    const { pathname } = new URL(request.url!, "http://storage")
    const path = decodeURIComponent(pathname.slice(1))
    const range = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? "")
    const asked: StorageRequest = {
      path,
      method: request.method!,
      index: storageRequests.length,
      ...(range && { range: [Number(range[1]), Number(range[2])] as const }),
    }
    storageRequests.push(asked)
    const file = stored.get(path)
    // A signed link with another authorization beside it is refused by real storages.
    const isRefused = path.startsWith("blob/") && request.headers.authorization !== undefined
    if (isRefused) return void response.writeHead(400).end()
    if (file === undefined) return void response.writeHead(404).end()
    return void sendFile(response, file, asked, hub.fault(asked) ?? {})
  })
  const server = await listen((request, response) => {
    requests.push(`${request.method} ${request.url}`)
    answerApi(hub, storage.origin, stored, request, response)
  })
  const hub: FakeHub = {
    endpoint: server.origin,
    requests,
    storageRequests,
    fault: () => undefined,
    apiStatus: undefined,
    pageFiles: 1000,
    repos: new Map(Object.entries(repos)),
    serveFile: (name, content, etag) => {
      stored.set(name, { content, ...(etag === undefined ? {} : { etag }) })
      return `${storage.origin}/${encodeURIComponent(name)}`
    },
    [Symbol.asyncDispose]: async () => {
      await Promise.all([server.close(), storage.close()])
    },
  }
  return hub
}

type Listener = (request: IncomingMessage, response: ServerResponse) => void

const listen = async (listener: Listener) => {
  const server: Server = createServer(listener)
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve))
  const { port } = server.address() as AddressInfo
  return {
    origin: `http://127.0.0.1:${port}`,
    close: () =>
      new Promise<void>((resolve) => {
        server.close(() => resolve())
        server.closeAllConnections()
      }),
  }
}

const answerApi = (
  hub: FakeHub,
  storage: string,
  stored: Map<string, { content: Uint8Array }>,
  request: IncomingMessage,
  response: ServerResponse,
): ServerResponse => {
  const json = (
    status: number,
    value: unknown,
    headers: Record<string, string> = {},
  ): ServerResponse => {
    response.writeHead(status, { "content-type": "application/json", ...headers })
    return response.end(JSON.stringify(value))
  }
  const refuse = (status: number, code: string, error: string): ServerResponse =>
    json(status, { error }, { "x-error-code": code, "x-error-message": error })
  if (hub.apiStatus !== undefined) return json(hub.apiStatus, { error: "not now" })
  const url = new URL(request.url!, hub.endpoint)
  const [, repo = "", api, rest = ""] =
    /^\/api\/models\/([^/]+\/[^/]+)\/(refs|tree)\/?(.*)$/.exec(url.pathname) ??
    /^\/([^/]+\/[^/]+)\/(resolve)\/(.*)$/.exec(url.pathname) ??
    []
  const found = hub.repos.get(repo)
  const hasToken = request.headers.authorization === `Bearer ${TOKEN}`
  // As the real one: who is not known learns of no private repository.
  if (found === undefined || (found.access === "private" && !hasToken)) {
    return hasToken
      ? refuse(404, "RepoNotFound", "Repository not found")
      : refuse(401, "RepoNotFound", "Invalid username or password.")
  }
  const commit = found.commit ?? COMMIT
  if (api === "refs") {
    const other = { name: "dev", ref: "refs/heads/dev", targetCommit: "d".repeat(40) }
    const main = { name: "main", ref: "refs/heads/main", targetCommit: commit }
    return json(200, { branches: [other, main], tags: [], converts: [] })
  }
  if (api === "tree") {
    const entries = [
      { type: "directory", oid: "e".repeat(40), size: 0, path: "folder" },
      ...Object.entries(found.files).map(([path, file]) => entryOf(path, file)),
    ]
    const cursor = Number(url.searchParams.get("cursor") ?? 0)
    const next = cursor + hub.pageFiles
    const link = `<${url.origin}${url.pathname}?recursive=true&cursor=${next}>; rel="next"`
    return json(200, entries.slice(cursor, next), next < entries.length ? { link } : {})
  }
  const path = decodeURIComponent(rest.split("/").slice(1).join("/"))
  const file = found.files[path]
  if (file === undefined) return refuse(404, "EntryNotFound", "Entry not found")
  if (found.access === "gated" && !hasToken) {
    return refuse(401, "GatedRepo", "Access to model is restricted.")
  }
  const key = `blob/${digestOf(file.content)}`
  stored.set(key, { content: file.content })
  response.writeHead(302, {
    location: `${storage}/${encodeURIComponent(key)}?signature=secret`,
    "x-linked-etag": `"${oidOf(file)}"`,
    "x-linked-size": String(file.content.length),
    "x-repo-commit": commit,
  })
  return response.end()
}

const entryOf = (path: string, file: FakeFile) => {
  const size = file.statedBytes ?? file.content.length
  const oid = oidOf(file)
  return file.isPlain
    ? { type: "file", oid, size, path }
    : { type: "file", oid: "f".repeat(40), size, path, lfs: { oid, size, pointerSize: 134 } }
}

const sendFile = async (
  response: ServerResponse,
  { content, etag }: { content: Uint8Array; etag?: string },
  { method, range }: StorageRequest,
  fault: Fault,
): Promise<void> => {
  if (fault.isSilent) return
  if (fault.status !== undefined) {
    response.writeHead(fault.status, fault.headers).end()
    return
  }
  const isRanged = range !== undefined && !fault.ignoresRange
  const [from, last] = isRanged ? range : [0, content.length - 1]
  if (isRanged && from >= content.length) {
    response.writeHead(416, { "content-range": `bytes */${content.length}` }).end()
    return
  }
  const end = Math.min(last + 1, content.length)
  const total = fault.totalBytes ?? content.length
  response.writeHead(isRanged ? 206 : 200, {
    "content-length": String(isRanged ? end - from : total),
    ...(isRanged ? { "content-range": `bytes ${from}-${end - 1}/${total}` } : {}),
    ...(etag === undefined ? {} : { etag }),
    ...fault.headers,
  })
  if (method === "HEAD") {
    response.end()
    return
  }
  response.flushHeaders()
  const body = fault.body ?? content.subarray(from, end)
  const stop = Math.min(body.length, fault.breakAfter ?? body.length)
  for (let at = 0; at < stop && !response.destroyed; at += PIECE_BYTES) {
    if (fault.pieceDelayMs !== undefined) await Bun.sleep(fault.pieceDelayMs)
    response.write(body.subarray(at, Math.min(at + PIECE_BYTES, stop)))
  }
  if (fault.breakAfter === undefined) response.end()
  // Later: what was written is to arrive, and be read, before the reset takes it along.
  else setTimeout(() => response.destroy(), 30)
}

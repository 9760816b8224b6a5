/** Models by URL, kept as llama.cpp keeps them: in its cache folder by the URL's last name, with the ETag beside. */
import { readFileSync, renameSync, writeFileSync } from "node:fs"
import { basename, dirname, join } from "node:path"
import { llamaCacheFolder } from "@ggml-rpc/native/bindings"
import { type Digest, digestOf } from "./Checksum.ts"
import { partUrlsOf } from "./choose.ts"
import { isModelsError, ModelNameError, UnreachableError } from "./errors.ts"
import { sizeOf } from "./HubCache.ts"
import {
  type Asker,
  displayUrl,
  endlessRedirect,
  exchange,
  type HttpOptions,
  originOf,
  QUESTION_ATTEMPTS,
  refusalOf,
  retrying,
} from "./http.ts"

/** One file of a model that a URL names. */
export interface UrlFile {
  readonly url: string
  readonly path: string
  readonly headers: Readonly<Record<string, string>>
  readonly asker: Asker
}

/** What a server tells of a file without sending it. */
export interface UrlHead {
  readonly etag: string | undefined
  readonly sizeBytes: number | undefined
  readonly digest: Digest | undefined
}

/**
 * All files of the model at `url`; `path` is where the first goes, instead of llama.cpp's cache.
 *
 * @throws {ModelNameError}
 */
export const urlFiles = (
  url: string,
  path: string | undefined,
  headersFor: (url: string) => Readonly<Record<string, string>>,
): readonly UrlFile[] => {
  if (!/^https?:\/\//i.test(url) || !URL.canParse(url)) {
    throw new ModelNameError({
      name: url,
      reason: "a URL begins with http:// or https:// and a host",
    })
  }
  const parts = partUrlsOf(url)
  return parts.map((part) => {
    const name = /([^/]*?)([?#].*)?$/s.exec(part)![1]!
    const isNameless = name === "" || name === new URL(url).host
    if (isNameless) throw new ModelNameError({ name: url, reason: "the URL ends in no file name" })
    const folder = path === undefined ? llamaCacheFolder() : dirname(path)
    const isOwnName = path !== undefined && parts.length === 1
    const { bare, headers } = withoutUser(part)
    return {
      url: bare,
      path: join(folder, isOwnName ? basename(path) : name),
      headers: { ...headersFor(bare), ...headers },
      asker: {
        name: displayUrl(url),
        page: displayUrl(url),
        hasToken: headers.authorization !== undefined,
      },
    }
  })
}

/** User name and password as the header that they mean. */
const withoutUser = (url: string): { bare: string; headers: { authorization?: string } } => {
  const parsed = new URL(url)
  const { username, password } = parsed
  if (username === "" && password === "") return { bare: url, headers: {} }
  parsed.username = ""
  parsed.password = ""
  const pair = `${decodeURIComponent(username)}:${decodeURIComponent(password)}`
  return {
    bare: parsed.href,
    headers: { authorization: `Basic ${Buffer.from(pair).toString("base64")}` },
  }
}

const MAX_REDIRECTS = 10
/** Servers that sign a link for GET alone, or know no HEAD at all. */
const NO_HEAD_STATUSES = [400, 403, 405, 501]

/** Asks for the head of a file. The hub's own redirect tells a checksum that the storage behind it does not. */
export const headOf = (file: UrlFile, options: HttpOptions): Promise<UrlHead> =>
  retrying(
    { ...options, attempts: QUESTION_ATTEMPTS },
    async () => {
      let { url, headers } = file
      const linked: { etag?: string | undefined } = {}
      for (let hop = 0; hop <= MAX_REDIRECTS; hop++) {
        const answer = await askHead(url, headers, file, options)
        linked.etag ??= answer.linkedEtag
        if (answer.location === undefined) {
          const digest = linked.etag === undefined ? undefined : digestOf(bareEtag(linked.etag))
          return { etag: answer.etag, sizeBytes: answer.sizeBytes, digest }
        }
        const next = new URL(answer.location, url).href
        if (originOf(next) !== originOf(url)) headers = {}
        url = next
      }
      throw endlessRedirect(file.url)
    },
    (problem) => new UnreachableError({ url: displayUrl(file.url), problem, keptBytes: 0 }),
  )

interface HeadAnswer {
  readonly location?: string
  readonly linkedEtag: string | undefined
  readonly etag: string | undefined
  readonly sizeBytes: number | undefined
}

const askHead = async (
  url: string,
  headers: Readonly<Record<string, string>>,
  file: UrlFile,
  options: HttpOptions,
): Promise<HeadAnswer> => {
  const ask = (method: string, more: Readonly<Record<string, string>> = {}) =>
    exchange(
      url,
      { method, headers: { ...headers, ...more }, redirect: "manual" },
      options,
      async ({ response }) => response,
    )
  let response = await ask("HEAD")
  if (NO_HEAD_STATUSES.includes(response.status))
    response = await ask("GET", { range: "bytes=0-0" })
  const { status, headers: told } = response
  const linkedEtag = told.get("x-linked-etag") ?? undefined
  const location = told.get("location")
  if (status >= 300 && status < 400 && location !== null) {
    return { location, linkedEtag, etag: undefined, sizeBytes: undefined }
  }
  if (status !== 200 && status !== 206) throw refusalOf(file.url, response, file.asker)
  const length =
    status === 206 ? told.get("content-range")?.split("/")[1] : told.get("content-length")
  const sizeBytes = /^\d+$/.test(length ?? "") ? Number(length) : undefined
  return { linkedEtag, etag: told.get("etag") ?? undefined, sizeBytes }
}

const bareEtag = (etag: string): string => etag.replace(/^(W\/)?"?|"$/g, "")

const etagPath = (path: string): string => `${path}.etag`

const readEtag = (path: string): string | undefined => {
  try {
    return readFileSync(etagPath(path), "utf8").split("\n")[0] || undefined
  } catch {
    return undefined
  }
}

/** Remembers which version of the file is here. */
export const writeEtag = (path: string, etag: string | undefined): void => {
  if (etag === undefined) return
  const temporary = `${etagPath(path)}.tmp`
  writeFileSync(temporary, etag)
  renameSync(temporary, etagPath(path))
}

/** Whether the file is here and the server has no other version of it, as llama.cpp decides that. */
export const isCurrent = (path: string, { etag }: UrlHead): boolean =>
  sizeOf(path) !== undefined && (etag === undefined || readEtag(path) === etag)

/** Whether the file is here, so that an unreachable server is no reason to stop. */
export const isHere = ({ path }: UrlFile): boolean => sizeOf(path) !== undefined

/** The head, or the error that kept it back. */
export const headOrError = async (file: UrlFile, options: HttpOptions) => {
  try {
    return await headOf(file, options)
  } catch (error) {
    if (isModelsError(error)) return error
    throw error
  }
}

/** Not beside the file, which may go to a folder of the user's. */
export const urlLockPath = (path: string): string =>
  join(llamaCacheFolder(), ".locks", `${Bun.hash(path).toString(16)}.lock`)

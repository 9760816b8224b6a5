/** What a hub that speaks Hugging Face's API tells of a repository. */
import { listFiles } from "@huggingface/hub"
import { type Digest, digestOf } from "./Checksum.ts"
import { BadAnswerError, isModelsError, ModelNotFoundError, UnreachableError } from "./errors.ts"
import {
  type Asker,
  displayUrl,
  exchange,
  type HttpOptions,
  originOf,
  QUESTION_ATTEMPTS,
  refusalOf,
  retrying,
} from "./http.ts"

export interface HubFile {
  readonly path: string
  /** What the cache names its blob by. */
  readonly oid: string
  readonly digest: Digest
  readonly sizeBytes: number
  readonly url: string
}

type Environment = Readonly<Record<string, string | undefined>>

const DEFAULT_ENDPOINT = "https://huggingface.co"

/** The hub's address without a slash at its end; common.cpp `common_get_model_endpoint` (v0.5.0). */
export const hubEndpoint = (environment: Environment = process.env): string =>
  (environment.MODEL_ENDPOINT || environment.HF_ENDPOINT || DEFAULT_ENDPOINT).replace(/\/+$/, "")

export class Hub {
  readonly endpoint: string
  readonly #token: string | undefined
  readonly #options: HttpOptions

  constructor(endpoint: string, token: string | undefined, options: HttpOptions) {
    this.endpoint = endpoint
    this.#token = token
    this.#options = { ...options, attempts: QUESTION_ATTEMPTS }
  }

  asker(repo: string): Asker {
    const page = `${this.endpoint}/${repo}`
    return { name: repo, page, hasToken: this.#token !== undefined }
  }

  /** What shows this client to the hub; nothing for the servers of others. */
  headersFor(url: string): Readonly<Record<string, string>> {
    const isHub = originOf(url) === originOf(this.endpoint)
    return isHub && this.#token !== undefined ? { authorization: `Bearer ${this.#token}` } : {}
  }

  /** The commit of branch `main`, else of the first one, as llama.cpp takes it. */
  async commitOf(repo: string): Promise<string> {
    const url = `${this.endpoint}/api/models/${repo}/refs`
    const { text } = await this.#get(url, repo)
    const { branches = [] } = this.#parse(url, text) as { branches?: ReadonlyArray<Branch> }
    const usable = Array.isArray(branches)
      ? branches.filter(({ targetCommit }) => /^[0-9a-f]{40}$/i.test(String(targetCommit)))
      : []
    const branch = usable.find(({ name }) => name === "main") ?? usable[0]
    if (branch !== undefined) return String(branch.targetCommit)
    throw new ModelNotFoundError({ name: repo, detail: "its repository has no branch" })
  }

  /** Every file of a commit, in the hub's order. */
  async filesOf(repo: string, commit: string): Promise<readonly HubFile[]> {
    const files: HubFile[] = []
    const entries = listFiles({
      repo: { type: "model", name: repo },
      revision: commit,
      recursive: true,
      hubUrl: this.endpoint,
      fetch: this.#fetchFor(repo),
    })
    try {
      for await (const { type, path, size, oid, lfs } of entries) {
        const id = lfs?.oid ?? oid ?? ""
        const digest = digestOf(id)
        const sizeBytes = lfs?.size ?? size
        if (type !== "file" || digest === undefined || !isInside(path)) continue
        if (!Number.isSafeInteger(sizeBytes) || sizeBytes < 0) continue
        const url = `${this.endpoint}/${repo}/resolve/${commit}/${encodePath(path)}`
        files.push({ path, oid: digest.hex, digest, sizeBytes, url })
      }
    } catch (cause) {
      if (isModelsError(cause) || this.#options.signal.aborted) throw cause
      throw this.#noApi(`${this.endpoint}/api/models/${repo}/tree/${commit}`)
    }
    return files
  }

  /** Asks for a file's head alone: whether this client may have it. */
  async check({ url }: HubFile, repo: string): Promise<void> {
    await this.#request(url, repo, "HEAD")
  }

  async #get(url: string, repo: string): Promise<{ text: string; link: string | null }> {
    return this.#request(url, repo, "GET")
  }

  #request(url: string, repo: string, method: "GET" | "HEAD") {
    const headers = { accept: "application/json", ...this.headersFor(url) }
    return retrying(
      this.#options,
      () =>
        exchange(url, { method, headers }, this.#options, async ({ response, chunks }) => {
          if (!response.ok) throw refusalOf(url, response, this.asker(repo))
          const parts: Uint8Array[] = []
          for await (const chunk of chunks()) parts.push(chunk)
          const text = Buffer.concat(parts).toString("utf8")
          return { text, link: response.headers.get("link") }
        }),
      (problem) => new UnreachableError({ url: displayUrl(url), problem, keptBytes: 0 }),
    )
  }

  /** `fetch` with this hub's patience and errors, for the library. */
  #fetchFor(repo: string): typeof fetch {
    const get = async (input: Parameters<typeof fetch>[0]): Promise<Response> => {
      const { text, link } = await this.#get(String(input), repo)
      return new Response(text, { headers: link === null ? {} : { link } })
    }
    return get as typeof fetch
  }

  #parse(url: string, text: string): object {
    try {
      const value: unknown = JSON.parse(text)
      if (typeof value === "object" && value !== null) return value
    } catch {
      // Told below.
    }
    throw this.#noApi(url)
  }

  #noApi(url: string): BadAnswerError {
    return new BadAnswerError({
      url: displayUrl(url),
      problem: `the answer is none of Hugging Face's API; check that ${this.endpoint} is a hub, or a login page may stand before it`,
    })
  }
}

interface Branch {
  readonly name?: unknown
  readonly targetCommit?: unknown
}

/** Whether a path stays in the folder that it is joined to. */
const isInside = (path: string): boolean =>
  typeof path === "string" &&
  path !== "" &&
  !path.includes("\\") &&
  path.split("/").every((part) => part !== "" && part !== "." && part !== "..")

const encodePath = (path: string): string => path.split("/").map(encodeURIComponent).join("/")

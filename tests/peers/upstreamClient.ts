/** Runs `upstream-client` of any release: tokens evaluated by that release's libllama. */
import { ensurePeers } from "./peers.ts"
import { ProcessError, runProcess } from "./process.ts"
import { newestRelease, type Release } from "./releases.ts"

export interface UpstreamClientOptions {
  /** Default the newest. */
  readonly release?: Release
  /** Path of a GGUF file. */
  readonly model: string
  readonly prompt: string | ReadonlyArray<number>
  /** Tokens to generate greedily after the prompt; default 0. */
  readonly tokenCount?: number
  /** `HOST:PORT` of the servers that run the model; none: the local CPU. */
  readonly endpoints?: ReadonlyArray<string>
  /** Default 1: then sums are taken in the same order wherever the model runs. */
  readonly threads?: number
  /** More of its options; see `upstream-client.cpp`. */
  readonly options?: ReadonlyArray<string>
  /** Default 60000. */
  readonly timeoutMs?: number
}

/** What it prints. Times are milliseconds. */
export interface UpstreamClientResult {
  readonly devices: ReadonlyArray<{
    readonly name: string
    readonly description: string
    readonly freeBytes: number
    readonly totalBytes: number
  }>
  readonly model: {
    readonly layerCount: number
    readonly embeddingLength: number
    readonly vocabSize: number
    readonly sizeBytes: number
  }
  readonly loadMs: number
  readonly contextMs: number
  /** Ids of the prompt's tokens. */
  readonly prompt: ReadonlyArray<number>
  readonly runs: ReadonlyArray<{
    readonly tokens: ReadonlyArray<number>
    readonly promptMs: number
    readonly tokenMs: ReadonlyArray<number>
  }>
}

/**
 * Compiles the client where needed, and runs it to its end.
 *
 * @throws {ProcessError} "exited", with what it printed on stderr, or "timeout"
 */
export const runUpstreamClient = async (
  given: UpstreamClientOptions,
): Promise<UpstreamClientResult> => {
  const release = given.release ?? newestRelease
  const { "upstream-client": program } = await ensurePeers(["upstream-client"], { release })
  const { model, prompt, endpoints = [] } = given
  const { exitCode, stdout, stderr } = await runProcess(
    [
      ...[program, "-m", model, "-t", String(given.threads ?? 1)],
      ...["-n", String(given.tokenCount ?? 0)],
      ...(typeof prompt === "string" ? ["-p", prompt] : ["--tokens", prompt.join(",")]),
      ...(endpoints.length === 0 ? [] : ["--rpc", endpoints.join(",")]),
      ...(given.options ?? []),
    ],
    {
      // A client that aborts, as on a version that is not its own, would wait for a debugger.
      env: { GGML_NO_BACKTRACE: "1" },
      ...(given.timeoutMs === undefined ? {} : { timeoutMs: given.timeoutMs }),
    },
  )
  if (exitCode === 0) return JSON.parse(stdout)
  throw new ProcessError({
    reason: "exited",
    message: `upstream-client of llama.cpp ${release.llamaVersion} ended with exit code ${exitCode}; it printed:\n${stderr.slice(-4000)}`,
  })
}

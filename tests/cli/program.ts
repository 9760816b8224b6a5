/** The program as the end-to-end tests call it, and files and servers for it. */
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import {
  type ChildProcess,
  type FinishedProcess,
  runProcess,
  type StartOptions,
  startProcess,
} from "../peers/process.ts"
import { ggmlRpc, noState } from "../servers.ts"

// The developer's shell must not decide what the tests see.
const environment = {
  NO_COLOR: undefined,
  GGML_RPC_DEBUG: undefined,
  ...Object.fromEntries(
    Object.keys(process.env)
      .filter((name) => name.startsWith("LLAMA_ARG_"))
      .map((name) => [name, undefined]),
  ),
  ...noState,
}

const withEnvironment = (options: StartOptions): StartOptions => ({
  ...options,
  env: { ...environment, ...options.env },
})

/** Runs `ggml-rpc` with these words to its end. */
export const runCli = (
  args: readonly string[],
  options: StartOptions = {},
): Promise<FinishedProcess> => runProcess([...ggmlRpc, ...args], withEnvironment(options))

/** Starts `ggml-rpc` with these words. */
export const startCli = (args: readonly string[], options: StartOptions = {}): ChildProcess =>
  startProcess([...ggmlRpc, ...args], withEnvironment(options))

/** A folder of its own for a test file; `using` or `Symbol.dispose` removes it. */
export const temporaryFolder = (): { readonly path: string } & Disposable => {
  const path = mkdtempSync(join(tmpdir(), "ggml-rpc-cli-test-"))
  return {
    path,
    [Symbol.dispose]: () => rmSync(path, { recursive: true, force: true }),
  }
}

/** Lines of JSON. */
export const jsonLines = (text: string): ReadonlyArray<Record<string, unknown>> =>
  text
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line))

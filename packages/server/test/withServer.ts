import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Scope from "effect/Scope"
import { type LogEntry, type RunningServer, type ServeOptions, serve } from "../src/index.ts"

export interface TestServer extends RunningServer {
  readonly log: readonly LogEntry[]
  /** Waits for a log line that contains all of the texts. @throws {Error} after 10 s, with the log */
  readonly logged: (...texts: readonly string[]) => Promise<string>
}

/** `TestServer.logged` of the lines from `first` on. */
export const loggedIn =
  (log: readonly LogEntry[], first = 0): TestServer["logged"] =>
  async (...texts) => {
    for (let tries = 0; tries < 1000; tries++) {
      const found = log
        .slice(first)
        .find(({ message }) => texts.every((text) => message.includes(text)))
      if (found !== undefined) return found.message
      await Bun.sleep(10)
    }
    const seen = log.slice(first).map(({ level, message }) => `${level}: ${message}`)
    throw new Error(`no log line with ${texts.join(" and ")}; the log:\n${seen.join("\n")}`)
  }

/** Starts a server on a free loopback port, for the tests of a file; `stop` ends it. */
export const startServer = async (
  options: ServeOptions = {},
): Promise<TestServer & { readonly stop: () => Promise<void> }> => {
  const log: LogEntry[] = []
  const scope = Effect.runSync(Scope.make())
  // What other servers of this machine promise shall not decide what a test sees.
  const ledgerFolder = mkdtempSync(join(tmpdir(), "ggml-rpc-test-ledger-"))
  const stop = async (): Promise<void> => {
    await Effect.runPromise(Scope.close(scope, Exit.void))
    rmSync(ledgerFolder, { recursive: true, force: true })
  }
  const quiet = {
    port: 0,
    threadCount: 1,
    debug: false,
    warmup: false,
    ledgerFolder,
    log: (entry: LogEntry) => log.push(entry),
  }
  try {
    const server = await Effect.runPromise(Scope.extend(serve({ ...quiet, ...options }), scope))
    return { ...server, log, logged: loggedIn(log), stop }
  } catch (error) {
    await stop()
    throw error
  }
}

/** Runs `use` with a server on a free loopback port, which is closed afterwards. */
export const withServer = async <A>(
  options: ServeOptions,
  use: (server: TestServer) => Promise<A>,
): Promise<A> => {
  const server = await startServer(options)
  try {
    return await use(server)
  } finally {
    await server.stop()
  }
}

/**
 * `ggml-rpc` as one executable: the program, the processes that it starts, and the libraries. scripts/binary.ts makes the
 * entry that calls this with what is carried.
 */
import { userCacheFolder, useUnpacked } from "@ggml-rpc/native/bindings"
import { startWorkersBy } from "@ggml-rpc/native/worker"
import { type CarriedFile, UnpackError, unpack } from "./unpack.ts"

/** The first word of a command line that only the executable itself writes. */
const WORKER_WORD = "--ggml-rpc-worker"

const workers: Readonly<Record<string, () => Promise<unknown>>> = {
  "@ggml-rpc/client/engine": () => import("@ggml-rpc/client/engine"),
  "@ggml-rpc/server/session": () => import("@ggml-rpc/server/session"),
}

/** Help and version need no library, and no folder that can be written. */
const isAnsweredAlone = ([first, ...rest]: ReadonlyArray<string>): boolean =>
  first === undefined ||
  ["help", "-h", "--help", "--version"].includes(first) ||
  rest.includes("--help")

const run = async (): Promise<void> => {
  const { main } = await import("../program.ts")
  process.exit(await main(process.argv.slice(2)))
}

/** Runs as the command line says, and ends the process. */
export const start = async (files: ReadonlyArray<CarriedFile>): Promise<void> => {
  const [word, module = "", ...args] = process.argv.slice(2)
  try {
    if (isAnsweredAlone(process.argv.slice(2))) return await run()
    useUnpacked(await unpack(userCacheFolder(), files))
  } catch (error) {
    if (!(error instanceof UnpackError)) throw error
    console.error(`ggml-rpc: ${error.message}`)
    process.exit(1)
  }
  startWorkersBy((name) => [WORKER_WORD, name])
  const worker = word === WORKER_WORD ? workers[module] : undefined
  if (worker === undefined) return await run()
  // As it is where the module is a program of its own.
  process.argv.splice(2, Number.POSITIVE_INFINITY, ...args)
  await worker()
}

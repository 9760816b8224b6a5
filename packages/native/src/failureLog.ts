/** What ggml and llama said about a failure: they log it, and give back only a null or a number. */
import { takeLog } from "./libggml.ts"
import { llama } from "./libllama.ts"

/** What was logged since the last `takeLog`, and the exception that the shim caught. */
export const takeFailureLog = (): string =>
  [takeLog(), String(llama().ls_last_error())].filter((text) => text !== "").join("\n")

/** The last lines of a log, for a message of one paragraph. */
export const logTail = (log: string): string => {
  const lines = log.split("\n").filter((line) => line.trim() !== "")
  return lines.slice(-3).join("; ") || "llama.cpp logged no reason"
}

const outOfMemory =
  /(failed|unable) to (allocate|reserve)|out of memory|cannot allocate|bad_alloc|OutOfDeviceMemory/i

/** Whether a log says that memory was missing. */
export const saysOutOfMemory = (log: string): boolean => outOfMemory.test(log)

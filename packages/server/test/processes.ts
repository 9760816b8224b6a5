import { readFileSync } from "node:fs"

/** Whether a process is there and not a zombie. */
export const isAlive = (pid: number): boolean => {
  try {
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, "utf8"))
  } catch {
    return false
  }
}

/** Resident bytes of a process. */
export const residentBytes = (pid: number): number => {
  const match = readFileSync(`/proc/${pid}/status`, "utf8").match(/^VmRSS:\s+(\d+)/m)
  return Number(match?.[1] ?? 0) * 1024
}

/** Waits until `condition` holds; the milliseconds it took. @throws {Error} after `timeoutMs` */
export const waitFor = async (
  what: string,
  condition: () => boolean,
  timeoutMs = 10_000,
): Promise<number> => {
  const start = performance.now()
  while (!condition()) {
    if (performance.now() - start > timeoutMs)
      throw new Error(`${what}: not within ${timeoutMs} ms`)
    await Bun.sleep(5)
  }
  return performance.now() - start
}

/** The process that has most memory: the session whose client uploaded something. */
export const largest = (pids: readonly number[]): number =>
  [...pids].sort((a, b) => residentBytes(b) - residentBytes(a))[0]!

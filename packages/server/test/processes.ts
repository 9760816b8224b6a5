import { closeSync, openSync, readFileSync, readSync } from "node:fs"

/** What the system tells of a process; "" when it is not there. */
const statusOf = (pid: number): string => {
  try {
    return readFileSync(`/proc/${pid}/status`, "utf8")
  } catch {
    return ""
  }
}

/** Whether a process is there and not a zombie, which has ended and waits for its parent. */
export const isAlive = (pid: number): boolean => {
  const status = statusOf(pid)
  return status !== "" && !/^State:\s+Z/m.test(status)
}

const kibibytes = (pid: number, field: string): number =>
  Number(new RegExp(`^${field}:\\s+(\\d+) kB$`, "m").exec(statusOf(pid))?.[1] ?? 0)

/** Resident bytes of a process; 0 of one that is not there. */
export const residentBytes = (pid: number): number => kibibytes(pid, "VmRSS") * 1024

/** Bytes of the address space that a process has taken; 0 of one that is not there. */
export const addressBytes = (pid: number): number => kibibytes(pid, "VmSize") * 1024

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

/** Whether these bytes lie in memory that a process can write. */
export const memoryHolds = (pid: number, bytes: Uint8Array): boolean => {
  const areas = readFileSync(`/proc/${pid}/maps`, "utf8").matchAll(/^(\w+)-(\w+) rw/gm)
  const memory = openSync(`/proc/${pid}/mem`, "r")
  const pages = openSync(`/proc/${pid}/pagemap`, "r")
  try {
    for (const [, from, to] of areas) {
      for (const run of presentRuns(pages, Number(`0x${from}`), Number(`0x${to}`))) {
        if (readRun(memory, run).includes(bytes)) return true
      }
    }
    return false
  } finally {
    closeSync(memory)
    closeSync(pages)
  }
}

interface Run {
  readonly at: number
  readonly sizeBytes: number
}

const PAGE_BYTES = 4096

/** Most of what a JavaScript engine reserves was never written: only pages that are there are looked at. */
function* presentRuns(pages: number, from: number, to: number): Generator<Run> {
  const flags = new BigUint64Array((to - from) / PAGE_BYTES)
  readSync(pages, new Uint8Array(flags.buffer), 0, flags.byteLength, (from / PAGE_BYTES) * 8)
  let start = -1
  for (let page = 0; page <= flags.length; page++) {
    const isPresent = page < flags.length && flags[page]! >> 63n === 1n
    if (isPresent && start < 0) start = page
    if (isPresent || start < 0) continue
    yield { at: from + start * PAGE_BYTES, sizeBytes: (page - start) * PAGE_BYTES }
    start = -1
  }
}

const readRun = (memory: number, { at, sizeBytes }: Run): Buffer => {
  const bytes = Buffer.alloc(sizeBytes)
  try {
    return bytes.subarray(0, readSync(memory, bytes, 0, sizeBytes, at))
  } catch {
    // Taken back meanwhile.
    return bytes.subarray(0, 0)
  }
}

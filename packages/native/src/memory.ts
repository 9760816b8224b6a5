/** Memory that this machine can really give away: ggml reports a CPU's total memory as free. */
import { readFileSync } from "node:fs"
import { freemem, totalmem } from "node:os"
import { join } from "node:path"
import { asPointer } from "./io.ts"
import { type Device, ggml } from "./libggml.ts"

/** Bytes. */
export interface MemorySize {
  readonly freeBytes: number
  readonly totalBytes: number
}

const read = (path: string): string | undefined => {
  try {
    return readFileSync(path, "utf8")
  } catch {
    return undefined
  }
}

const readNumber = (path: string): number | undefined => {
  const text = read(path)?.trim()
  // "max" means no limit; version 1 writes a huge number instead, which minimum() below drops.
  return text === undefined || !/^\d+$/.test(text) ? undefined : Number(text)
}

/** The number that a pattern captures. */
const numberIn = (text: string | undefined, pattern: RegExp): number | undefined => {
  const match = text?.match(pattern)
  return match ? Number(match[1]) : undefined
}

/**
 * Memory of one cgroup folder: its limit, and what is left below it. File cache that the kernel would
 * drop (`inactive_file`) counts as free, as `MemAvailable` counts it for the machine.
 */
const cgroupMemory = ({ folder, files }: Cgroup): MemorySize | undefined => {
  const limit = readNumber(join(folder, files.limit))
  const usage = readNumber(join(folder, files.usage))
  if (limit === undefined || usage === undefined) return undefined
  const inactive = numberIn(read(join(folder, "memory.stat")), files.inactive) ?? 0
  return { totalBytes: limit, freeBytes: Math.max(0, limit - Math.max(0, usage - inactive)) }
}

interface CgroupFiles {
  readonly limit: string
  readonly usage: string
  /** In memory.stat. */
  readonly inactive: RegExp
}

interface Cgroup {
  readonly folder: string
  readonly files: CgroupFiles
}

const v2Files: CgroupFiles = {
  limit: "memory.max",
  usage: "memory.current",
  inactive: /^inactive_file\s+(\d+)/m,
}

const v1Files: CgroupFiles = {
  limit: "memory.limit_in_bytes",
  usage: "memory.usage_in_bytes",
  inactive: /^total_inactive_file\s+(\d+)/m,
}

/** This process's cgroup and all groups around it: each can hold the lowest limit. */
const enclosingCgroups = (procFolder: string, cgroupRoot: string): ReadonlyArray<Cgroup> => {
  const found: Array<Cgroup> = []
  for (const line of (read(join(procFolder, "self/cgroup")) ?? "").split("\n")) {
    const [, controllers, path] = line.match(/^\d+:([^:]*):(.*)$/) ?? []
    if (path === undefined) continue
    const isV2 = controllers === ""
    if (!isV2 && !controllers?.split(",").includes("memory")) continue
    const root = isV2 ? cgroupRoot : join(cgroupRoot, "memory")
    const parts = path.split("/").filter((part) => part !== "")
    for (let depth = parts.length; depth >= 0; depth--) {
      found.push({
        folder: join(root, ...parts.slice(0, depth)),
        files: isV2 ? v2Files : v1Files,
      })
    }
  }
  return found
}

/** A limit above the machine's memory is none: version 1 writes a huge number instead of "max". */
const limitingCgroups = (
  procFolder: string,
  cgroupRoot: string,
  machineBytes: number,
): ReadonlyArray<Cgroup> =>
  enclosingCgroups(procFolder, cgroupRoot).filter(({ folder, files }) => {
    const limit = readNumber(join(folder, files.limit))
    return limit !== undefined && limit < machineBytes
  })

/**
 * Which groups limit this process changes seldom, and looking takes dozens of reads; what they leave is
 * read each time.
 */
const CGROUP_SCAN_INTERVAL_MS = 5000
let scanned:
  | { readonly key: string; readonly at: number; readonly groups: ReadonlyArray<Cgroup> }
  | undefined

const currentCgroups = (
  procFolder: string,
  cgroupRoot: string,
  machineBytes: number,
): ReadonlyArray<Cgroup> => {
  const key = `${procFolder}\n${cgroupRoot}`
  const now = performance.now()
  if (scanned?.key !== key || now - scanned.at > CGROUP_SCAN_INTERVAL_MS) {
    scanned = { key, at: now, groups: limitingCgroups(procFolder, cgroupRoot, machineBytes) }
  }
  return scanned.groups
}

/**
 * Memory that a new allocation of this process can get now: the least of what the machine has
 * available and what each enclosing cgroup leaves.
 */
export const hostMemory = (procFolder = "/proc", cgroupRoot = "/sys/fs/cgroup"): MemorySize => {
  const meminfo = read(join(procFolder, "meminfo"))
  const total = numberIn(meminfo, /^MemTotal:\s+(\d+)/m)
  const available = numberIn(meminfo, /^MemAvailable:\s+(\d+)/m)
  const machine: MemorySize = {
    totalBytes: total === undefined ? totalmem() : total * 1024,
    freeBytes: available === undefined ? freemem() : available * 1024,
  }
  return currentCgroups(procFolder, cgroupRoot, machine.totalBytes).reduce((least, group) => {
    const memory = cgroupMemory(group)
    if (memory === undefined) return least
    return {
      totalBytes: Math.min(least.totalBytes, memory.totalBytes),
      freeBytes: Math.min(least.freeBytes, memory.freeBytes),
    }
  }, machine)
}

const block = new Float64Array(2)

/** Free and total memory of a device now; for the CPU that of the machine within its cgroup. */
export const deviceMemory = (device: Device): MemorySize => {
  if (device.type === "CPU" || device.type === "ACCEL") return hostMemory()
  ggml().gs_device_memory(asPointer(device.address), block)
  return { freeBytes: block[0]!, totalBytes: block[1]! }
}

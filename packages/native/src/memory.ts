/** Memory that this machine can really give away: ggml reports a CPU's total memory as free. */
import { readFileSync, statSync } from "node:fs"
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
  /** As `/proc/PID/cgroup` writes it. */
  readonly path: string
  readonly isV2: boolean
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

/** The cgroups that count a process's memory; one as a rule, two where both versions are mounted. */
const memoryCgroups = (
  procFolder: string,
  process: number | "self",
): ReadonlyArray<{ readonly isV2: boolean; readonly path: string }> =>
  (read(join(procFolder, String(process), "cgroup")) ?? "").split("\n").flatMap((line) => {
    const [, controllers, path] = line.match(/^\d+:([^:]*):(.*)$/) ?? []
    if (path === undefined || controllers === undefined) return []
    const isV2 = controllers === ""
    return isV2 || controllers.split(",").includes("memory") ? [{ isV2, path }] : []
  })

/** This process's cgroup and all groups around it, the innermost first: each can hold the lowest limit. */
const enclosingCgroups = (procFolder: string, cgroupRoot: string): ReadonlyArray<Cgroup> =>
  memoryCgroups(procFolder, "self").flatMap(({ isV2, path }) => {
    const root = isV2 ? cgroupRoot : join(cgroupRoot, "memory")
    const parts = path.split("/").filter((part) => part !== "")
    return Array.from({ length: parts.length + 1 }, (_, above) => {
      const within = parts.slice(0, parts.length - above)
      return {
        folder: join(root, ...within),
        path: `/${within.join("/")}`,
        isV2,
        files: isV2 ? v2Files : v1Files,
      }
    })
  })

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

/** Memory that several processes draw from. */
export interface MemoryPool extends MemorySize {
  /** Tells it from all others of the machine, for as long as that runs. */
  readonly id: string
  /** Whether another process draws from it as well. */
  readonly holds: (pid: number) => boolean
}

/** The folder's number is the same from inside a container and outside. */
const cgroupId = ({ folder, isV2 }: Cgroup): string => {
  try {
    return `cgroup${isV2 ? 2 : 1} ${statSync(folder).ino}`
  } catch {
    return `cgroup${isV2 ? 2 : 1} ${folder}`
  }
}

const isWithin = (path: string, group: string): boolean =>
  group === "/" || path === group || path.startsWith(`${group}/`)

/** What this process's memory comes from: the machine's, and that of each cgroup that limits it, the innermost last. */
export const memoryPools = (
  procFolder = "/proc",
  cgroupRoot = "/sys/fs/cgroup",
): readonly [MemoryPool, ...MemoryPool[]] => {
  const meminfo = read(join(procFolder, "meminfo"))
  const total = numberIn(meminfo, /^MemTotal:\s+(\d+)/m)
  const available = numberIn(meminfo, /^MemAvailable:\s+(\d+)/m)
  const machine: MemoryPool = {
    id: "machine",
    holds: () => true,
    totalBytes: total === undefined ? totalmem() : total * 1024,
    freeBytes: available === undefined ? freemem() : available * 1024,
  }
  const groups = currentCgroups(procFolder, cgroupRoot, machine.totalBytes).flatMap((group) => {
    const memory = cgroupMemory(group)
    if (memory === undefined) return []
    const holds = (pid: number): boolean =>
      memoryCgroups(procFolder, pid).some(
        ({ isV2, path }) => isV2 === group.isV2 && isWithin(path, group.path),
      )
    return [{ ...memory, id: cgroupId(group), holds }]
  })
  return [machine, ...groups.reverse()]
}

/**
 * Memory that a new allocation of this process can get now: the least of what the machine has
 * available and what each enclosing cgroup leaves.
 */
export const hostMemory = (procFolder?: string, cgroupRoot?: string): MemorySize => {
  const pools = memoryPools(procFolder, cgroupRoot)
  return {
    totalBytes: Math.min(...pools.map(({ totalBytes }) => totalBytes)),
    freeBytes: Math.min(...pools.map(({ freeBytes }) => freeBytes)),
  }
}

const block = new Float64Array(2)

/** Free and total memory of a device now; for the CPU that of the machine within its cgroup. */
export const deviceMemory = (device: Device): MemorySize => {
  if (device.type === "CPU" || device.type === "ACCEL") return hostMemory()
  ggml().gs_device_memory(asPointer(device.address), block)
  return { freeBytes: block[0]!, totalBytes: block[1]! }
}

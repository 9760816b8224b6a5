/** Memory that this machine can really give away: ggml reports a CPU's total memory as free. */
import { readFileSync } from "node:fs"
import { freemem, totalmem } from "node:os"
import { dirname, join } from "node:path"
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

const readField = (path: string, field: string): number | undefined => {
  const match = read(path)?.match(new RegExp(`^${field}:?\\s+(\\d+)`, "m"))
  return match ? Number(match[1]) : undefined
}

/**
 * Memory of one cgroup folder: its limit, and what is left below it. File cache that the kernel would
 * drop (`inactive_file`) counts as free, as `MemAvailable` counts it for the machine.
 */
const cgroupMemory = (
  folder: string,
  files: { readonly limit: string; readonly usage: string; readonly inactive: string },
): MemorySize | undefined => {
  const limit = readNumber(join(folder, files.limit))
  const usage = readNumber(join(folder, files.usage))
  if (limit === undefined || usage === undefined) return undefined
  const inactive = readField(join(folder, "memory.stat"), files.inactive) ?? 0
  return { totalBytes: limit, freeBytes: Math.max(0, limit - Math.max(0, usage - inactive)) }
}

/** Memory of this process's cgroup and of all groups around it (each can hold the lower limit). */
const cgroupLimits = (procFolder: string, cgroupRoot: string): ReadonlyArray<MemorySize> => {
  const found: Array<MemorySize> = []
  for (const line of (read(join(procFolder, "self/cgroup")) ?? "").split("\n")) {
    const [, controllers, path] = line.match(/^\d+:([^:]*):(.*)$/) ?? []
    if (path === undefined) continue
    const isV2 = controllers === ""
    if (!isV2 && !controllers?.split(",").includes("memory")) continue
    const root = isV2 ? cgroupRoot : join(cgroupRoot, "memory")
    const files = isV2
      ? { limit: "memory.max", usage: "memory.current", inactive: "inactive_file" }
      : {
          limit: "memory.limit_in_bytes",
          usage: "memory.usage_in_bytes",
          inactive: "total_inactive_file",
        }
    for (let folder = join(root, path); ; folder = dirname(folder)) {
      const memory = cgroupMemory(folder, files)
      if (memory !== undefined) found.push(memory)
      if (folder === root || !folder.startsWith(root)) break
    }
  }
  return found
}

/**
 * Memory that a new allocation of this process can get now: the least of what the machine has
 * available and what each enclosing cgroup leaves.
 */
export const hostMemory = (procFolder = "/proc", cgroupRoot = "/sys/fs/cgroup"): MemorySize => {
  const meminfo = join(procFolder, "meminfo")
  const total = readField(meminfo, "MemTotal")
  const available = readField(meminfo, "MemAvailable")
  const machine: MemorySize = {
    totalBytes: total === undefined ? totalmem() : total * 1024,
    freeBytes: available === undefined ? freemem() : available * 1024,
  }
  return cgroupLimits(procFolder, cgroupRoot).reduce(
    (least, memory) => ({
      totalBytes: Math.min(least.totalBytes, memory.totalBytes),
      freeBytes: Math.min(least.freeBytes, memory.freeBytes),
    }),
    machine,
  )
}

const block = new Float64Array(2)

/** Free and total memory of a device now; for the CPU that of the machine within its cgroup. */
export const deviceMemory = (device: Device): MemorySize => {
  if (device.type === "CPU" || device.type === "ACCEL") return hostMemory()
  ggml().gs_device_memory(asPointer(device.address), block)
  return { freeBytes: block[0]!, totalBytes: block[1]! }
}

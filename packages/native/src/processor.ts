/** How many threads a computation should use. */
import { readdirSync, readFileSync } from "node:fs"
import { availableParallelism } from "node:os"
import { join } from "node:path"

const siblings = (folder: string, cpu: string): string | undefined => {
  try {
    return readFileSync(join(folder, cpu, "topology", "thread_siblings"), "utf8").trim()
  } catch {
    return undefined
  }
}

/**
 * Threads that ggml computes with when nobody says otherwise: one per physical core, as in llama-cli
 * (common.cpp `common_cpu_get_num_physical_cores`, v0.5.0), and never more than this process may use.
 */
export const defaultThreadCount = (cpuFolder = "/sys/devices/system/cpu"): number => {
  const logical = availableParallelism()
  let cpus: ReadonlyArray<string> = []
  try {
    cpus = readdirSync(cpuFolder).filter((name) => /^cpu\d+$/.test(name))
  } catch {
    // Not Linux.
  }
  const cores = new Set(cpus.map((cpu) => siblings(cpuFolder, cpu)))
  cores.delete(undefined)
  if (cores.size > 0) return Math.min(logical, cores.size)
  return logical <= 4 ? logical : Math.floor(logical / 2)
}

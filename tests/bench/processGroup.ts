/** CPU time and memory of process groups, from Linux' /proc. */
import { readdirSync, readFileSync } from "node:fs"
import { groupMembers } from "../peers/process.ts"

/** Of /proc/PID/stat; 100 on every Linux platform that Bun runs on. */
const TICKS_PER_SECOND = 100

/** User and system time of all processes of these groups, and of those they waited for. */
export const groupCpuSeconds = (groups: readonly number[]): number => {
  let ticks = 0
  for (const name of readdirSync("/proc")) {
    if (/^\d+$/.test(name)) ticks += cpuTicks(name, groups)
  }
  return ticks / TICKS_PER_SECOND
}

const cpuTicks = (pid: string, groups: readonly number[]): number => {
  const stat = readProc(pid, "stat")
  // pid (name) state parent group ...; the name may hold spaces and brackets.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ")
  if (stat === "" || !groups.includes(Number(fields[2]))) return 0
  // utime, stime, cutime, cstime: fields 14 to 17 of proc(5), counted from the state, field 3.
  return fields.slice(11, 15).reduce((sum, field) => sum + Number(field), 0)
}

/** Memory of all processes of some groups at one moment, in bytes. */
export interface MemorySample {
  readonly epochMs: number
  /** Proportional set size: pages shared by n processes count as 1/n in each. */
  readonly pssBytes: number
  /** Of that, memory that no file backs. */
  readonly anonymousBytes: number
}

export interface MemoryPeaks {
  readonly pssBytes: number
  readonly anonymousBytes: number
}

const SAMPLE_INTERVAL_MS = 20

/** Samples until `stop`. */
export const watchMemory = (
  groups: readonly number[],
): { stop: () => Promise<readonly MemorySample[]> } => {
  const samples: MemorySample[] = []
  let isStopped = false
  const loop = (async () => {
    while (!isStopped) {
      samples.push(sampleMemory(groups))
      await Bun.sleep(SAMPLE_INTERVAL_MS)
    }
  })()
  return {
    stop: async () => {
      isStopped = true
      await loop
      return samples
    },
  }
}

const sampleMemory = (groups: readonly number[]): MemorySample => {
  const rollups = groups
    .flatMap(groupMembers)
    .map((pid) => parseRollup(readProc(String(pid), "smaps_rollup")))
  return {
    epochMs: Date.now(),
    pssBytes: rollups.reduce((sum, { pssBytes }) => sum + pssBytes, 0),
    anonymousBytes: rollups.reduce((sum, { anonymousBytes }) => sum + anonymousBytes, 0),
  }
}

/** Of /proc/PID/smaps_rollup; nothing of a process that has ended. */
export const parseRollup = (text: string): MemoryPeaks => ({
  pssBytes: kilobytes(text, "Pss") * 1024,
  anonymousBytes: (kilobytes(text, "Pss_Anon") + kilobytes(text, "Pss_Shmem")) * 1024,
})

/** The highest of each, of the samples up to a time. */
export const peaksOf = (
  samples: readonly MemorySample[],
  untilEpochMs = Number.POSITIVE_INFINITY,
): MemoryPeaks => {
  const seen = samples.filter((sample) => sample.epochMs <= untilEpochMs)
  return {
    pssBytes: Math.max(0, ...seen.map((sample) => sample.pssBytes)),
    anonymousBytes: Math.max(0, ...seen.map((sample) => sample.anonymousBytes)),
  }
}

const kilobytes = (text: string, name: string): number =>
  Number(new RegExp(`^${name}:\\s+(\\d+) kB$`, "m").exec(text)?.[1] ?? 0)

/** Empty when the process has ended. */
const readProc = (pid: string, file: string): string => {
  try {
    return readFileSync(`/proc/${pid}/${file}`, "utf8")
  } catch {
    return ""
  }
}

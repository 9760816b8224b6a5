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

/** The highest memory use seen; sums over all processes of the groups, in bytes. */
export interface MemoryPeak {
  /** Proportional set size: pages shared by n processes count as 1/n in each. */
  readonly pssBytes: number
  /** Of that, memory that no file backs. */
  readonly anonymousBytes: number
  /** Sum of each process's own peak of resident memory, shared pages counted in each: an upper bound. */
  readonly residentBytes: number
  readonly sampleCount: number
}

const SAMPLE_INTERVAL_MS = 20

/** Samples until `stop`. */
export const watchMemory = (groups: readonly number[]): { stop: () => Promise<MemoryPeak> } => {
  const residentPeaks = new Map<number, number>()
  let pssBytes = 0
  let anonymousBytes = 0
  let sampleCount = 0
  let isStopped = false
  const sample = (): void => {
    let pss = 0
    let anonymous = 0
    for (const pid of groups.flatMap(groupMembers)) {
      const rollup = readProc(String(pid), "smaps_rollup")
      pss += kilobytes(rollup, "Pss")
      anonymous += kilobytes(rollup, "Pss_Anon") + kilobytes(rollup, "Pss_Shmem")
      const resident = kilobytes(readProc(String(pid), "status"), "VmHWM")
      residentPeaks.set(pid, Math.max(resident, residentPeaks.get(pid) ?? 0))
    }
    pssBytes = Math.max(pssBytes, pss * 1024)
    anonymousBytes = Math.max(anonymousBytes, anonymous * 1024)
    sampleCount += 1
  }
  const loop = (async () => {
    while (!isStopped) {
      sample()
      await Bun.sleep(SAMPLE_INTERVAL_MS)
    }
  })()
  return {
    stop: async () => {
      isStopped = true
      await loop
      const residentBytes = [...residentPeaks.values()].reduce((sum, kb) => sum + kb * 1024, 0)
      return { pssBytes, anonymousBytes, residentBytes, sampleCount }
    },
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

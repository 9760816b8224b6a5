/** What the benchmark runs on, and what else runs there. */
import { readFileSync } from "node:fs"
import { arch, cpus, loadavg, platform, release, totalmem } from "node:os"

export interface Machine {
  readonly processor: string
  readonly coreCount: number
  readonly isVirtual: boolean
  readonly memoryBytes: number
  readonly system: string
  readonly bunVersion: string
}

export const describeMachine = (): Machine => ({
  processor: cpus()[0]?.model.trim() ?? "unknown",
  coreCount: cpus().length,
  isVirtual: /^flags\s*:.*\bhypervisor\b/m.test(readFileSync("/proc/cpuinfo", "utf8")),
  memoryBytes: totalmem(),
  system: `${platform()} ${release().split(".").slice(0, 2).join(".")} ${arch()}`,
  bunVersion: Bun.version,
})

/** Programs that ran or wanted to, on average over the last minute. */
export const loadAverage = (): number => loadavg()[0] ?? 0

/** CPU seconds of all cores since the machine started, time that a hypervisor took away included. */
export const busyCpuSeconds = (): number => {
  const [line = ""] = readFileSync("/proc/stat", "utf8").split("\n", 1)
  // cpu user nice system idle iowait irq softirq steal; interrupts serve whoever, so they are left out.
  const [user = 0, nice = 0, system = 0, , , , , steal = 0] = line
    .trim()
    .split(/\s+/)
    .slice(1)
    .map(Number)
  return (user + nice + system + steal) / 100
}

/** Waits until less than this many cores were used for `forMs`, at most `timeoutMs`. */
export const waitForQuiet = async (
  cores: number,
  timeoutMs: number,
  forMs = 250,
): Promise<void> => {
  const deadline = performance.now() + timeoutMs
  while (performance.now() < deadline) {
    const before = busyCpuSeconds()
    const started = performance.now()
    await Bun.sleep(forMs)
    const used = (busyCpuSeconds() - before) / ((performance.now() - started) / 1000)
    if (used < cores) return
  }
}

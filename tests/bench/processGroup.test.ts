import { expect, test } from "bun:test"
import { startProcess, waitUntil } from "../peers/process.ts"
import { groupCpuSeconds, parseRollup, peaksOf, watchMemory } from "./processGroup.ts"

test("parseRollup reads proportional sizes, and nothing of what is not there", () => {
  const text = [
    "55d0c0000000-7ffd2a5ff000 ---p 00000000 00:00 0                          [rollup]",
    "Rss:               10340 kB",
    "Pss:                4000 kB",
    "Pss_Dirty:          1196 kB",
    "Pss_Anon:           1100 kB",
    "Pss_File:           2880 kB",
    "Pss_Shmem:            20 kB",
  ].join("\n")
  expect(parseRollup(text)).toEqual({ pssBytes: 4000 * 1024, anonymousBytes: 1120 * 1024 })
  expect(parseRollup("")).toEqual({ pssBytes: 0, anonymousBytes: 0 })
})

test("peaksOf takes each highest value by itself, up to a time", () => {
  const samples = [
    { epochMs: 10, pssBytes: 5, anonymousBytes: 4 },
    { epochMs: 20, pssBytes: 7, anonymousBytes: 2 },
    { epochMs: 30, pssBytes: 9, anonymousBytes: 1 },
  ]
  expect(peaksOf(samples)).toEqual({ pssBytes: 9, anonymousBytes: 4 })
  expect(peaksOf(samples, 20)).toEqual({ pssBytes: 7, anonymousBytes: 4 })
  expect(peaksOf([])).toEqual({ pssBytes: 0, anonymousBytes: 0 })
})

test.skipIf(process.platform !== "linux")(
  "a group's memory and CPU time include what its processes started",
  async () => {
    // Two processes: a shell, and one that takes 64 MB and some CPU time.
    const take = "const block = new Uint8Array(64e6).fill(1); await Bun.sleep(1000); block.at(0)"
    await using child = startProcess(["sh", "-c", `'${process.execPath}' -e '${take}'; true`])
    const watch = watchMemory([child.pid])
    expect(await waitUntil(() => groupCpuSeconds([child.pid]) > 0, 20_000)).toBe(true)
    await child.exited
    const peaks = peaksOf(await watch.stop())
    expect(peaks.anonymousBytes).toBeGreaterThan(64e6)
    expect(peaks.anonymousBytes).toBeLessThan(640e6)
    expect(peaks.pssBytes).toBeGreaterThanOrEqual(peaks.anonymousBytes)
  },
)

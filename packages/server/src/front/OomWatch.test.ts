import { expect, test } from "bun:test"
import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { OomWatch } from "./OomWatch.ts"

test("processes that the system ends for want of memory are noticed once", () => {
  const folder = mkdtempSync(join(tmpdir(), "oom-"))
  try {
    const file = join(folder, "vmstat")
    const count = (kills: number) => writeFileSync(file, `nr_free 7\noom_kill ${kills}\nother 9\n`)
    count(3)
    const watch = new OomWatch(file)
    expect(watch.hasKilled()).toBe(false)
    count(4)
    expect(watch.hasKilled()).toBe(true)
    expect(watch.hasKilled()).toBe(false)
    rmSync(file)
    expect(watch.hasKilled()).toBe(false)
  } finally {
    rmSync(folder, { recursive: true })
  }
})

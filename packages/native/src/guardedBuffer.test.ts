/** Host memory of buffers, and what lies beside it. Each touch happens in a process of its own. */
import { describe, expect, test } from "bun:test"
import { join } from "node:path"
import type { Touch } from "./guardedBuffer.testChild.ts"

const MIB = 1024 * 1024
const PAGE_BYTES = 16 * 1024
const GUARD_BYTES = 64 * MIB

const touch = async (what: Touch): Promise<string> => {
  const module = join(import.meta.dir, "guardedBuffer.testChild.ts")
  const child = Bun.spawn([process.execPath, module, JSON.stringify(what)], {
    stdio: ["ignore", "pipe", "pipe"],
  })
  const said = await new Response(child.stdout).text()
  const crash = /SIGSEGV|SIGBUS/.exec(await new Response(child.stderr).text())
  await child.exited
  return crash?.[0] ?? said.trim()
}

const crashes = /^SIG/

describe.each([64, 4096, 64 * 1023, 40 * MIB])("a buffer of %p bytes", (sizeBytes) => {
  test.each(["read", "write"] as const)(
    "%p: its first and its last byte are there",
    async (how) => {
      expect(await touch({ sizeBytes, at: 0, how })).toBe("lives")
      expect(await touch({ sizeBytes, at: sizeBytes - 1, how })).toBe("lives")
    },
  )

  test("ends the process at a write behind it", async () => {
    expect(await touch({ sizeBytes, at: sizeBytes, how: "write" })).toMatch(crashes)
    const last = sizeBytes + GUARD_BYTES - 1
    expect(await touch({ sizeBytes, at: last, how: "write" })).toMatch(crashes)
  })

  test("has a page of zeros behind it, and then ends the process at a read", async () => {
    expect(await touch({ sizeBytes, at: sizeBytes, how: "read" })).toBe("lives")
    expect(await touch({ sizeBytes, at: sizeBytes + 4095, how: "read" })).toBe("lives")
    expect(await touch({ sizeBytes, at: sizeBytes + PAGE_BYTES, how: "read" })).toMatch(crashes)
    const last = sizeBytes + GUARD_BYTES - 1
    expect(await touch({ sizeBytes, at: last, how: "read" })).toMatch(crashes)
  })

  test("ends the process at a write before the page of its first byte", async () => {
    expect(await touch({ sizeBytes, at: -PAGE_BYTES, how: "write" })).toMatch(crashes)
    expect(await touch({ sizeBytes, at: 1 - GUARD_BYTES, how: "write" })).toMatch(crashes)
  })

  test("is gone when it is freed", async () => {
    expect(await touch({ sizeBytes, at: 0, how: "read freed" })).toMatch(crashes)
  })

  test("ends the process when a kernel writes one number behind it", async () => {
    expect(await touch({ sizeBytes, at: sizeBytes - 16, how: "compute" })).toBe("lives")
    expect(await touch({ sizeBytes, at: sizeBytes - 12, how: "compute" })).toMatch(crashes)
  })
})

test("a size that is no multiple of 64 leaves less than 64 bytes to the guard", async () => {
  expect(await touch({ sizeBytes: 100, at: 127, how: "write" })).toBe("lives")
  expect(await touch({ sizeBytes: 100, at: 128, how: "write" })).toMatch(crashes)
})

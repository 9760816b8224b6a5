import { afterEach, beforeEach, expect, test } from "bun:test"
import { closeSync, mkdtempSync, openSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { MemoryLedger } from "./MemoryLedger.ts"

const GIB = 2 ** 30

let folder: string
let file: number

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "ggml-rpc-ledger-"))
  file = openSync(join(folder, "list"), "wx+")
})

afterEach(() => {
  closeSync(file)
  rmSync(folder, { recursive: true })
})

test("promises of all slots count, as far as they are not written", () => {
  const first = new MemoryLedger(file, 0)
  const third = new MemoryLedger(file, 2)
  expect(first.unwrittenBytes()).toBe(0)
  first.set(100 * GIB, 100 * GIB)
  third.set(50 * GIB, 50 * GIB)
  const resident = process.memoryUsage.rss()
  // Both slots are this process, whose memory counts as written for each.
  expect(third.unwrittenBytes()).toBeGreaterThan(150 * GIB - 2 * resident)
  expect(third.unwrittenBytes()).toBeLessThanOrEqual(150 * GIB)
  first.set(0, 0)
  expect(third.unwrittenBytes()).toBeLessThanOrEqual(50 * GIB)
  expect(third.unwrittenBytes()).toBeGreaterThan(50 * GIB - 2 * resident)
})

test("what is written is not counted twice", () => {
  const ledger = new MemoryLedger(file, 0)
  ledger.set(1024, 1024)
  expect(ledger.unwrittenBytes()).toBe(process.memoryUsage.rss() > 48 * 2 ** 20 + 1024 ? 0 : 1024)
})

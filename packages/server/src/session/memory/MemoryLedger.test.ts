import { afterEach, beforeEach, expect, test } from "bun:test"
import {
  closeSync,
  fstatSync,
  mkdtempSync,
  openSync,
  readSync,
  rmSync,
  writeFileSync,
  writeSync,
} from "node:fs"
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

// Numbers of servers.
const HERE = 1
const ELSEWHERE = 2

test("promises of all places count, as far as they are not written", () => {
  const first = MemoryLedger.join(file, HERE)
  const second = MemoryLedger.join(file, ELSEWHERE)
  expect(first.unwrittenBytes()).toBe(0)
  first.set(100 * GIB, 100 * GIB)
  second.set(50 * GIB, 50 * GIB)
  const resident = process.memoryUsage.rss()
  // Both places are this process, whose memory counts as written for each.
  expect(second.unwrittenBytes()).toBeGreaterThan(150 * GIB - 2 * resident)
  expect(second.unwrittenBytes()).toBeLessThanOrEqual(150 * GIB)
  expect(second.unwrittenBytes((pid) => pid !== process.pid)).toBe(0)
  first.set(0, 0)
  expect(second.unwrittenBytes()).toBeLessThanOrEqual(50 * GIB)
  expect(second.unwrittenBytes()).toBeGreaterThan(50 * GIB - 2 * resident)
})

test("what is written is not counted twice, and a file that is mapped is not written", () => {
  const ledger = MemoryLedger.join(file, HERE)
  const sizeBytes = 64 * GIB
  ledger.set(sizeBytes, sizeBytes)
  const before = ledger.unwrittenBytes()
  const path = join(folder, "weights")
  const part = 32 * 2 ** 20
  writeFileSync(path, new Uint8Array(part))
  const mapped = Bun.mmap(path)
  expect(mapped.reduce((sum, byte) => sum + byte, 0)).toBe(0)
  // The test's own doings take some.
  expect(before - ledger.unwrittenBytes()).toBeLessThan(part / 2)
  const written = new Uint8Array(8 * part).fill(1)
  expect(before - ledger.unwrittenBytes()).toBeGreaterThan(7 * part)
  expect(written[part]).toBe(1)
})

test("a server's limit counts what its own sessions promised, the machine's memory that of all", () => {
  const first = MemoryLedger.join(file, HERE)
  const second = MemoryLedger.join(file, HERE)
  const other = MemoryLedger.join(file, ELSEWHERE)
  for (const ledger of [first, second, other]) ledger.set(3 * GIB, 4 * GIB)
  expect(first.othersAllBytes()).toBe(4 * GIB)
  expect(MemoryLedger.watch(file, HERE).othersAllBytes()).toBe(8 * GIB)
  expect(other.othersAllBytes()).toBe(0)
  expect(other.othersBytes()).toBe(6 * GIB)
})

/** The file's numbers: five a place. */
const numbers = (): Float64Array => {
  const bytes = new Uint8Array(fstatSync(file).size)
  readSync(file, bytes, 0, bytes.length, 0)
  return new Float64Array(bytes.buffer)
}

const write = (place: number, ...entry: readonly number[]): void => {
  writeSync(file, new Uint8Array(Float64Array.from(entry).buffer), 0, 40, 40 * place)
}

test("who is gone counts for nothing, though another has its id by now, and its place is taken again", () => {
  MemoryLedger.join(file, HERE)
  const [pid, started] = numbers()
  // A process of this id that started at another time, and one that cannot be.
  write(1, pid!, started! - 1, HERE, 5 * GIB, 5 * GIB)
  write(2, 2 ** 31, 7, HERE, 5 * GIB, 5 * GIB)
  const looking = MemoryLedger.watch(file, HERE)
  expect(looking.unwrittenBytes()).toBe(0)
  expect(looking.othersAllBytes()).toBe(0)
  MemoryLedger.join(file, ELSEWHERE).set(1, 1)
  MemoryLedger.join(file, ELSEWHERE).set(2, 2)
  expect([...numbers()].length).toBe(15)
  expect(numbers()[9]).toBe(1)
  expect(numbers()[14]).toBe(2)
})

test("nonsense in it is no memory", () => {
  const ledger = MemoryLedger.join(file, HERE)
  const [pid, started] = numbers()
  for (const [index, value] of [-GIB, Number.NaN, Number.POSITIVE_INFINITY, 2 ** 60].entries()) {
    write(index + 1, pid!, started!, HERE, value, value)
  }
  expect(ledger.othersBytes()).toBe(0)
  expect(ledger.othersAllBytes()).toBe(0)
  expect(ledger.unwrittenBytes()).toBe(0)
})

test("who keeps the others out is waited for, and then no more", async () => {
  const ledger = MemoryLedger.join(file, HERE)
  const holder = Bun.spawn(["bun", join(import.meta.dir, "ledgerHolder.testChild.ts")], {
    stdio: ["ignore", "pipe", "inherit", file],
  })
  await holder.stdout.getReader().read()
  const started = performance.now()
  expect(ledger.alone(() => "done")).toBe("done")
  expect(performance.now() - started).toBeGreaterThan(500)
  holder.kill("SIGKILL")
  await holder.exited
  const again = performance.now()
  ledger.alone(() => {})
  expect(performance.now() - again).toBeLessThan(300)
})

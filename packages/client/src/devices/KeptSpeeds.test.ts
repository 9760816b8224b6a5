import { afterEach, beforeEach, expect, test } from "bun:test"
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { KeptSpeeds } from "./KeptSpeeds.ts"

const MINUTE_MS = 60 * 1000
const DAY_MS = 24 * 60 * MINUTE_MS

let folder: string
let path: string
let nowMs: number

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "ggml-rpc-speeds-"))
  path = join(folder, "cache", "speeds.json")
  nowMs = 100 * DAY_MS
})
afterEach(() => rmSync(folder, { recursive: true }))

/** As another start of a program has them. */
const opened = (): KeptSpeeds => new KeptSpeeds(path, () => nowMs)

const speeds = (token: number, prompt = 10 * token) => ({
  weightBytesPerSecond: token,
  multiplicationsPerSecond: prompt,
})

/** Three starts, as far apart as it takes. */
const addThrice = (key: string, measured: ReturnType<typeof speeds>): void => {
  for (let start = 0; start < 3; start++) {
    opened().add(key, measured)
    nowMs += 10 * MINUTE_MS
  }
}

test("the best of three starts is believed without measuring, each kind by itself", () => {
  expect(opened().find("a")).toBeUndefined()
  expect(opened().add("a", speeds(5, 90))).toEqual(speeds(5, 90))
  expect(opened().find("a")).toBeUndefined()
  nowMs += 10 * MINUTE_MS
  expect(opened().add("a", speeds(9, 40))).toEqual(speeds(9, 90))
  nowMs += 10 * MINUTE_MS
  expect(opened().add("a", speeds(2, 20))).toEqual(speeds(9, 90))
  expect(opened().find("a")).toEqual(speeds(9, 90))
  expect(opened().find("b")).toBeUndefined()
})

test("starts right after one another are one: a busy machine is busy for a while", () => {
  for (let start = 0; start < 20; start++) {
    opened().add("a", speeds(9))
    nowMs += MINUTE_MS / 2
  }
  opened().add("a", speeds(12))
  expect(opened().find("a")).toBeUndefined()
  nowMs += 10 * MINUTE_MS
  opened().add("a", speeds(9))
  expect(opened().find("a")).toEqual(speeds(12))
})

test("after a week all is measured again, and what is slower now is so", () => {
  addThrice("a", speeds(9))
  nowMs += 6 * DAY_MS
  expect(opened().find("a")).toEqual(speeds(9))
  nowMs += DAY_MS
  expect(opened().find("a")).toBeUndefined()
  expect(opened().add("a", speeds(3))).toEqual(speeds(3))
})

test("a clock that was put back makes nothing last for ever", () => {
  addThrice("a", speeds(9))
  nowMs -= 31 * MINUTE_MS
  expect(opened().find("a")).toBeUndefined()
})

test("what was measured first is forgotten when there are more than 256 devices", () => {
  for (let device = 0; device < 260; device++) {
    nowMs++
    opened().add(String(device), speeds(1))
  }
  const kept = Object.keys(JSON.parse(readFileSync(path, "utf8")))
  expect(kept).toHaveLength(256)
  expect(kept).not.toContain("3")
  expect(kept).toContain("4")
})

test.each([
  "",
  "{",
  "null",
  "[1]",
  '{"a": null}',
  '{"a": {"weightBytesPerSecond": "9", "multiplicationsPerSecond": 1, "count": 3, "sinceMs": 8640000000, "countedMs": 1}}',
  '{"a": {"weightBytesPerSecond": 9, "multiplicationsPerSecond": -1, "count": 3, "sinceMs": 8640000000, "countedMs": 1}}',
  '{"a": {"weightBytesPerSecond": 9, "multiplicationsPerSecond": 1, "count": 3}}',
  `{"a": ${" ".repeat(2 ** 18)} {}}`,
])("a file that is none of ours is as good as none: %#", (text) => {
  opened().add("b", speeds(1))
  writeFileSync(path, text)
  expect(opened().find("a")).toBeUndefined()
  expect(opened().add("a", speeds(2))).toEqual(speeds(2))
  expect(Object.keys(JSON.parse(readFileSync(path, "utf8")))).toEqual(["a"])
  expect(readdirSync(join(folder, "cache"))).toEqual(["speeds.json"])
})

test("where nothing can be kept, what was measured counts", () => {
  writeFileSync(join(folder, "cache"), "a file")
  expect(opened().add("a", speeds(2))).toEqual(speeds(2))
  expect(opened().add("a", speeds(1))).toEqual(speeds(1))
  expect(readdirSync(folder)).toEqual(["cache"])
})

test("the place is a variable's, which may be none", () => {
  const { GGML_RPC_DEVICE_SPEEDS: before } = process.env
  try {
    process.env.GGML_RPC_DEVICE_SPEEDS = path
    new KeptSpeeds().add("a", speeds(2))
    process.env.GGML_RPC_DEVICE_SPEEDS = "none"
    expect(new KeptSpeeds().add("a", speeds(1))).toEqual(speeds(1))
    expect(Object.keys(JSON.parse(readFileSync(path, "utf8")))).toEqual(["a"])
  } finally {
    if (before === undefined) delete process.env.GGML_RPC_DEVICE_SPEEDS
    else process.env.GGML_RPC_DEVICE_SPEEDS = before
  }
})

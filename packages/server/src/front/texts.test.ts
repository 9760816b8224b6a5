import { expect, test } from "bun:test"
import { cacheFolder, formatBanner } from "../index.ts"
import { oneLine } from "./log.ts"

test("the cache folder is upstream's", () => {
  const home = { HOME: "/home/u" }
  expect(cacheFolder(undefined, { ...home, LLAMA_CACHE: "/c" }, "linux")).toBe("/c/rpc")
  expect(
    cacheFolder(undefined, { ...home, LLAMA_CACHE: "/c/", XDG_CACHE_HOME: "/x" }, "linux"),
  ).toBe("/c/rpc")
  expect(cacheFolder(undefined, { ...home, XDG_CACHE_HOME: "/x" }, "linux")).toBe(
    "/x/llama.cpp/rpc",
  )
  expect(cacheFolder(undefined, home, "linux")).toBe("/home/u/.cache/llama.cpp/rpc")
  expect(cacheFolder(undefined, home, "darwin")).toBe("/home/u/Library/Caches/llama.cpp/rpc")
  expect(cacheFolder("/own", { LLAMA_CACHE: "/c" }, "linux")).toBe("/own")
})

test("a log line stays one line, whatever is in it", () => {
  expect(oneLine("a\n  b\r\nc\u001b[31m\u0000d\n")).toBe("a | b | c?[31m?d")
})

test("the banner", () => {
  const device = {
    name: "CPU",
    description: "A processor",
    type: "CPU" as const,
    freeBytes: 3 * 2 ** 20 + 5,
    totalBytes: 2 ** 30,
  }
  const text = formatBanner({
    endpoint: "127.0.0.1:50052",
    cacheDir: undefined,
    cacheLimitBytes: undefined,
    protocol: undefined,
    devices: [device],
  })
  expect(text).toBe(
    [
      "Starting RPC server v8.0.0",
      "  protocol       : 2.0 to 8.0, as the client speaks",
      "  endpoint       : 127.0.0.1:50052",
      "  local cache    : n/a",
      "Devices:",
      "  CPU: A processor (1024 MiB, 3 MiB free)",
      "  transport      : TCP",
    ].join("\n"),
  )
  expect(
    formatBanner({
      endpoint: "x:1",
      cacheDir: "/c",
      cacheLimitBytes: 2 ** 30,
      protocol: "7.0",
      devices: [],
    }),
  ).toContain("  local cache    : /c (up to 1.00 GiB)\n")
})

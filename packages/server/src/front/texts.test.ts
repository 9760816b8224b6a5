import { expect, test } from "bun:test"
import { cacheFolder, formatBanner } from "../index.ts"
import { oneLine } from "./log.ts"
import { describeExit } from "./SessionProcess.ts"
import { describeSandbox } from "./sandboxText.ts"

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
    modelFolders: [],
    cacheDir: undefined,
    cacheLimitBytes: undefined,
    protocol: undefined,
    devices: [device],
    sandbox: "guarded buffers",
    repacked: ["Q4_0", "Q4_K"],
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
      "  sandbox        : guarded buffers",
      "  repacks        : Q4_0, Q4_K",
    ].join("\n"),
  )
  expect(
    formatBanner({
      endpoint: "x:1",
      modelFolders: ["/m", "/n"],
      cacheDir: "/c",
      cacheLimitBytes: 2 ** 30,
      protocol: "7.0",
      devices: [],
      sandbox: "",
      repacked: [],
    }),
  ).toContain("  local cache    : /c (up to 1.00 GiB)\n")
})

test("what a session's sandbox has, and what it lacks", () => {
  const whole = {
    hasDrivers: false,
    makesCommLinks: false,
    landlock: 7,
    calls: true,
    memory: true,
    problems: [],
  }
  expect(describeSandbox(whole, ["/c"])).toBe(
    "guarded buffers, no new programs, files limited to /c (Landlock 7), no new sockets, limited memory",
  )
  expect(describeSandbox({ ...whole, hasDrivers: true, memory: false }, ["/c"])).toBe(
    "guarded buffers, no new programs, files limited to /c and drivers (Landlock 7), no new sockets",
  )
  expect(describeSandbox({ ...whole, makesCommLinks: true }, [])).toBe(
    "guarded buffers, no new programs, no files (Landlock 7), sockets for links only, limited memory",
  )
  const problems = ["Landlock: Function not implemented", "seccomp: Invalid argument"]
  expect(describeSandbox({ ...whole, landlock: 0, calls: false, problems }, ["/c"])).toBe(
    "guarded buffers, limited memory; not here: Landlock: Function not implemented, seccomp: Invalid argument",
  )
  expect(describeSandbox(undefined, ["/c"])).toBe("guarded buffers only (--no-sandbox)")
})

test.each([
  ["short memory, where the system ended a process for it", "SIGKILL", true, /memory was short/],
  ["a kill that had another reason", "SIGKILL", false, /^SIGKILL$/],
  ["a system call of an attack", "SIGSYS", false, /sandbox ended it/],
] as const)("the end of a session names %s", (_, signal, wasMemoryShort, text) => {
  const exit = { exitCode: null, signal, lastWords: "" }
  expect(describeExit(exit, wasMemoryShort)).toMatch(text)
})

test("the end of a session that said something tells it", () => {
  const exit = { exitCode: 134, signal: null, lastWords: "ggml abort: x" }
  expect(describeExit(exit, false)).toBe("ggml abort: x (exit code 134)")
})

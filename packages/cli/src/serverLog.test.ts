import { expect, spyOn, test } from "bun:test"
import { logLine, serverLog } from "./serverLog.ts"
import * as terminal from "./terminal.ts"

const linesOf = (work: () => void): string[] => {
  const lines: string[] = []
  const spy = spyOn(terminal, "noteLine").mockImplementation((line) => void lines.push(line))
  try {
    work()
  } finally {
    spy.mockRestore()
  }
  return lines
}

test("a line has the time of day, and a word for what is not as usual", () => {
  const time = new Date(2026, 0, 2, 3, 4, 5)
  expect(logLine(time, "info", "text")).toBe("03:04:05 text")
  expect(logLine(time, "error", "text")).toBe("03:04:05 error: text")
})

test("lines below the level are left out", () => {
  const lines = linesOf(() => {
    const log = serverLog("pretty", "warning")
    for (const level of ["debug", "info", "warning", "error"] as const)
      log({ level, message: level })
  })
  expect(lines.map((line) => line.slice(9))).toEqual(["warning: warning", "error: error"])
})

test("JSON has an object a line, with the client's event", () => {
  const [line] = linesOf(() =>
    serverLog(
      "json",
      "debug",
    )({
      level: "debug",
      message: "127.0.0.1:5 left (closed)",
      address: "127.0.0.1",
      event: {
        kind: "left",
        client: "127.0.0.1:5",
        address: "127.0.0.1",
        reason: "closed",
        seconds: 1.5,
      },
    }),
  )
  const { time, ...rest } = JSON.parse(line!)
  expect(new Date(time).toISOString()).toBe(time)
  expect(rest).toEqual({
    level: "debug",
    message: "127.0.0.1:5 left (closed)",
    event: "left",
    client: "127.0.0.1:5",
    address: "127.0.0.1",
    reason: "closed",
    seconds: 1.5,
  })
})

import { expect, test } from "bun:test"
import { fstatSync, writeSync } from "node:fs"
import { readReport, type ServerReport } from "../session/ServerReport.ts"
import { StatusBoard } from "./StatusBoard.ts"

const report: ServerReport = {
  software: "1.2.3",
  startedAtMs: 5,
  serving: [1, 2, 3],
  waitingCount: 0,
  maxClients: 64,
  servedCount: 7,
}

const until = async (is: () => boolean): Promise<void> => {
  for (let tries = 0; tries < 200 && !is(); tries++) await Bun.sleep(5)
}

test("sessions read what was written last, also when it is shorter", async () => {
  let now = report
  const board = new StatusBoard(() => now)
  try {
    expect(readReport(board.readable)).toBeUndefined()
    board.update()
    await until(() => readReport(board.readable) !== undefined)
    expect(readReport(board.readable)).toEqual(report)
    now = { ...report, serving: [] }
    board.update()
    await until(() => readReport(board.readable)?.serving.length === 0)
    expect(readReport(board.readable)).toEqual(now)
  } finally {
    board.close()
  }
})

test("and cannot write it", () => {
  const board = new StatusBoard(() => report)
  try {
    expect(() => writeSync(board.readable, "lies")).toThrow("EBADF")
    const { mode, nlink } = fstatSync(board.readable)
    expect(mode & 0o777).toBe(0o400)
    expect(nlink).toBe(0)
  } finally {
    board.close()
  }
})

test("many changes are few reports, the last of them too", async () => {
  let count = 0
  let asked = 0
  const board = new StatusBoard(() => {
    asked++
    return { ...report, servedCount: count }
  })
  try {
    for (count = 0; count < 300; count++) {
      board.update()
      if (count % 10 === 0) await Bun.sleep(1)
    }
    await until(() => readReport(board.readable)?.servedCount === 300)
    expect(readReport(board.readable)?.servedCount).toBe(300)
    expect(asked).toBeLessThan(30)
  } finally {
    board.close()
  }
})

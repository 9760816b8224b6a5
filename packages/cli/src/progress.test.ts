import { expect, test } from "bun:test"
import { TransferProgress, uploadSummary } from "./progress.ts"

const MiB = 1024 * 1024

const start = (options: {
  isTerminal: boolean
  columns?: number
  verb?: string
  startBytes?: number
}) => {
  const written: Array<string> = []
  let ms = 1000
  const progress = new TransferProgress({
    verb: "uploading",
    columns: 100,
    ...options,
    write: (text) => written.push(text),
    now: () => ms,
  })
  return {
    written,
    progress,
    at: (time: number, doneMiB: number, cachedMiB = 0) => {
      ms = 1000 + time
      progress.update({
        doneBytes: doneMiB * MiB,
        cachedBytes: cachedMiB * MiB,
        totalBytes: 800 * MiB,
      })
    },
  }
}

test("a terminal gets one line that changes, and that is gone in the end", () => {
  const { written, progress, at } = start({ isTerminal: true })
  at(500, 200)
  at(520, 201)
  at(1000, 400)
  expect(written).toEqual([
    "\r█████░░░░░░░░░░░░░░░ uploading 25%, 200 MiB of 800 MiB, 400 MiB/s, ETA 2 s\x1b[K",
    "\r██████████░░░░░░░░░░ uploading 50%, 400 MiB of 800 MiB, 400 MiB/s, ETA 1 s\x1b[K",
  ])
  progress.end()
  progress.end()
  expect(written.slice(2)).toEqual(["\r\x1b[K"])
})

test("a narrow terminal's line is not wrapped", () => {
  const { written, at } = start({ isTerminal: true, columns: 40 })
  at(500, 200)
  expect(written[0]!.replace("\r", "").replace("\x1b[K", "").length).toBeLessThan(40)
  expect(written[0]).toContain("uploading 25%")
})

test("a pipe gets a plain line every five seconds, none for a short upload", () => {
  const { written, progress, at } = start({ isTerminal: false })
  at(100, 10)
  at(4900, 100)
  expect(written).toEqual([])
  at(5000, 200, 50)
  at(6000, 300, 50)
  at(10_100, 300, 50)
  progress.end()
  expect(written).toEqual([
    "uploading 25%, 200 MiB of 800 MiB, 50.0 MiB cached, 40.0 MiB/s, ETA 15 s\n",
    "uploading 37%, 300 MiB of 800 MiB, 50.0 MiB cached, 19.6 MiB/s, ETA 26 s\n",
  ])
})

test("the rate is that of the last seconds, not of the whole", () => {
  const { written, at } = start({ isTerminal: true })
  at(1000, 400)
  for (let second = 2; second <= 10; second++) at(second * 1000, 400 + second)
  expect(written.at(-1)).toContain("1.00 MiB/s")
})

test("what was there before counts, but not for the rate", () => {
  const { written, at } = start({ isTerminal: true, verb: "downloading", startBytes: 400 * MiB })
  at(1000, 420)
  expect(written[0]).toContain("downloading 52%, 420 MiB of 800 MiB, 20.0 MiB/s, ETA 19 s")
})

test("the summary says what was sent where, and what was there already", () => {
  const stats = { loadMs: 2000, remoteWeightBytes: 800 * MiB, cachedWeightBytes: 0 }
  expect(uploadSummary(stats, 2)).toBe("loaded in 2.00 s (400 MiB/s): 800 MiB sent to 2 servers")
  expect(uploadSummary({ ...stats, cachedWeightBytes: 700 * MiB }, 1)).toBe(
    "loaded in 2.00 s (400 MiB/s): 100 MiB sent to one server, 700 MiB were in its cache",
  )
  expect(uploadSummary({ ...stats, remoteWeightBytes: 0 }, 0)).toBe("loaded in 2.00 s")
})

import { expect, test } from "bun:test"
import type { ClusterReport } from "../src/own/clusterReport.ts"
import { LinkMeter } from "./linkRates.ts"

/** A report of two servers, `b` with twice the bytes of `a`. */
const report = (looked_at_ms: number, sent_bytes: number, received_bytes: number): ClusterReport =>
  ({
    looked_at_ms,
    hosts: [1, 2].map((factor) => ({
      servers: [
        {
          endpoint: "-ab"[factor],
          sent_bytes: sent_bytes * factor,
          received_bytes: received_bytes * factor,
        },
      ],
    })),
  }) as unknown as ClusterReport

test("rates are what came between two looks, and stay where there was no new one", () => {
  const meter = new LinkMeter()
  expect([...meter.measure(report(1000, 5000, 70))]).toEqual([])
  const expected = [
    ["a", { sent: 500, received: 15 }],
    ["b", { sent: 1000, received: 30 }],
  ]
  expect([...meter.measure(report(3000, 6000, 100))]).toEqual(expected as never)
  expect([...meter.measure(report(3000, 6000, 100))]).toEqual(expected as never)
  expect(meter.measure(report(4000, 6000, 100)).get("a")).toEqual({ sent: 0, received: 0 })
})

test("a server that was started again begins anew", () => {
  const meter = new LinkMeter()
  meter.measure(report(9000, 5000, 70))
  meter.measure(report(500, 10, 10))
  expect(meter.measure(report(1500, 110, 30)).get("a")).toEqual({ sent: 100, received: 20 })
})

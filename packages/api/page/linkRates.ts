/** What crosses the links to servers, from one look at the cluster to the next. */
import type { ClusterReport } from "../src/own/clusterReport.ts"

/** Bytes a second. */
export interface LinkRate {
  readonly sent: number
  readonly received: number
}

/** By endpoint. */
export type LinkRates = ReadonlyMap<string, LinkRate>

export class LinkMeter {
  #last: ClusterReport | undefined
  #rates: LinkRates = new Map()

  /** The rates up to this report; those of the look before where it is the same one, none where it is the first. */
  measure(report: ClusterReport): LinkRates {
    const last = this.#last
    if (last?.looked_at_ms === report.looked_at_ms) return this.#rates
    this.#last = report
    if (last === undefined || last.looked_at_ms > report.looked_at_ms) return this.#rates
    const seconds = (report.looked_at_ms - last.looked_at_ms) / 1000
    const before = new Map(serversOf(last).map((server) => [server.endpoint, server]))
    this.#rates = new Map(
      serversOf(report).flatMap(({ endpoint, sent_bytes, received_bytes }) => {
        const old = before.get(endpoint)
        if (old === undefined) return []
        const sent = (sent_bytes - old.sent_bytes) / seconds
        return [[endpoint, { sent, received: (received_bytes - old.received_bytes) / seconds }]]
      }),
    )
    return this.#rates
  }
}

const serversOf = ({ hosts }: ClusterReport) => hosts.flatMap(({ servers }) => servers)

import type { CacheEntry } from "../cache/CacheFolder.ts"
import type { DeviceReport } from "../session/events.ts"
import { type StatsCounts, TIME_BOUNDS_MS } from "../session/SessionStats.ts"
import type { ClientEvent } from "./ClientEvents.ts"

/** What is as it is when somebody asks. */
export interface Gauges {
  readonly clientCount: number
  readonly handshakeCount: number
  readonly processCount: number
  readonly cache: readonly CacheEntry[] | undefined
  /** Buffers of all clients. */
  readonly bufferBytes: number
  /** Of this machine, or of its control group. */
  readonly freeHostBytes: number
}

const NOT_COUNTED = "came"

type Outcome = Exclude<ClientEvent["kind"], typeof NOT_COUNTED>

const outcomes: readonly Outcome[] = ["left", "refused", "failed", "died", "turned away"]

interface CommandTotal {
  seconds: number
  readonly counts: number[]
}

/** Counts what happens on a server, and tells it in the text format of Prometheus. */
export class Metrics {
  readonly #startedAtMs = Date.now()
  readonly #ended = new Map<Outcome, number>()
  readonly #commands = new Map<string, CommandTotal>()
  #served = 0
  #receivedBytes = 0
  #sentBytes = 0
  #cacheHits = 0
  #cacheMisses = 0

  get startedAtMs(): number {
    return this.#startedAtMs
  }

  /** Connections that a session served. */
  get servedCount(): number {
    return this.#served
  }

  get cacheHits(): number {
    return this.#cacheHits
  }

  get cacheMisses(): number {
    return this.#cacheMisses
  }

  noteClient(event: ClientEvent): void {
    if (event.kind === NOT_COUNTED) this.#served++
    else this.#ended.set(event.kind, (this.#ended.get(event.kind) ?? 0) + 1)
  }

  noteStats({ commands, receivedBytes, sentBytes, cacheHits, cacheMisses }: StatsCounts): void {
    this.#cacheHits += cacheHits
    this.#cacheMisses += cacheMisses
    this.#receivedBytes += receivedBytes
    this.#sentBytes += sentBytes
    for (const { command, ms, counts } of commands) {
      let total = this.#commands.get(command)
      if (total === undefined) {
        total = { seconds: 0, counts: counts.map(() => 0) }
        this.#commands.set(command, total)
      }
      total.seconds += ms / 1000
      for (const [index, count] of counts.entries()) total.counts[index]! += count
    }
  }

  /** All of it, as `/metrics` answers. */
  text(gauges: Gauges, devices: readonly DeviceReport[]): string {
    const lines: string[] = []
    const metric = (
      name: string,
      kind: "counter" | "gauge",
      help: string,
      values: readonly (readonly [labels: string, value: number])[],
    ): void => {
      lines.push(`# HELP ggml_rpc_${name} ${help}`, `# TYPE ggml_rpc_${name} ${kind}`)
      for (const [labels, value] of values) lines.push(`ggml_rpc_${name}${labels} ${value}`)
    }
    metric("start_time_seconds", "gauge", "When the server started, in seconds since 1970.", [
      ["", this.#startedAtMs / 1000],
    ])
    metric("clients", "gauge", "Clients that are connected.", [["", gauges.clientCount]])
    metric("handshakes", "gauge", "Connections that have not said HELLO.", [
      ["", gauges.handshakeCount],
    ])
    metric(
      "session_processes",
      "gauge",
      "Session processes, those that wait for a client included.",
      [["", gauges.processCount]],
    )
    metric("sessions_total", "counter", "Connections that a session served.", [["", this.#served]])
    metric(
      "connections_ended_total",
      "counter",
      "Connections that are over, by how: the client left, sent what is refused, met a failure of ggml, its session died, or it was turned away.",
      outcomes.map((outcome) => [
        `{outcome="${outcome.replace(" ", "_")}"}`,
        this.#ended.get(outcome) ?? 0,
      ]),
    )
    metric("received_bytes_total", "counter", "Bytes of clients' requests.", [
      ["", this.#receivedBytes],
    ])
    metric("sent_bytes_total", "counter", "Bytes of answers.", [["", this.#sentBytes]])
    metric(
      "device_memory_bytes",
      "gauge",
      "Memory of a device in all.",
      devices.map(({ name, totalBytes }, index) => [
        `{device="${name}",index="${index}"}`,
        totalBytes,
      ]),
    )
    metric(
      "device_memory_free_bytes",
      "gauge",
      "Free memory of a device that uses this machine's.",
      devices.flatMap(({ name, type }, index) =>
        type === "CPU" || type === "ACCEL"
          ? [[`{device="${name}",index="${index}"}`, gauges.freeHostBytes] as const]
          : [],
      ),
    )
    metric("buffer_bytes", "gauge", "Buffers of all clients, on whatever device.", [
      ["", gauges.bufferBytes],
    ])
    if (gauges.cache !== undefined) {
      const bytes = gauges.cache.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0)
      metric("cache_bytes", "gauge", "Size of the cache's files.", [["", bytes]])
      metric("cache_files", "gauge", "Files in the cache.", [["", gauges.cache.length]])
      metric(
        "cache_hits_total",
        "counter",
        "Weights that clients asked the cache for and it had.",
        [["", this.#cacheHits]],
      )
      metric("cache_misses_total", "counter", "The same that it had not.", [
        ["", this.#cacheMisses],
      ])
    }
    this.#appendTimes(lines)
    return `${lines.join("\n")}\n`
  }

  #appendTimes(lines: string[]): void {
    const name = "ggml_rpc_request_seconds"
    lines.push(
      `# HELP ${name} Time of requests, by command: from its header to its answer.`,
      `# TYPE ${name} histogram`,
    )
    for (const [command, { seconds, counts }] of [...this.#commands].sort()) {
      let below = 0
      for (const [index, count] of counts.entries()) {
        below += count
        const bound = TIME_BOUNDS_MS[index]
        const le = bound === undefined ? "+Inf" : String(bound / 1000)
        lines.push(`${name}_bucket{command="${command}",le="${le}"} ${below}`)
      }
      lines.push(`${name}_sum{command="${command}"} ${seconds}`)
      lines.push(`${name}_count{command="${command}"} ${below}`)
    }
  }
}

import type { DeviceType } from "@ggml-rpc/native/bindings"
import type { ModelsConfig } from "../front/ModelIndexer.ts"
import type { CommLimits } from "./CommLink.ts"
import type { MemoryLimits } from "./memory/MemoryQuota.ts"
import type { PeerLimits } from "./PeerGroup.ts"
import type { StatsCounts } from "./SessionStats.ts"
import type { SandboxReport } from "./sandbox.ts"

/** The tensor cache of a server. */
export interface CacheConfig {
  /** Absolute. */
  readonly folder: string
  /** See `ServeOptions.cacheLimitBytes`. */
  readonly limitBytes: number
  /** See `ServeOptions.cacheMinBytes`. */
  readonly minBytes: number
}

/** What a client may take of a session, besides memory; absent: without end. */
export interface ClientLimits {
  /** How long a graph may run. */
  readonly computeMs?: number
  /** How long a client may say nothing, or take nothing of an answer. */
  readonly idleMs?: number
  /** Nodes of a graph. */
  readonly graphNodes: number
}

/** What a session process gets as its only argument, as JSON. */
export interface SessionConfig {
  /** Names of the devices to serve; absent: upstream's default. */
  readonly devices?: readonly string[]
  readonly threadCount: number
  /** The tensor cache; absent: none. */
  readonly cache?: CacheConfig
  /** Models of this machine; absent: none are looked at. */
  readonly models?: ModelsConfig
  /** This process's place among all session processes that live. */
  readonly slot: number
  /** Of the server, as MEMORY_DOMAIN tells it, in hex. */
  readonly serverName: string
  readonly debug: boolean
  /** See `ServeOptions.directMemory`. */
  readonly directMemory: boolean
  /** See `ServeOptions.allowTraining`. */
  readonly allowTraining: boolean
  /** See `ServeOptions.repack`. */
  readonly repack: boolean
  /** See `ServeOptions.warmup`. */
  readonly warmup: boolean
  /** See `ServeOptions.allowComm`; absent: no link is made. */
  readonly commLimits?: CommLimits
  /** See `ServeOptions.peers`. */
  readonly peerLimits: PeerLimits
  /** See `ServeOptions.sandbox`. */
  readonly sandbox: boolean
  /** See `ServeOptions.memoryLimitBytes` and `clientMemoryLimitBytes`. */
  readonly memoryLimits: MemoryLimits
  readonly clientLimits: ClientLimits
  /** Whether `ready` lists the devices. Asking a GPU for its memory takes some of it. */
  readonly describe: boolean
}

/** A device as a session process sees it; memory in bytes. */
export interface DeviceReport {
  readonly name: string
  readonly description: string
  readonly type: DeviceType
  readonly freeBytes: number
  readonly totalBytes: number
}

/** What a client was, and what it had. */
export interface SessionSummary {
  /** That it was served in, such as `8.0.0`. */
  readonly version: string
  /** It is one of ggml-rpc's: it used a command that no other has. */
  readonly isOurs: boolean
  readonly receivedBytes: number
  readonly sentBytes: number
  /** All its buffers, when these were most. */
  readonly peakBytes: number
}

/** A connection is over. */
export interface ClosedEvent {
  readonly event: "closed"
  /** The client closed; it sent a bad request; ggml failed. */
  readonly reason: "left" | "refused" | "failed"
  readonly message: string
  /** Payload bytes of its HELLO; absent when it was not answered. */
  readonly helloBytes?: number
  /** It went on after HELLO: the version that it was offered suits it. */
  readonly hasAsked: boolean
  readonly summary: SessionSummary
  readonly stats: StatsCounts
  /** Nothing of the client is left: the process waits for the next one. Otherwise it ends. */
  readonly again: boolean
}

/** Told now and then while a client is served. */
export interface StatsEvent {
  readonly event: "stats"
  readonly stats: StatsCounts
}

/** What a session process says on stdout, one JSON object a line. */
export type SessionEvent =
  /** The process cannot go on: libraries are missing, or a defect; it ends. */
  | { readonly event: "failed"; readonly message: string }
  /** Backends are loaded; the process waits for its first client. */
  | {
      readonly event: "ready"
      readonly devices: readonly DeviceReport[]
      /** Types of weights that it repacks. */
      readonly repacked: readonly string[]
      /** Absent where the configuration has none. */
      readonly sandbox?: SandboxReport
    }
  /** A device of the configuration does not exist; the process ends. */
  | {
      readonly event: "unknown-device"
      readonly name: string
      readonly available: readonly DeviceReport[]
    }
  /** What comes next leaves traces that only the end of the process removes for sure: it must get no other client. */
  | { readonly event: "spent" }
  | ClosedEvent
  | LinkEvent
  | PeerRequest
  | StatsEvent
  /** Something was not stored in the cache. */
  | { readonly event: "uncached"; readonly reason: string }

/** What becomes of a client's wish for a link to another server; see commands/comm.ts. */
export type LinkEvent =
  /** It is not made, and the other server waits for it to be dialled. */
  | { readonly event: "link"; readonly host: string; readonly port: number }
  /** It is made; address of the other server. */
  | { readonly event: "linked"; readonly peer: string }
  /** It was tried in vain. */
  | { readonly event: "unlinked"; readonly reason: string }

/**
 * What a session asks of its front process for a link to the session of the same client at another server; the answers are notes
 * on its channel, see `FrontNote`.
 */
export type PeerRequest =
  /** A connection will come that shows this key, in hex. Answered at once, and again with the connection. */
  | { readonly event: "expect"; readonly id: number; readonly key: string }
  /** To connect, and show this key. */
  | {
      readonly event: "dial"
      readonly id: number
      readonly key: string
      readonly host: string
      readonly port: number
    }
  /** What was asked for under this number, or all, is not expected any more. */
  | { readonly event: "forget"; readonly id?: number }

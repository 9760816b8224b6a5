import type { DeviceType } from "@ggml-rpc/native/bindings"
import type { LinkLimits } from "./Link.ts"
import type { MemoryLimits } from "./memory/MemoryQuota.ts"
import type { CommandStats } from "./SessionStats.ts"
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

/** What a session process gets as its only argument, as JSON. */
export interface SessionConfig {
  /** Names of the devices to serve; absent: upstream's default. */
  readonly devices?: readonly string[]
  readonly threadCount: number
  /** The tensor cache; absent: none. */
  readonly cache?: CacheConfig
  /** This process's place among all session processes that live. */
  readonly slot: number
  readonly debug: boolean
  /** See `ServeOptions.directMemory`. */
  readonly directMemory: boolean
  /** See `ServeOptions.allowTraining`. */
  readonly allowTraining: boolean
  /** See `ServeOptions.allowComm`; absent: no link is made. */
  readonly linkLimits?: LinkLimits
  /** See `ServeOptions.sandbox`. */
  readonly sandbox: boolean
  /** Most memory of this machine that its clients may have, in bytes; absent: all of it, within its cgroups. */
  readonly memoryBytes?: number
  /** See `ServeOptions.memoryLimitBytes` and `clientMemoryLimitBytes`. */
  readonly memoryLimits: MemoryLimits
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
  /** Nothing of the client is left: the process waits for the next one. Otherwise it ends. */
  readonly again: boolean
}

/** What a session did since it told last: at the end of each connection, and now and then before. */
export interface StatsEvent {
  readonly event: "stats"
  readonly commands: readonly CommandStats[]
  readonly receivedBytes: number
  readonly sentBytes: number
}

/** What a session process says on stdout, one JSON object a line. */
export type SessionEvent =
  /** The process cannot go on: libraries are missing, or a defect; it ends. */
  | { readonly event: "failed"; readonly message: string }
  /** Backends are loaded; the process waits for its first client. */
  | {
      readonly event: "ready"
      readonly devices: readonly DeviceReport[]
      /** Absent where the configuration has none. */
      readonly sandbox?: SandboxReport
    }
  /** A device of the configuration does not exist; the process ends. */
  | {
      readonly event: "unknown-device"
      readonly name: string
      readonly available: readonly DeviceReport[]
    }
  | ClosedEvent
  | LinkEvent
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

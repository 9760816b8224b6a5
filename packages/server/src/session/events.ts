import type { DeviceType } from "@ggml-rpc/native/bindings"

/** What a session process gets as its only argument, as JSON. */
export interface SessionConfig {
  /** Names of the devices to serve; absent: upstream's default. */
  readonly devices?: readonly string[]
  readonly threadCount: number
  /** Absolute folder of the tensor cache; absent: no cache. */
  readonly cacheDir?: string
  /** This process's place among all session processes that live. */
  readonly slot: number
  readonly debug: boolean
  /** See `ServeOptions.directMemory`. */
  readonly directMemory: boolean
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

/** What a session process says on stdout, one JSON object a line. */
export type SessionEvent =
  /** The process cannot go on: libraries are missing, or a defect; it ends. */
  | { readonly event: "failed"; readonly message: string }
  /** Backends are loaded; the process waits for its first client. */
  | { readonly event: "ready"; readonly devices: readonly DeviceReport[] }
  /** A device of the configuration does not exist; the process ends. */
  | {
      readonly event: "unknown-device"
      readonly name: string
      readonly available: readonly DeviceReport[]
    }
  | ClosedEvent
  /** A client wants this server to dial another one, which waits for that; see commands/comm.ts. */
  | { readonly event: "link"; readonly host: string; readonly port: number }

import type { PayloadCodec } from "../codec/payload.ts"
import type { ValueOf } from "../codec/record.ts"
import type { MessageName } from "../commands.ts"
import type { GraphStatusResponse } from "./layouts/device.ts"
import type { Numbering, OpName, TypeName } from "./numbering.ts"
import type { commands as newestCommands } from "./v8_0.ts"

/** A protocol version as HELLO announces it. */
export interface Version {
  readonly major: number
  readonly minor: number
  readonly patch: number
}

type NewestCommands = typeof newestCommands

/**
 * The value of each request. All versions share these shapes: the codec of an older one leaves out what its wire lacks
 * and fills it in when reading, so that nothing above the codec knows versions.
 */
export type Requests = { readonly [N in MessageName]: ValueOf<NewestCommands[N]["request"]> }

/**
 * The value of each response; `undefined` for a command without one, also where an old version sends 0 bytes. Old versions
 * answer GRAPH_COMPUTE with its status.
 */
export type Responses = {
  readonly [N in MessageName]: N extends "GRAPH_COMPUTE"
    ? GraphStatusResponse | undefined
    : NewestCommands[N]["response"] extends null
      ? undefined
      : ValueOf<NewestCommands[N]["response"]>
}

/** One command in one version. `response: null`: not a byte comes back. */
export interface CommandSpec<Request, Response> {
  readonly request: PayloadCodec<Request>
  readonly response: PayloadCodec<Response> | null
}

/** The commands of a version; a name that is missing does not exist in it. */
export type CommandTable = {
  readonly [N in MessageName]?: CommandSpec<Requests[N], Responses[N]>
}

/**
 * An operation of today that a version understands only while one of its parameters lies in a range: `opParams[slot] & mask`,
 * unsigned, from `min` to `max`. Beyond, it would be ignored or end the peer.
 */
export interface ParamLimit {
  readonly op: OpName
  /** 0 … 15. */
  readonly slot: number
  readonly mask: number
  readonly min: number
  readonly max: number
}

/**
 * A source that an operation of today must have, and of which type, for a version to compute it; otherwise it would read what
 * is not there.
 */
export interface SourceLimit {
  readonly op: OpName
  /** 0 … 9. */
  readonly source: number
  /** The only type; absent: any. */
  readonly type?: TypeName
}

/** A parameter that a version's peers leave at `from`, and which means `to` today. */
export interface ParamFill {
  readonly op: OpName
  readonly slot: number
  readonly from: number
  readonly to: number
}

/** What a version does beyond the layout of its messages. */
export interface ProtocolFeatures {
  /** HELLO carries 24 bytes of capabilities each way (4.0.0); before, 0 and 3 bytes. */
  readonly helloCaps: boolean
  /** Requests name a device, and DEVICE_COUNT exists (3.0.0). */
  readonly deviceField: boolean
  /**
   * Which graphs GRAPH_RECOMPUTE finds again: none (before 3.5.0), the device's last one, or up to 1024 a device by their
   * uid (8.0.0).
   */
  readonly storedGraphs: "none" | "last" | "uid"
  /** GRAPH_COMPUTE answers with a status byte (before 3.5.0). */
  readonly graphStatus: boolean
  /** Clients flag the nodes that are to be computed (ggml daa2d466, within 3.6.0); of older ones all are. */
  readonly computeFlag: boolean
  /** The last four bytes of a tensor are its use count (5.1.0); before, they may hold anything. */
  readonly useCount: boolean
  /** SET_TENSOR says whether the server may cache the data (7.0.0); before, size alone decided. */
  readonly setTensorCacheFlag: boolean
  /** The client tries SET_TENSOR_HASH for data larger than this, in bytes. */
  readonly hashThresholdBytes: number
  /** A quantized tensor whose `ne[0]` is no multiple of this, and no view, needs GET_ALLOC_SIZE and INIT_TENSOR. */
  readonly quantizedRowMultiple: number
  /** Ops whose results may need more than their bytes: the client asks GET_ALLOC_SIZE. */
  readonly expandingOps: readonly OpName[]
  /** Operations that have the name of today's, and another meaning or layout: neither side of it runs them. */
  readonly changedOps: readonly OpName[]
  /**
   * Operations of today that do more than the version's, which no parameter tells: what its clients send is run, but its
   * servers are not sent them.
   */
  readonly narrowerOps: readonly OpName[]
  /** What of today's operations the version lacks. */
  readonly limits: readonly ParamLimit[]
  readonly sourceLimits: readonly SourceLimit[]
  /** What its operations leave out that today's need. */
  readonly fills: readonly ParamFill[]
}

/** One protocol version as a table. Older versions are differences from newer ones. */
export interface ProtocolSpec {
  readonly version: Version
  /** Which releases speak it, for people: `"llama.cpp v0.5.0"`. */
  readonly releases: string
  readonly commands: CommandTable
  /** The numberings of the builds that announce this version, oldest first; most have one. */
  readonly numberings: readonly Numbering[]
  readonly features: ProtocolFeatures
  /** Of one that stands for several patches, whose clients do not look at the patch: these, newest first. */
  readonly patches?: readonly ProtocolSpec[]
}

/** Graphs that a server keeps for each device of a connection, by `ProtocolFeatures.storedGraphs`; ggml-rpc.cpp (8.0.0). */
export const STORED_GRAPH_COUNTS = { none: 0, last: 1, uid: 1024 } as const

/** What an older version has otherwise; a command that is `undefined` does not exist in it. */
export interface Difference {
  readonly version: Version
  readonly releases: string
  readonly commands?: { readonly [N in MessageName]?: CommandTable[N] | undefined }
  readonly numberings?: readonly Numbering[]
  readonly features?: Partial<ProtocolFeatures>
}

/** An older version, from the next newer one. */
export const older = (newer: ProtocolSpec, difference: Difference): ProtocolSpec => {
  const commands = Object.entries({ ...newer.commands, ...difference.commands })
  return {
    version: difference.version,
    releases: difference.releases,
    commands: Object.fromEntries(commands.filter(([, entry]) => entry !== undefined)),
    numberings: difference.numberings ?? newer.numberings,
    features: { ...newer.features, ...difference.features },
  }
}

/** `"7.0.0"`. */
export const formatVersion = (version: Version): string =>
  `${version.major}.${version.minor}.${version.patch}`

/** `"7.0"`: what decides whether an upstream client goes on. */
export const shortVersion = (version: Version): string => `${version.major}.${version.minor}`

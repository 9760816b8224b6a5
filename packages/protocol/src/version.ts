import type { MessageName } from "./commands.ts"
import type { PayloadCodec } from "./payload.ts"
import type { ValueOf } from "./record.ts"
import type { commands as newestCommands } from "./v7/commands.ts"

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

/** The value of each response; `undefined` for a command without one, also where an old version sends 0 bytes. */
export type Responses = {
  readonly [N in MessageName]: NewestCommands[N]["response"] extends null
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

/** A ggml type: `typeSize` bytes hold `blockSize` elements. */
export interface TypeInfo {
  readonly id: number
  readonly name: string
  readonly blockSize: number
  readonly typeSize: number
}

/** What a version does beyond the layout of its messages. */
export interface ProtocolFeatures {
  /** HELLO carries 24 bytes of capabilities each way (4.0.0); before, 0 and 3 bytes. */
  readonly helloCaps: boolean
  /** Requests name a device, and DEVICE_COUNT exists (3.0.0). */
  readonly deviceField: boolean
  /** A graph that was computed can be run again by GRAPH_RECOMPUTE (3.5.0). */
  readonly graphRecompute: boolean
  /** GRAPH_COMPUTE answers with a status byte (before 3.5.0). */
  readonly graphStatus: boolean
  /** Nodes without `TensorFlag.COMPUTE` are skipped (ggml daa2d466, within 3.6.0). */
  readonly computeFlag: boolean
  /** The last four bytes of a tensor are its use count (5.1.0). */
  readonly useCount: boolean
  /** SET_TENSOR says whether the server may cache the data (7.0.0); before, size alone decided. */
  readonly setTensorCacheFlag: boolean
  /** The client tries SET_TENSOR_HASH for data larger than this, in bytes. */
  readonly hashThresholdBytes: number
  /** A quantized tensor whose `ne[0]` is no multiple of this, and no view, needs GET_ALLOC_SIZE and INIT_TENSOR. */
  readonly quantizedRowMultiple: number
  /** Ops whose results may need more than their bytes: the client asks GET_ALLOC_SIZE. */
  readonly expandingOps: readonly string[]
}

/** One protocol version as a table. Older versions are differences from newer ones: a folder per major. */
export interface ProtocolSpec {
  readonly version: Version
  readonly commands: CommandTable
  /** Op names without `GGML_OP_`; the index is the id. */
  readonly ops: readonly string[]
  /** Names for `opParams[0]` of a UNARY node. */
  readonly unaryOps: readonly string[]
  /** Names for `opParams[0]` of a GLU node. */
  readonly gluOps: readonly string[]
  readonly types: readonly TypeInfo[]
  readonly features: ProtocolFeatures
}

/** `"7.0.0"`. */
export const formatVersion = (version: Version): string =>
  `${version.major}.${version.minor}.${version.patch}`

/** What a client makes of the version a server announced. */
export type Negotiation =
  | { readonly accepted: true; readonly version: Version }
  | {
      readonly accepted: false
      /** One sentence for people. */
      readonly reason: string
    }

/**
 * The rule by which a client accepts a server: same major, and a minor that is not newer than its own; the patch is
 * ignored. ggml-rpc.cpp `negotiate_hello` (7.0.0). The server never learns the client's version.
 */
export const negotiate = (server: Version, client: Version): Negotiation => {
  if (server.major === client.major && server.minor <= client.minor) {
    return { accepted: true, version: server }
  }
  const older = server.major < client.major
  return {
    accepted: false,
    reason: `the server speaks protocol ${formatVersion(server)}, this client ${formatVersion(client)}; update the ${older ? "server" : "client"}`,
  }
}

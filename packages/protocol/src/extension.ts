/*
 * What this project adds to the protocol between its own clients and servers. Nothing of it is ever in a place that an
 * upstream peer reads; docs/protocol-versions.md, "What is ours".
 */
import { GraphFormat } from "./codec/graph.ts"
import { dataOnly, empty, fixed, records, withData, withRecords } from "./codec/payload.ts"
import { bytes, cstring, record, u8, u32, u64 } from "./codec/record.ts"
import { RpcTensor } from "./codec/tensor.ts"
import { GetTensorRequest, SetTensorHashRequest } from "./versions/layouts/tensor.ts"
import type { CommandSpec } from "./versions/spec.ts"

/**
 * What servers of this project say in HELLO's `extension`: the low four bits are a level, the others flags. A level
 * includes those below it; at level 0, upstream's, the flags mean nothing.
 */
export const HelloExtension = {
  /** What these packages speak: 1, the flags; then the commands of `extensionCommands` up to their levels as well. */
  LEVEL: 7,
  LEVEL_MASK: 0x0f,
  /** The server has no cache: it knows no weight by its hash, and hashing one for it is time lost. */
  NO_CACHE: 0x10,
  /** On every device of the server a tensor takes just its own bytes: GET_ALLOC_SIZE tells nothing new. */
  PLAIN_SIZES: 0x20,
  /** The server serves only who shows that it has its token, by `gateCommands`; then the connection begins anew with HELLO. */
  TOKEN: 0x40,
  /** All devices of the server compute at once, as far as the requests of a connection let them: there are several. */
  DEVICES_AT_ONCE: 0x80,
} as const

/** Command ids of ours, from 128 on: upstream's count up from 0. A server that announced no level for one is never sent it. */
export const ExtensionCommand = {
  DEVICE_SUPPORTS: 128,
  CHALLENGE: 129,
  PROVE: 130,
  MEMORY_DOMAIN: 131,
  STATUS: 132,
  LINK_EXPECT: 133,
  LINK_DIAL: 134,
  LINK_AWAIT: 135,
  LINK_FREE: 136,
  ALL_REDUCE: 137,
  LINK_KEY: 138,
  OFFER_WEIGHTS: 140,
  GET_TENSOR_BF16: 141,
  SET_TENSOR_BF16: 142,
  GET_TENSOR_TOP: 143,
  ALL_REDUCE_DEVICES: 144,
} as const

/** The extension commands by name. */
export type ExtensionName = Exclude<keyof typeof ExtensionCommand, GateName | "LINK_KEY">

/** A command of ours, the same with every version of the protocol. */
export interface ExtensionSpec<Request, Response> extends CommandSpec<Request, Response> {
  /** The first level of HELLO that has it. */
  readonly level: number
  /** Payload bytes of a request at most. */
  readonly maxRequestBytes: number
}

/**
 * `u32 device, u32 N, u64 id[N], u32 M, rpc_tensor tensor[M]`: nodes as in GRAPH_COMPUTE, in the numbers of the connection's
 * version, and what they read. None needs a buffer, as nothing is computed.
 */
const nodesOfDevice = new GraphFormat({ hasDevice: true, hasUid: false }, "DEVICE_SUPPORTS")

/** The answer to STATUS at most. */
export const MAX_STATUS_BYTES = 32 * 1024

/** Bytes of a server's name and of a memory domain's. */
const NAME_BYTES = 16

const MemoryDomainRequest = record("MemoryDomainRequest", { device: u32 })
const MemoryDomainAnswer = record("MemoryDomainAnswer", {
  /** Of the server: another one each time it starts. */
  server: bytes(NAME_BYTES),
  /** Devices that draw from one memory have one domain, at whatever server. */
  domain: bytes(NAME_BYTES),
})

/** Servers in one group of links at most: libllama's scheduler holds 16 backends. */
export const MAX_LINKED_SERVERS = 16

/** Bytes of a link's key: random, made by the client for one link, good for one connection. */
export const LINK_KEY_BYTES = 16

/** What a question about a link is answered with. Coarse by intent: the log of the server that was asked says more. */
export const LinkStatus = {
  /** As asked. */
  DONE: 0,
  /** This server makes no links (`--peers none`). */
  OFF: 1,
  /** This server encrypts what it sends, and links are plain. */
  TLS: 2,
  /** The address is none that this server may connect to (`--peers`). */
  NOT_ALLOWED: 3,
  /** It cannot be reached from here, or does not take the link. */
  UNREACHABLE: 4,
  /** The other server did not come in time. */
  LATE: 5,
  /** There are too many links, or there is this one already. */
  TOO_MANY: 6,
} as const

/** What another server did, or did not do, in a sum. The first four are what the shim's io_all_reduce tells. */
export const PeerFault = {
  /** It ended the link. */
  LEFT: 1,
  /** It moved nothing for as long as the server that tells waits. */
  SILENT: 2,
  /** It sent something else than its part. */
  WRONG: 3,
  /** It is not reached any more. */
  BROKEN: 4,
  /** Nothing yet: it was waited for when the client ended its side of the connection. */
  AWAITED: 5,
} as const

/** A server that failed another one in a sum: its place in the group, and one of `PeerFault`. */
export interface LostPeer {
  readonly place: number
  readonly fault: number
}

const LAST_WORD = 0xffff_ffff
const LAST_WORD_LOW = 0xffff_ff00

/**
 * What a session says in place of the size of its next answer before it ends, when another server has failed it in a sum: no answer is
 * so long.
 */
export const writeLostPeer = (view: DataView, offset: number, { place, fault }: LostPeer): void => {
  view.setUint32(offset, (LAST_WORD_LOW | (fault * MAX_LINKED_SERVERS) | place) >>> 0, true)
  view.setUint32(offset + 4, LAST_WORD, true)
}

/** What `writeLostPeer` wrote; undefined for what it does not write, such as the size of an answer. */
export const readLostPeer = (view: DataView, offset: number): LostPeer | undefined => {
  const low = view.getUint32(offset, true)
  if (view.getUint32(offset + 4, true) !== LAST_WORD || low < LAST_WORD_LOW) return undefined
  const word = low - LAST_WORD_LOW
  const fault = Math.floor(word / MAX_LINKED_SERVERS)
  if (fault < PeerFault.LEFT || fault > PeerFault.AWAITED) return undefined
  return { place: word % MAX_LINKED_SERVERS, fault }
}

/** Whose link to whom: places of servers in a group, which all of its members and the client number alike. */
const linkPlaces = { rank: u32, worldSize: u32, peer: u32 }

const LinkExpectRequest = record("LinkExpectRequest", {
  ...linkPlaces,
  key: bytes(LINK_KEY_BYTES),
})
/** Where the fields of LINK_DIAL lie; those of LINK_EXPECT lie alike. */
export const LinkDialRequest = record("LinkDialRequest", {
  ...linkPlaces,
  key: bytes(LINK_KEY_BYTES),
  port: u32,
  /** A name or an address, as this server is to look it up. */
  host: cstring(256),
})
const LinkAwaitRequest = record("LinkAwaitRequest", { peer: u32 })
/** One of `LinkStatus`. */
const LinkAnswer = record("LinkAnswer", { status: u8 })

/** What an ALL_REDUCE says besides its tensor; bits of `flags`. */
export const AllReduceFlag = {
  /** This server's part counts; without it, it is taken for zeros, whatever it is. */
  COUNTS: 1,
  /**
   * Parts travel between the servers as bf16, from level 6 on: every server rounds its own as well before it adds up, so that all hold
   * the same bits.
   */
  BF16: 2,
} as const

export const AllReduceRequest = record("AllReduceRequest", {
  /** Of `AllReduceFlag`. */
  flags: u32,
  /** F32, without gaps; the sum is put there. */
  tensor: RpcTensor,
})

/** Parts of one sum at most: ggml-backend.h `GGML_BACKEND_META_MAX_DEVICES` (v0.5.0). */
export const MAX_PARTS = 16

/** ALL_REDUCE_DEVICES before its tensors: those of the server that is asked, F32, without gaps, of the same elements each. */
export const AllReduceDevicesHead = record("AllReduceDevicesHead", {
  /** 0 or `AllReduceFlag.BF16`. */
  flags: u32,
  /** 1: all parts are of the server that is asked; else those of its group. */
  serverCount: u32,
  partCount: u32,
  /** Bit i: part i counts; without it, it is taken for zeros. */
  counting: u32,
  /** Of each part, in the order in which they are added up: the place of its server. Each has one at least. */
  places: bytes(MAX_PARTS),
})

/** SET_TENSOR_BF16 before its data. */
export const SetTensorBf16Prefix = record("SetTensorBf16Prefix", {
  tensor: RpcTensor,
  /** Where in the tensor the values go; a multiple of 4. */
  offsetBytes: u64,
})

/** Values that GET_TENSOR_TOP gives of a row at most. */
export const MAX_TOP_COUNT = 1024

/** Values that a row has at most of which GET_TENSOR_TOP gives some. */
export const MAX_TOP_ROW = 512 * 1024

export const GetTensorTopRequest = record("GetTensorTopRequest", {
  /** F32, without gaps. */
  tensor: RpcTensor,
  /** Where in it the rows begin; a multiple of a row's bytes, as is their size. */
  offsetBytes: u64,
  sizeBytes: u64,
  /** 1 to `MAX_TOP_COUNT`, and no more than a row has values. */
  count: u32,
})

/** Of a value that GET_TENSOR_TOP gives: `u32` its index in the row, then the float. */
export const TOP_VALUE_BYTES = 8

/** Weights that one OFFER_WEIGHTS offers at most. */
export const MAX_OFFERED_WEIGHTS = 128

/** Every extension command with its request and response payload. */
export const extensionCommands = {
  /** Whether a device has a kernel for each of the nodes, with these types, shapes and parameters: a byte a node, 1 or 0. */
  DEVICE_SUPPORTS: {
    level: 2,
    request: nodesOfDevice,
    maxRequestBytes: 1024 * 1024,
    response: dataOnly,
  },
  /** Whose memory a device's is: what two servers of one host give is given once. */
  MEMORY_DOMAIN: {
    level: 3,
    request: fixed(MemoryDomainRequest),
    maxRequestBytes: MemoryDomainRequest.size,
    response: fixed(MemoryDomainAnswer),
  },
  /**
   * How the server is, for people: JSON in UTF-8, at most `MAX_STATUS_BYTES`, whose fields come and go with versions of this
   * project; docs/operations.md has them.
   */
  STATUS: {
    level: 3,
    request: empty,
    maxRequestBytes: 0,
    response: dataOnly,
  },
  /**
   * Many weights by their hashes at once: what SET_TENSOR_HASH asks, one after the other, 1 to `MAX_OFFERED_WEIGHTS` times. The
   * answer has a byte for each, 1 where the server had the data and has put it into the tensor.
   */
  OFFER_WEIGHTS: {
    level: 5,
    request: records(SetTensorHashRequest, MAX_OFFERED_WEIGHTS),
    maxRequestBytes: MAX_OFFERED_WEIGHTS * SetTensorHashRequest.size,
    response: dataOnly,
  },
  /**
   * A range of an F32 tensor without gaps, rounded to bf16: to the nearest, ties to even; what is not a number stays so. `sizeBytes`
   * counts the floats' bytes, and the answer has half as many.
   */
  GET_TENSOR_BF16: {
    level: 6,
    request: fixed(GetTensorRequest),
    maxRequestBytes: GetTensorRequest.size,
    response: dataOnly,
  },
  /** Sets a range of such a tensor from bf16, 2 bytes for each of its floats. */
  SET_TENSOR_BF16: {
    level: 6,
    request: withData(SetTensorBf16Prefix),
    maxRequestBytes: Number.MAX_SAFE_INTEGER,
    response: null,
  },
  /**
   * Of each of some rows of such a tensor (`ne[0]` values, at most `MAX_TOP_ROW`) the `count` largest values, each with its index, in the
   * order of these. Of equal ones the first are taken, and what is not a number counts as the least.
   */
  GET_TENSOR_TOP: {
    level: 7,
    request: fixed(GetTensorTopRequest),
    maxRequestBytes: GetTensorTopRequest.size,
    response: dataOnly,
  },
  /** The server will give this session the connection that shows the key, for a while; it knows the key when it answers. */
  LINK_EXPECT: {
    level: 4,
    request: fixed(LinkExpectRequest),
    maxRequestBytes: LinkExpectRequest.size,
    response: fixed(LinkAnswer),
  },
  /** The server connects to another one's port and shows the key there; the answer tells whether that one took it. */
  LINK_DIAL: {
    level: 4,
    request: fixed(LinkDialRequest),
    maxRequestBytes: LinkDialRequest.size,
    response: fixed(LinkAnswer),
  },
  /** Whether the connection that was expected is here; waits for it. */
  LINK_AWAIT: {
    level: 4,
    request: fixed(LinkAwaitRequest),
    maxRequestBytes: LinkAwaitRequest.size,
    response: fixed(LinkAnswer),
  },
  /** Ends the links, and forgets the keys. */
  LINK_FREE: { level: 4, request: empty, maxRequestBytes: 0, response: null },
  /**
   * All servers of the group put the sum of their tensors in place of each: of the same elements, in the order in which ggml's
   * own all-reduce adds them up (ggml-backend-meta.cpp), so with the same bits everywhere. It waits for the others. All have to be
   * asked with the same `AllReduceFlag.BF16`.
   */
  ALL_REDUCE: {
    level: 4,
    request: fixed(AllReduceRequest),
    maxRequestBytes: AllReduceRequest.size,
    response: null,
  },
  /**
   * The same where a server has several of the parts, each on a device of its own: what it can add up of them alone in that order does not
   * travel. It needs no links where it has all.
   */
  ALL_REDUCE_DEVICES: {
    level: 7,
    request: withRecords(AllReduceDevicesHead, "tensors", RpcTensor, MAX_PARTS),
    maxRequestBytes: AllReduceDevicesHead.size + MAX_PARTS * RpcTensor.size,
    response: null,
  },
} as const satisfies {
  // biome-ignore lint/suspicious/noExplicitAny: each command has its own values
  readonly [N in ExtensionName]: ExtensionSpec<any, any>
}

/** Bytes of a nonce, and of a proof: HMAC-SHA256. */
const SECRET_BYTES = 32

const Challenge = record("Challenge", { nonce: bytes(SECRET_BYTES) })
const ChallengeAnswer = record("ChallengeAnswer", {
  nonce: bytes(SECRET_BYTES),
  proof: bytes(SECRET_BYTES),
})
const Proof = record("Proof", { proof: bytes(SECRET_BYTES) })
const ProofAnswer = record("ProofAnswer", { isRight: u8 })

/**
 * What a client and a server with a token ask each other between a first HELLO and the one that a session answers. Each
 * proves that it has the token, which never crosses the wire: a proof is the HMAC-SHA256 of `proofText` under it.
 */
export const gateCommands = {
  /** The client's nonce; the server answers with its own, and with its proof. */
  CHALLENGE: { level: 2, request: fixed(Challenge), response: fixed(ChallengeAnswer) },
  /** The client's proof; 1 when it is right. */
  PROVE: { level: 2, request: fixed(Proof), response: fixed(ProofAnswer) },
} as const

/** The gate's commands by name. */
export type GateName = keyof typeof gateCommands

const LinkKey = record("LinkKey", { key: bytes(LINK_KEY_BYTES) })

/**
 * What one server says to another instead of HELLO, to become a link of the session that expects the key whose SHA-256 begins so. The answer is the
 * last byte that says what it is: partial sums follow, see shim/io/all_reduce.cpp.
 */
export const linkKeyCommand = {
  level: 4,
  request: fixed(LinkKey),
  response: fixed(LinkAnswer),
} as const

/** What the proof of a side is made of. The side is part of it, or one could send the other's proof back. */
export const proofText = (
  side: "client" | "server",
  clientNonce: Uint8Array,
  serverNonce: Uint8Array,
): Uint8Array => {
  const label = new TextEncoder().encode(`ggml-rpc token ${side} `)
  const text = new Uint8Array(label.length + clientNonce.length + serverNonce.length)
  text.set(label)
  text.set(clientNonce, label.length)
  text.set(serverNonce, label.length + clientNonce.length)
  return text
}

type CommandName = keyof typeof ExtensionCommand

const names = new Map<number, CommandName>(
  Object.entries(ExtensionCommand).map(([name, id]) => [id, name as CommandName]),
)

/** `extensionName(128)` is `"DEVICE_SUPPORTS"`; an id without a name gives `undefined`. */
export const extensionName = (id: number): CommandName | undefined => names.get(id)

/**
 * Name of the tensors in the graphs by which a client finds out how a server's build numbers operations: several builds take
 * such a graph, by design. Of ours, a server that cannot tell its client's build then keeps to one.
 */
export const NUMBERING_PROBE = "ggml-rpc numbering probe"

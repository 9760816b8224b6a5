/**
 * The first question to a server, and what its answer says. Servers before 4.0 are asked with nothing and hang up on today's
 * form, so there are two forms of it; a connection is only good for one.
 */
import {
  Command,
  Dialect,
  decodeResponse,
  encodeRequest,
  HelloExtension,
  noConnCaps,
  type ProtocolSpec,
  responseCodec,
  select,
  type Version,
  versions,
} from "@ggml-rpc/protocol"
import { HandshakeError } from "../errors.ts"

/** One way to ask. */
export interface HelloForm {
  /** The whole request. */
  readonly request: Uint8Array<ArrayBuffer>
  /** Bytes of the answer's payload. */
  readonly answerBytes: number
  /** Any version that asks so. */
  readonly spec: ProtocolSpec
}

const formOf = (spec: ProtocolSpec): HelloForm => ({
  request: encodeRequest(Command.HELLO, { connCaps: noConnCaps() }, spec),
  answerBytes: responseCodec(Command.HELLO, spec).minSizeBytes,
  spec,
})

/** In the order to try: the next one on a fresh connection, when a server hangs up before a byte of an answer. */
export const helloForms: ReadonlyArray<HelloForm> = [
  formOf(versions[0]!),
  formOf(versions[versions.length - 1]!),
]

/** Whose server it is. */
export type ServerKind = "ggml-rpc" | "llama.cpp"

/** What a server said of itself in HELLO. */
export interface Greeting {
  readonly version: Version
  readonly dialect: Dialect
  readonly kind: ServerKind
  /** What it knows besides the protocol, see `HelloExtension`; 0 for one of upstream's. */
  readonly level: number
  /** It has no cache; one of upstream's never tells. */
  readonly lacksCache: boolean
  /** A tensor takes just its own bytes on every device of it: no need to ask. */
  readonly hasPlainSizes: boolean
  /** All its devices compute at once; there are several. */
  readonly hasDevicesAtOnce: boolean
  /** It serves only who has its token; the rest is said by the HELLO after that. */
  readonly asksToken: boolean
}

/** What the answer to a form says, or why a server of that version is of no use. */
export const readHello = (
  endpoint: string,
  form: HelloForm,
  payload: Uint8Array,
): Greeting | HandshakeError => {
  const answer = decodeResponse(Command.HELLO, payload, form.spec)
  const version = { major: answer.major, minor: answer.minor, patch: answer.patch }
  const selection = select(version)
  if ("refusal" in selection) {
    return new HandshakeError({ endpoint, reason: "version", detail: selection.refusal })
  }
  const { extension } = answer
  const level = extension & HelloExtension.LEVEL_MASK
  const isOurs = level > 0
  return {
    version,
    dialect: new Dialect(selection.spec),
    kind: isOurs ? "ggml-rpc" : "llama.cpp",
    level,
    lacksCache: isOurs && (extension & HelloExtension.NO_CACHE) !== 0,
    hasPlainSizes: isOurs && (extension & HelloExtension.PLAIN_SIZES) !== 0,
    hasDevicesAtOnce: isOurs && (extension & HelloExtension.DEVICES_AT_ONCE) !== 0,
    asksToken: isOurs && (extension & HelloExtension.TOKEN) !== 0,
  }
}

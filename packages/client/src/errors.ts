/**
 * What can go wrong between a client and its servers. Every error is plain data besides its class, so
 * that it survives the way from the engine's process to the caller (`errorToData`, `errorFromData`).
 */
import { formatNeededMebibytes, TaggedError } from "@ggml-rpc/native/bindings"
import { EndpointError, versionRange } from "@ggml-rpc/protocol"

/** No connection to a server came about. */
export class ConnectError extends TaggedError("ConnectError")<{
  readonly endpoint: string
  readonly reason: "refused" | "timeout" | "unresolved" | "unreachable" | "other"
  /** The system's text. */
  readonly detail: string
}> {
  override get message() {
    const what = {
      refused: "nothing listens there. Start 'ggml-rpc serve' on that host, or check the port",
      timeout: "it did not answer in time. Check the address, the network and the host's firewall",
      unresolved: "the host name is unknown. Check its spelling",
      unreachable: "there is no route to the host. Check the address and the network",
      other: this.detail,
    }[this.reason]
    return `Cannot connect to ${this.endpoint}: ${what}.`
  }
}

/** Something answers at the endpoint, but no server that this client can use. */
export class HandshakeError extends TaggedError("HandshakeError")<{
  readonly endpoint: string
  readonly reason: "not-a-server" | "closed" | "version" | "busy" | "no-devices"
  /** What was seen; for "version", the sentence that says what to do. */
  readonly detail: string
}> {
  override get message() {
    const what = {
      "not-a-server": `what answers there is not a ggml RPC server of protocol ${versionRange} (${this.detail}). Check the port`,
      closed: `it closed the connection without an answer. It may serve as many clients as it is allowed to, which its log tells; or it is no ggml RPC server of protocol ${versionRange}: check the port`,
      version: this.detail,
      busy: `it accepted the connection but did not answer within ${this.detail}. An rpc-server of llama.cpp serves one client at a time: wait for the other one, or run 'ggml-rpc serve' there`,
      "no-devices": "the server offers no device",
    }[this.reason]
    return `Cannot use ${this.endpoint}: ${what}.`
  }
}

/** A server does not let this client in, or is not believed to be the one that is meant. */
export class AccessError extends TaggedError("AccessError")<{
  readonly endpoint: string
  readonly reason: "token-missing" | "token-wrong" | "server-unproven" | "no-tls" | "untrusted"
  /** What was seen, for "untrusted". */
  readonly detail: string
}> {
  override get message() {
    const what = {
      "token-missing":
        "serves only who has its token: name the file that holds it with --token-file",
      "token-wrong":
        "has another token than this client: the file of --token-file must hold the same on both",
      "server-unproven":
        "asks for a token and has another one than this client, or is somebody else: the file of --token-file must hold the same on both",
      "no-tls":
        "does not speak TLS: start it with --tls, or write tcp:// before its address to speak to it without",
      untrusted: `is not trusted: ${this.detail}. If 'ggml-rpc serve' printed that one there, give it to --tls-fingerprint`,
    }[this.reason]
    return `The server ${this.endpoint} ${what}.`
  }
}

/** Two endpoints lead to one server, whose memory is there once. */
export class DuplicateServerError extends TaggedError("DuplicateServerError")<{
  readonly endpoint: string
  /** That of the two which came first. */
  readonly first: string
}> {
  override get message() {
    return `${this.endpoint} and ${this.first} are one server, whose memory can be used once: name it once with --rpc.`
  }
}

/** Devices of one server; a model can use 16 in all. More are no count, but noise. */
const MAX_SERVER_DEVICES = 64

/** What is wrong with the number of devices that a server claims to have, if anything. */
export const deviceCountError = (endpoint: string, count: number): HandshakeError | undefined =>
  count === 0
    ? new HandshakeError({ endpoint, reason: "no-devices", detail: "" })
    : count > MAX_SERVER_DEVICES
      ? new HandshakeError({
          endpoint,
          reason: "not-a-server",
          detail: `it claims to have ${count} devices`,
        })
      : undefined

/** A server went away, or broke the protocol, while it was in use. */
export class ServerLostError extends TaggedError("ServerLostError")<{
  readonly endpoint: string
  /** What was under way, such as `GET_TENSOR`. */
  readonly during: string
  /** What was seen. */
  readonly detail: string
}> {
  override get message() {
    return `Lost the server ${this.endpoint} during ${this.during}: ${this.detail}. Look at that server's log and whether its host is up; then start again.`
  }
}

/** A server was waited for, and not a byte went to it or came from it for as long as the caller would wait. */
export class ServerTimeoutError extends TaggedError("ServerTimeoutError")<{
  readonly endpoint: string
  /** What was under way, such as `GET_TENSOR`. */
  readonly during: string
  readonly silenceMs: number
  /** Servers that were waited for at the same time and as silent: which of them only waits for another is not known. */
  readonly others?: ReadonlyArray<string>
  /** Another server that has said that it waits for this one's part of a sum. */
  readonly awaitedBy?: string
  /** Such a one, for whose part this one waits: what is between them passes nothing on. */
  readonly awaits?: string
}> {
  override get message() {
    const { others = [], awaitedBy, awaits } = this
    if (awaits !== undefined) {
      return `The servers ${this.endpoint} and ${awaits} were silent for ${this.silenceMs / 1000} s during ${this.during}: each waits for the other one's part of a sum. Look whether the network between the two passes anything on; 'serve --peers none' has the sums made here.`
    }
    if (others.length > 0) {
      const all = [this.endpoint, ...others].join(", ")
      return `The servers ${all} were silent for ${this.silenceMs / 1000} s (${this.endpoint} during ${this.during}): one may hang, and the others wait for it. Look which one it is, with 'ggml-rpc status --rpc HOST:PORT' of each; where they need that long to compute, allow more (--timeout).`
    }
    return `The server ${this.endpoint} was silent for ${this.silenceMs / 1000} s during ${this.during}${awaitedBy === undefined ? "" : `, and ${awaitedBy} waits for its part of a sum`}. Look whether it hangs, there with 'ggml-rpc status --rpc ${this.endpoint}'; where it needs that long to compute, allow more (--timeout).`
  }
}

/** A graph that only this server could compute has an operation that its version, or its device, lacks. */
export class UnsupportedOpError extends TaggedError("UnsupportedOpError")<{
  readonly endpoint: string
  /** ggml's name of it, without `GGML_OP_`. */
  readonly op: string
  /** The server's protocol, such as `3.0.0`. */
  readonly version: string
}> {
  override get message() {
    return `The server ${this.endpoint} of protocol ${this.version} cannot run the operation ${this.op} as this model needs it there. Leave that server out, or update it; where it writes to the KV cache, another type of cache may do (--cache-type-k, --cache-type-v).`
  }
}

/** A server could not give the memory that a model, its KV cache or its compute buffers need. */
export class RemoteMemoryError extends TaggedError("RemoteMemoryError")<{
  readonly endpoint: string
  readonly device: string
  readonly sizeBytes: number
}> {
  override get message() {
    return `${this.endpoint} cannot allocate ${formatNeededMebibytes(this.sizeBytes)} on ${this.device}: lower --ctx-size, leave it fewer layers (--tensor-split moves them to other servers, --gpu-layers to this machine), or free memory there.`
  }
}

/** libllama refused the model or the context. */
export class ModelError extends TaggedError("ModelError")<{
  readonly path: string
  /** `request`: what was asked for cannot be done, whatever the model; `decode` and `encode`: it could not go on. */
  readonly during: "load" | "context" | "tokenize" | "request" | "decode" | "encode" | "slot"
  /** The reason, with the end of libllama's log where it says more. */
  readonly detail: string
}> {
  override get message() {
    const what = {
      load: "could not be loaded",
      context: "could not get a context",
      tokenize: "could not tokenize the text",
      request: "could not be evaluated",
      decode: "could not be evaluated",
      encode: "could not be evaluated",
      slot: "could not do this with a slot",
    }[this.during]
    return `The model ${this.path} ${what}: ${this.detail}`
  }
}

/** The model does not fit into the memory of the devices, or the wanted split is impossible. */
export class PlanError extends TaggedError("PlanError")<{
  readonly reason:
    | "does-not-fit"
    | "tensor-split"
    | "split-mode"
    | "unknown-device"
    | "positions"
    | "slots"
  readonly detail: string
  /** Bytes that are missing over all devices, when it does not fit. */
  readonly missingBytes?: number
}> {
  override get message() {
    return this.detail
  }
}

/** This machine does not let the process that runs the model start. */
export class EngineStartError extends TaggedError("EngineStartError")<{
  readonly detail: string
}> {
  override get message() {
    return `The process that runs the model does not start: ${this.detail}. Free memory, processes or space in the folder for temporary files (TMPDIR), and try again.`
  }
}

/** The process that runs the model ended by itself: open a new cluster. */
export class EngineEndedError extends TaggedError("EngineEndedError")<{
  /**
   * `gave-up`: a condition of llama.cpp's did not hold; `cannot-cut`: one did not for a model whose tensors were to be cut;
   * `killed`: by SIGKILL; `other`: as `detail` says.
   */
  readonly reason: "gave-up" | "cannot-cut" | "killed" | "other"
  /** The condition and its place; else the signal or exit code, and its last words. */
  readonly detail: string
  /** The model's file, where it was being read, for `gave-up` and `cannot-cut`. */
  readonly path?: string
}> {
  override get message() {
    return {
      "gave-up":
        this.path === undefined
          ? `llama.cpp gave up on what it computed: ${this.detail}. The model's file may be damaged; if it is not, please report this with the log that GGML_RPC_DEBUG=1 gives.`
          : `llama.cpp gave up on the model ${this.path}: ${this.detail}. As a rule the file is damaged, or was made by another program than llama.cpp's: compare its checksum, or download it again.`,
      "cannot-cut": `llama.cpp cannot cut the tensors of ${this.path === undefined ? "this model" : `the model ${this.path}`} over these devices: ${this.detail}. Split layers (--split-mode layer); other shares (--tensor-split) or fewer devices may do, too.`,
      killed: `The process that runs the model was killed (SIGKILL), as the system does when memory runs out; 'dmesg' tells on this machine. Then a shorter context (--ctx-size), or more layers on other devices, takes less.${this.detail === "" ? "" : ` It said: ${this.detail}`}`,
      other: `The process that runs the model ended unexpectedly: ${this.detail}. Run again with GGML_RPC_DEBUG=1 for its log.`,
    }[this.reason]
  }
}

/** The engine lives, and did not do what it was asked. Other requests are not affected. */
export class EngineRequestError extends TaggedError("EngineRequestError")<{
  /** `cancelled`: before it began; `no-model`: none is loaded any more; `failed`: anything else. */
  readonly reason: "cancelled" | "no-model" | "failed"
  /** What was seen, for `failed`. */
  readonly detail: string
}> {
  override get message() {
    return {
      cancelled: "The request was cancelled before it began: the model's scope was closed.",
      "no-model": "No model is loaded: the model's scope was closed. Load it again.",
      failed: `The process that runs the model could not do what it was asked: ${this.detail}. Run again with GGML_RPC_DEBUG=1 for its log.`,
    }[this.reason]
  }
}

const classes = {
  AccessError,
  ConnectError,
  DuplicateServerError,
  EndpointError,
  EngineEndedError,
  EngineRequestError,
  EngineStartError,
  HandshakeError,
  ModelError,
  PlanError,
  RemoteMemoryError,
  ServerLostError,
  ServerTimeoutError,
  UnsupportedOpError,
}

/** Every error that a running engine can report. */
export type ClusterError = {
  [K in keyof typeof classes]: InstanceType<(typeof classes)[K]>
}[keyof typeof classes]

/** An error's tag and fields, for JSON. */
export type ErrorData = { readonly _tag: string } & Readonly<Record<string, unknown>>

export const isClusterError = (error: unknown): error is ClusterError =>
  typeof error === "object" &&
  error !== null &&
  "_tag" in error &&
  Object.hasOwn(classes, String(error._tag))

export const errorToData = (error: ClusterError): ErrorData => {
  const {
    stack: _stack,
    message: _message,
    ...fields
  } = error as ClusterError & {
    stack?: string
  }
  return { ...fields, _tag: error._tag }
}

/** The error again; what is no known error becomes an `EngineRequestError`: an engine that said it lives. */
export const errorFromData = (data: ErrorData): ClusterError => {
  if (!Object.hasOwn(classes, data._tag)) {
    return new EngineRequestError({ reason: "failed", detail: String(data.detail ?? data._tag) })
  }
  const { _tag, ...fields } = data
  const Class = classes[_tag as keyof typeof classes] as new (fields: unknown) => ClusterError
  return new Class(fields)
}

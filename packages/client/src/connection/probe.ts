/** Asks a server what it offers, without starting an engine: one short connection, asynchronous. */
import {
  Command,
  type Dialect,
  decodeExtensionResponse,
  decodeResponse,
  describeCommand,
  type Endpoint,
  encodeExtensionRequest,
  encodeRequest,
  extensionCommands,
  formatEndpoint,
  MAX_STATUS_BYTES,
  type MessageId,
  RESPONSE_HEADER_SIZE_BYTES,
  type RequestOf,
  type ResponseOf,
  readU64AsNumber,
  type Version,
} from "@ggml-rpc/protocol"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import {
  AccessError,
  ConnectError,
  deviceCountError,
  HandshakeError,
  ServerLostError,
} from "../errors.ts"
import { plainAddress } from "../memoryDomains.ts"
import { connectReason } from "./connectReason.ts"
import { type Greeting, type HelloForm, helloForms, readHello, type ServerKind } from "./hello.ts"
import { readReport, type StatusReport } from "./statusReport.ts"
import { connectTls, type TlsEvents, type TlsTrust, usesTls } from "./tls.ts"
import { CHALLENGE_ANSWER_BYTES, PROVE_ANSWER_BYTES, TokenProof } from "./token.ts"

export interface ProbedDevice {
  readonly index: number
  readonly freeBytes: number
  readonly totalBytes: number
  /** Which memory it draws from, in hex, where its server tells; see `domainsOf`. */
  readonly domain?: string
}

export interface ProbedServer {
  readonly endpoint: string
  readonly version: Version
  /** Whose server it is. */
  readonly kind: ServerKind
  /** The same at all endpoints of a server; absent where it tells none. */
  readonly name?: string
  /** The address behind the endpoint's name; "" where it is not known. */
  readonly address: string
  readonly devices: ReadonlyArray<ProbedDevice>
}

export interface ServerStatus extends ProbedServer {
  readonly report?: StatusReport
}

export type ProbeError = AccessError | ConnectError | HandshakeError | ServerLostError

/** Bytes as they come, handed out in exact sizes. */
class Inbox {
  private chunks: Array<Uint8Array> = []
  private size = 0
  private closed = false
  private wake: (() => void) | undefined

  push(chunk: Uint8Array): void {
    this.chunks.push(Uint8Array.from(chunk))
    this.size += chunk.length
    this.wake?.()
  }

  close(): void {
    this.closed = true
    this.wake?.()
  }

  /** The next `size` bytes, or fewer when the peer closed first. */
  async take(size: number): Promise<Uint8Array> {
    while (this.size < size && !this.closed) {
      await new Promise<void>((resolve) => {
        this.wake = resolve
      })
    }
    const all = Buffer.concat(this.chunks)
    const taken = all.subarray(0, size)
    const rest = all.subarray(size)
    this.chunks = [rest]
    this.size = rest.length
    return taken
  }
}

type Socket = Awaited<ReturnType<typeof Bun.connect>>

/** A connection that comes too late, when nobody waits for it any more, is closed. */
const opened = (endpoint: Endpoint, inbox: Inbox): Effect.Effect<Socket, ConnectError> =>
  Effect.async((resume) => {
    let isGivenUp = false
    Bun.connect({
      hostname: endpoint.host,
      port: endpoint.port,
      socket: {
        data: (_socket, chunk) => inbox.push(chunk),
        close: () => inbox.close(),
        end: () => inbox.close(),
        error: () => inbox.close(),
      },
    }).then(
      (socket) => (isGivenUp ? socket.terminate() : resume(Effect.succeed(socket))),
      (cause: unknown) =>
        resume(
          Effect.fail(
            new ConnectError({
              endpoint: formatEndpoint(endpoint),
              reason: connectReason(cause),
              detail: cause instanceof Error ? cause.message : String(cause),
            }),
          ),
        ),
    )
    return Effect.sync(() => {
      isGivenUp = true
    })
  })

const connect = (
  endpoint: Endpoint,
  inbox: Inbox,
  timeoutMs: number,
): Effect.Effect<Socket, ConnectError, Scope.Scope> =>
  // Not acquireRelease: there the timeout would wait for the system's, two minutes.
  Effect.uninterruptibleMask((restore) =>
    restore(opened(endpoint, inbox)).pipe(
      Effect.timeoutFail({
        duration: timeoutMs,
        onTimeout: () =>
          new ConnectError({ endpoint: formatEndpoint(endpoint), reason: "timeout", detail: "" }),
      }),
      Effect.tap((socket) => Effect.addFinalizer(() => Effect.sync(() => socket.terminate()))),
    ),
  )

/** A response's payload, or what the stream holds instead of what the protocol says. */
type Exchanged = { readonly payload: Uint8Array } | { readonly problem: string }

/** The server hung up, without a byte of an answer or in the middle of it. */
const closed = { problem: "it closed the connection" }
const cutShort = { problem: "it closed the connection in the middle of an answer" }

/** A connection to a server, and how long it may take to answer. */
interface Line {
  readonly endpoint: string
  readonly socket: { readonly write: (bytes: Uint8Array) => number }
  /** Of the server; "" where it is not known. */
  readonly address: string
  readonly inbox: Inbox
  readonly timeoutMs: number
}

/** Bytes of an answer, or the most that it may have. */
type AnswerSize = number | { readonly max: number }

/** One request and its response of `sizeBytes`. */
const exchange = async (
  { socket, inbox }: Line,
  request: Uint8Array,
  sizeBytes: AnswerSize,
): Promise<Exchanged> => {
  socket.write(request)
  const header = await inbox.take(RESPONSE_HEADER_SIZE_BYTES)
  if (header.length < RESPONSE_HEADER_SIZE_BYTES) return header.length === 0 ? closed : cutShort
  const announced = readU64AsNumber(new DataView(header.buffer, header.byteOffset, 8), 0)
  const isRight =
    typeof sizeBytes === "number"
      ? announced === sizeBytes
      : announced >= 0 && announced <= sizeBytes.max
  if (!isRight) return { problem: "its answer has another size than the protocol says" }
  const payload = await inbox.take(announced)
  return payload.length < announced ? cutShort : { payload }
}

const answerOf = (
  line: Line,
  request: Uint8Array,
  sizeBytes: AnswerSize,
): Effect.Effect<Exchanged, HandshakeError> =>
  Effect.promise(() => exchange(line, request, sizeBytes)).pipe(
    Effect.timeoutFail({
      duration: line.timeoutMs,
      onTimeout: () =>
        new HandshakeError({
          endpoint: line.endpoint,
          reason: "busy",
          detail: `${(line.timeoutMs / 1000).toFixed(1)} s`,
        }),
    }),
  )

/** The payload of the answer to a question, of a server that has said HELLO. */
const payloadOf = (
  line: Line,
  during: string,
  request: Uint8Array,
  sizeBytes: AnswerSize,
): Effect.Effect<Uint8Array, ProbeError> =>
  Effect.flatMap(answerOf(line, request, sizeBytes), (answer) =>
    "payload" in answer
      ? Effect.succeed(answer.payload)
      : Effect.fail(
          new ServerLostError({ endpoint: line.endpoint, during, detail: answer.problem }),
        ),
  )

const ask = <C extends MessageId>(
  line: Line,
  { spec, responseBytes }: Dialect,
  command: C,
  value: RequestOf<C>,
): Effect.Effect<ResponseOf<C>, ProbeError> => {
  const request = encodeRequest(command, value, spec)
  return Effect.map(
    payloadOf(line, describeCommand(command), request, responseBytes[command]!),
    (payload) => decodeResponse(command, payload, spec),
  )
}

/** The server's name, and the memory that a device draws from; both in hex. */
const askDomain = (line: Line, device: number) => {
  const request = encodeExtensionRequest("MEMORY_DOMAIN", { device })
  const { minSizeBytes } = extensionCommands.MEMORY_DOMAIN.response
  return Effect.map(payloadOf(line, "MEMORY_DOMAIN", request, minSizeBytes), (payload) => {
    const { server, domain } = decodeExtensionResponse("MEMORY_DOMAIN", payload)
    return { server: server.toHex(), domain: domain.toHex() }
  })
}

/** One question of the token's proof. */
const askGate = (line: Line, request: Uint8Array, sizeBytes: number) =>
  Effect.flatMap(answerOf(line, request, sizeBytes), (answer) =>
    "payload" in answer
      ? Effect.succeed(answer.payload)
      : Effect.fail(
          new HandshakeError({ endpoint: line.endpoint, reason: "closed", detail: answer.problem }),
        ),
  )

const showToken = (line: Line, token: string | undefined): Effect.Effect<void, ProbeError> =>
  Effect.gen(function* () {
    const { endpoint } = line
    if (token === undefined) {
      return yield* Effect.fail(new AccessError({ endpoint, reason: "token-missing", detail: "" }))
    }
    const proof = new TokenProof(endpoint, token)
    const proving = proof.prove(yield* askGate(line, proof.challenge(), CHALLENGE_ANSWER_BYTES))
    if (proving instanceof AccessError) return yield* Effect.fail(proving)
    const wrong = proof.check(yield* askGate(line, proving, PROVE_ANSWER_BYTES))
    if (wrong !== undefined) return yield* Effect.fail(wrong)
  })

const eventsOf = (inbox: Inbox): TlsEvents => ({
  data: (bytes) => inbox.push(bytes),
  drain: () => {},
  end: () => inbox.close(),
})

/** What HELLO says; undefined when the server hung up on this form of it. */
const sayHello = (
  line: Line,
  form: HelloForm,
  token: string | undefined,
): Effect.Effect<Greeting | undefined, ProbeError> =>
  Effect.gen(function* () {
    const answer = yield* answerOf(line, form.request, form.answerBytes)
    if ("problem" in answer) {
      if (answer === closed) return undefined
      const problem = { reason: "not-a-server", detail: answer.problem } as const
      return yield* Effect.fail(new HandshakeError({ endpoint: line.endpoint, ...problem }))
    }
    const greeting = readHello(line.endpoint, form, answer.payload)
    if (greeting instanceof HandshakeError) return yield* Effect.fail(greeting)
    if (!greeting.asksToken) return greeting
    yield* showToken(line, token)
    return yield* sayHello(line, form, token)
  })

export interface ProbeOptions {
  /** For connecting, and for each answer; 5000. */
  readonly timeoutMs?: number
  /** What a server that asks for one is shown. */
  readonly token?: string | undefined
  /** As `ClusterOptions.tls`. */
  readonly tls?: TlsTrust | undefined
}

/** What a server is and what its devices have free now. */
export const probe = (
  endpoint: Endpoint,
  options: ProbeOptions = {},
): Effect.Effect<ProbedServer, ProbeError> => greeted(endpoint, options, describe)

/** The same, and how it is, as far as it tells: those of llama.cpp do not, nor older ones of this project. */
export const serverStatus = (
  endpoint: Endpoint,
  options: ProbeOptions = {},
): Effect.Effect<ServerStatus, ProbeError> =>
  greeted(endpoint, options, (line, greeting) =>
    Effect.gen(function* () {
      const server = yield* describe(line, greeting)
      if (greeting.level < extensionCommands.STATUS.level) return server
      const request = encodeExtensionRequest("STATUS", {})
      const payload = yield* payloadOf(line, "STATUS", request, { max: MAX_STATUS_BYTES })
      const report = readReport(payload)
      return report === undefined ? server : { ...server, report }
    }),
  )

const greeted = <A>(
  endpoint: Endpoint,
  { timeoutMs = 5000, token, tls }: ProbeOptions,
  use: (line: Line, greeting: Greeting) => Effect.Effect<A, ProbeError>,
): Effect.Effect<A, ProbeError> =>
  Effect.scoped(
    Effect.gen(function* () {
      const name = formatEndpoint(endpoint)
      for (const form of helloForms) {
        const inbox = new Inbox()
        const socket = usesTls(endpoint, tls)
          ? yield* connectTls(endpoint, tls ?? {}, timeoutMs, eventsOf(inbox))
          : yield* connect(endpoint, inbox, timeoutMs)
        const address = "remoteAddress" in socket ? plainAddress(socket.remoteAddress) : ""
        const line: Line = { endpoint: name, socket, address, inbox, timeoutMs }
        const greeting = yield* sayHello(line, form, token)
        if (greeting !== undefined) return yield* use(line, greeting)
      }
      return yield* Effect.fail(
        new HandshakeError({ endpoint: name, reason: "closed", detail: "" }),
      )
    }),
  )

const describe = (
  line: Line,
  { dialect, version, kind, level }: Greeting,
): Effect.Effect<ProbedServer, ProbeError> =>
  Effect.gen(function* () {
    const { endpoint, address } = line
    const tellsDomain = level >= extensionCommands.MEMORY_DOMAIN.level
    let name: string | undefined
    // Before there was such a question, a server was one device.
    const deviceCount = dialect.has("DEVICE_COUNT")
      ? (yield* ask(line, dialect, Command.DEVICE_COUNT, {})).deviceCount
      : 1
    const countError = deviceCountError(endpoint, deviceCount)
    if (countError !== undefined) return yield* Effect.fail(countError)
    const devices: Array<ProbedDevice> = []
    for (let index = 0; index < deviceCount; index++) {
      const memory = yield* ask(line, dialect, Command.GET_DEVICE_MEMORY, { device: index })
      const told = tellsDomain ? yield* askDomain(line, index) : undefined
      name = told?.server
      devices.push({
        index,
        freeBytes: Number(memory.freeBytes),
        totalBytes: Number(memory.totalBytes),
        ...(told === undefined ? {} : { domain: told.domain }),
      })
    }
    return { endpoint, version, kind, address, devices, ...(name === undefined ? {} : { name }) }
  })

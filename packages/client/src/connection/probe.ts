/** Asks a server what it offers, without starting an engine: one short connection, asynchronous. */
import {
  Command,
  describeCommand,
  type Endpoint,
  formatEndpoint,
  type MessageId,
  RESPONSE_HEADER_SIZE_BYTES,
  type RequestOf,
  type ResponseOf,
  readU64AsNumber,
  type Version,
} from "@ggml-rpc/protocol"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { ConnectError, deviceCountError, HandshakeError, ServerLostError } from "../errors.ts"
import { helloRequest, readHello, requestOf, responseOf, responseSizeBytes } from "./dialect.ts"

export interface ProbedDevice {
  readonly index: number
  readonly freeBytes: number
  readonly totalBytes: number
}

export interface ProbedServer {
  readonly endpoint: string
  readonly version: Version
  readonly devices: ReadonlyArray<ProbedDevice>
}

export type ProbeError = ConnectError | HandshakeError | ServerLostError

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

const connectReason = (error: unknown): ConnectError["reason"] => {
  const code = (error as { readonly code?: string }).code ?? ""
  if (code === "ECONNREFUSED") return "refused"
  if (code === "ETIMEDOUT") return "timeout"
  if (code === "EHOSTUNREACH" || code === "ENETUNREACH") return "unreachable"
  return /NOTFOUND|NODATA|EAI_|DNS/.test(code) ? "unresolved" : "other"
}

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

const closed = { problem: "it closed the connection" }

/** One request and its response. */
const exchange = async (
  socket: Socket,
  inbox: Inbox,
  command: MessageId,
  request: Uint8Array,
): Promise<Exchanged> => {
  socket.write(request)
  const header = await inbox.take(RESPONSE_HEADER_SIZE_BYTES)
  if (header.length < RESPONSE_HEADER_SIZE_BYTES) return closed
  const size = responseSizeBytes(command)
  const announced = readU64AsNumber(new DataView(header.buffer, header.byteOffset, 8), 0)
  if (announced !== size) return { problem: "its answer has another size than the protocol says" }
  const payload = await inbox.take(size)
  return payload.length < size ? closed : { payload }
}

/** What a server is and what its devices have free now. `timeoutMs` bounds connecting and each answer. */
export const probe = (
  endpoint: Endpoint,
  timeoutMs = 5000,
): Effect.Effect<ProbedServer, ProbeError> => {
  const name = formatEndpoint(endpoint)
  return Effect.scoped(
    Effect.gen(function* () {
      const inbox = new Inbox()
      const socket = yield* connect(endpoint, inbox, timeoutMs)
      const payloadOf = (
        command: MessageId,
        request: Uint8Array,
        onProblem: (detail: string) => ProbeError,
      ): Effect.Effect<Uint8Array, ProbeError> =>
        Effect.promise(() => exchange(socket, inbox, command, request)).pipe(
          Effect.timeoutFail({
            duration: timeoutMs,
            onTimeout: () =>
              new HandshakeError({
                endpoint: name,
                reason: "busy",
                detail: `${(timeoutMs / 1000).toFixed(1)} s`,
              }),
          }),
          Effect.flatMap((answer) =>
            "payload" in answer
              ? Effect.succeed(answer.payload)
              : Effect.fail(onProblem(answer.problem)),
          ),
        )
      const ask = <C extends MessageId>(
        command: C,
        value: RequestOf<C>,
      ): Effect.Effect<ResponseOf<C>, ProbeError> =>
        Effect.map(
          payloadOf(
            command,
            requestOf(command, value),
            (detail) =>
              new ServerLostError({ endpoint: name, during: describeCommand(command), detail }),
          ),
          (payload) => responseOf(command, payload),
        )
      const hello = yield* payloadOf(
        Command.HELLO,
        helloRequest(),
        (detail) =>
          new HandshakeError(
            detail === closed.problem
              ? { endpoint: name, reason: "closed", detail: "" }
              : { endpoint: name, reason: "not-a-server", detail },
          ),
      )
      const greeting = readHello(name, hello)
      if (greeting instanceof HandshakeError) return yield* Effect.fail(greeting)
      const { deviceCount } = yield* ask(Command.DEVICE_COUNT, {})
      const countError = deviceCountError(name, deviceCount)
      if (countError !== undefined) return yield* Effect.fail(countError)
      const devices: Array<ProbedDevice> = []
      for (let index = 0; index < deviceCount; index++) {
        const memory = yield* ask(Command.GET_DEVICE_MEMORY, { device: index })
        devices.push({
          index,
          freeBytes: Number(memory.freeBytes),
          totalBytes: Number(memory.totalBytes),
        })
      }
      return { endpoint: name, version: greeting.version, devices }
    }),
  )
}

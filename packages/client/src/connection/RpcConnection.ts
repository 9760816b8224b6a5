/** One connection to a server: how it opens, says HELLO and fails. What goes over it is RequestStream.ts. */
import { cString, errno, io, ioErrorText } from "@ggml-rpc/native/bindings"
import {
  decodeExtensionResponse,
  decodeResponse,
  describeCommand,
  ExtensionCommand,
  encodeExtensionRequest,
  encodeRequest,
  extensionCommands,
  formatEndpoint,
  type LostPeer,
  type MessageId,
  RESPONSE_HEADER_SIZE_BYTES,
  type RequestOf,
  type ResponseOf,
  readU64AsNumber,
} from "@ggml-rpc/protocol"
import type { EngineEndpoint } from "../engine/messages.ts"
import {
  AccessError,
  type ClusterError,
  ConnectError,
  DuplicateServerError,
  HandshakeError,
  ServerLostError,
  ServerTimeoutError,
} from "../errors.ts"
import { plainAddress } from "../memoryDomains.ts"
import { NO_TARGET } from "./AnswerQueue.ts"
import { describeGraphStatus } from "./graphStatus.ts"
import { type HelloForm, helloForms, readHello, type ServerKind } from "./hello.ts"
import { failureOf, type LastWord, reasonOf, stallOf } from "./lostPeer.ts"
import { RequestStream } from "./RequestStream.ts"
import { CHALLENGE_ANSWER_BYTES, PROVE_ANSWER_BYTES, TokenProof } from "./token.ts"

/** A host that vanished while nothing was sent is noticed after about twice this time. */
const KEEPALIVE_S = 5

export class RpcConnection extends RequestStream {
  readonly endpoint: string
  kind: ServerKind = "llama.cpp"
  /** What the server knows besides the protocol, see `HelloExtension`. */
  level = 0
  /** The server said that it has no cache; one of upstream's never tells. */
  lacksCache = false
  /** The server said that a tensor takes just its own bytes on every device of it: no need to ask. */
  hasPlainSizes = false
  /** The server said that all its devices compute at once; there are several. */
  hasDevicesAtOnce = false
  /** The address behind the endpoint's name, such as 10.0.0.2; "" where this process did not connect itself. */
  address = ""
  /** The server's name, where it tells one: the same at all its endpoints. */
  serverName: string | undefined
  /** The servers with which it adds up sums, by their places; see `ServerLinks`. */
  linked: ReadonlyArray<RpcConnection> = []
  /** Of another server that failed it, if that was the last that the server said. */
  lastWord: LastWord | undefined
  /** It has said its last word, nothing more comes, or nobody waits for that any more. */
  hasEnded = false
  /** What comes is read for the last word alone. */
  private isEnding = false
  /** Bytes that `fillSoon` received last. */
  private answerFilled = 0

  /** How long an answer may take, all of it; undefined while a computation may lie before it. */
  private patienceMs: number | undefined

  /** Where it is. */
  readonly target: EngineEndpoint

  private readonly token: string | undefined

  /** `token`: what a server that asks for one is shown. */
  constructor(target: EngineEndpoint, token?: string) {
    super()
    this.target = target
    this.token = token
    this.endpoint = formatEndpoint(target)
  }

  /**
   * Connects and says HELLO, unless there is a connection to that very address and port among `others`: a server that serves
   * one client at a time would not answer.
   *
   * @throws {ConnectError | HandshakeError | DuplicateServerError}
   */
  open(timeoutMs: number, others: ReadonlyArray<RpcConnection> = []): void {
    try {
      const { descriptor } = this.target
      if (descriptor !== undefined) {
        // Behind it is a server of ours: others cannot be reached so.
        this.use(descriptor, timeoutMs)
        if (this.hello(helloForms[0]!, timeoutMs)) return
        throw new HandshakeError({ endpoint: this.endpoint, reason: "closed", detail: "" })
      }
      for (const form of helloForms) {
        this.connect(timeoutMs)
        this.failIfSameAs(others.find((other) => this.hasAddressOf(other)))
        if (this.hello(form, timeoutMs)) return
        this.close()
      }
    } catch (error) {
      this.close()
      throw error
    }
    throw new HandshakeError({ endpoint: this.endpoint, reason: "closed", detail: "" })
  }

  private connect(timeoutMs: number): void {
    const fd = io().io_connect(cString(this.target.host), this.target.port, timeoutMs)
    if (fd < 0) throw connectError(this.endpoint, fd)
    this.use(fd, timeoutMs)
    this.address = peerAddress(fd)
  }

  private hasAddressOf(other: RpcConnection): boolean {
    return (
      this.address !== "" &&
      other.address === this.address &&
      other.target.port === this.target.port
    )
  }

  /** @throws {DuplicateServerError} when there is such a connection */
  failIfSameAs(first: RpcConnection | undefined): void {
    if (first === undefined) return
    throw new DuplicateServerError({ endpoint: this.endpoint, first: first.endpoint })
  }

  private use(fd: number, timeoutMs: number): void {
    this.fd = fd
    this.patienceMs = timeoutMs
    io().io_tune_socket(fd, KEEPALIVE_S)
    io().io_watch_server(fd)
  }

  /** The server takes and gives F32 tensors as bf16. */
  get speaksBf16(): boolean {
    return this.level >= extensionCommands.GET_TENSOR_BF16.level
  }

  /** The server gives the largest values of rows. */
  get findsTop(): boolean {
    return this.level >= extensionCommands.GET_TENSOR_TOP.level
  }

  /** False when the server hung up without a byte of an answer, as one does that knows HELLO in another form. */
  private hello(form: HelloForm, timeoutMs: number): boolean {
    io().io_send(this.fd, form.request, form.request.length)
    this.answerFilled = 0
    const result = this.receiveSoon(form.answerBytes, timeoutMs)
    if (result === errno.again) throw this.busyError(timeoutMs)
    if (result < 0 && this.answerFilled === 0) return false
    if (result < 0) {
      throw new HandshakeError({
        endpoint: this.endpoint,
        reason: "not-a-server",
        detail:
          result === errno.protocol
            ? "it sent something else than a HELLO response"
            : "it closed the connection in the middle of an answer",
      })
    }
    const greeting = readHello(this.endpoint, form, this.answer.subarray(0, form.answerBytes))
    if (greeting instanceof HandshakeError) throw greeting
    if (greeting.asksToken) {
      this.showToken(timeoutMs)
      return this.hello(form, timeoutMs)
    }
    this.dialect = greeting.dialect
    this.kind = greeting.kind
    this.level = greeting.level
    this.lacksCache = greeting.lacksCache
    this.hasPlainSizes = greeting.hasPlainSizes
    this.hasDevicesAtOnce = greeting.hasDevicesAtOnce
    return true
  }

  private showToken(timeoutMs: number): void {
    const { endpoint, token } = this
    if (token === undefined)
      throw new AccessError({ endpoint, reason: "token-missing", detail: "" })
    const proof = new TokenProof(endpoint, token)
    const proving = proof.prove(this.askGate(proof.challenge(), CHALLENGE_ANSWER_BYTES, timeoutMs))
    if (proving instanceof AccessError) throw proving
    const wrong = proof.check(this.askGate(proving, PROVE_ANSWER_BYTES, timeoutMs))
    if (wrong !== undefined) throw wrong
  }

  private askGate(
    request: Uint8Array<ArrayBuffer>,
    answerBytes: number,
    timeoutMs: number,
  ): Uint8Array {
    io().io_send(this.fd, request, request.length)
    const result = this.receiveSoon(answerBytes, timeoutMs)
    if (result === errno.again) throw this.busyError(timeoutMs)
    if (result < 0) {
      throw new HandshakeError({ endpoint: this.endpoint, reason: "closed", detail: "" })
    }
    return this.answer.subarray(0, answerBytes)
  }

  /**
   * Receives an answer to `answer`, all of it within the time: a server that stops in the middle of an answer is no
   * better than one that never begins. For the first questions only, it takes two more calls an answer.
   *
   * @returns as `io_recv_response`; `errno.again` when time was up
   */
  private receiveSoon(sizeBytes: number, timeoutMs: number): number {
    const deadline = performance.now() + timeoutMs
    const result = this.fillSoon(RESPONSE_HEADER_SIZE_BYTES, deadline)
    if (result < 0) return result
    if (readU64AsNumber(this.answerView, 0) !== sizeBytes) return errno.protocol
    return this.fillSoon(sizeBytes, deadline)
  }

  private fillSoon(sizeBytes: number, deadline: number): number {
    for (let at = 0; at < sizeBytes; ) {
      const leftMs = Math.ceil(deadline - performance.now())
      if (leftMs <= 0 || io().io_wait_readable(this.fd, leftMs) === 0) return errno.again
      const got = io().io_recv(this.fd, this.answer.subarray(at, sizeBytes), sizeBytes - at)
      if (got <= 0) return got === 0 ? errno.brokenPipe : got
      at += got
      this.answerFilled = at
    }
    return 0
  }

  private busyError(timeoutMs: number): HandshakeError {
    return new HandshakeError({
      endpoint: this.endpoint,
      reason: "busy",
      detail: `${(timeoutMs / 1000).toFixed(1)} s`,
    })
  }

  /**
   * From now on answers may take as long as it takes to compute. `silenceMs`: when a server that is waited for moves no byte for
   * so long, that is a `ServerTimeoutError`; 0 waits for ever.
   */
  beginWork(silenceMs = 0): void {
    this.patienceMs = undefined
    this.silenceMs = silenceMs
    io().io_set_silence_limit(this.fd, silenceMs)
  }

  /** Frees the descriptor; the server frees everything that belonged to the connection. */
  close(): void {
    if (this.fd < 0) return
    io().io_unwatch_server(this.fd)
    io().io_close(this.fd)
    this.fd = -1
    this.closeStream()
  }

  protected takeSoon(command: number, sizeBytes: number): boolean {
    const { patienceMs } = this
    if (patienceMs === undefined) return false
    const result = this.receiveSoon(sizeBytes, patienceMs)
    if (result === errno.again) this.failure ??= this.busyError(patienceMs)
    else if (result < 0) this.fail(describeCommand(command), result)
    return true
  }

  /** From now on what comes is of interest for the server's last word alone, which may come in place of any answer. */
  listenForEnd(): void {
    if (this.isEnding) return
    this.isEnding = true
    if (this.failure !== undefined) this.hasEnded = true
    // Never comes: where all answers were taken, the last word is in place of this one.
    else this.expect(NO_TARGET, 1, ExtensionCommand.ALL_REDUCE)
  }

  protected peerLost({ place, fault }: LostPeer): boolean {
    const peer = this.linked[place]
    if (peer === undefined || peer === this) return false
    this.lastWord = { peer, fault }
    this.hasEnded = true
    if (!this.isEnding) this.breakLinked(failureOf(this))
    return true
  }

  /** All that are linked end together. */
  private breakLinked(failure: ClusterError): void {
    this.broken(failure)
    for (const other of this.linked) other.broken(failure)
  }

  protected checkGraphStatus(status: number): void {
    if (status === 0) return
    const detail = describeGraphStatus(status)
    this.broken(new ServerLostError({ endpoint: this.endpoint, during: "GRAPH_COMPUTE", detail }))
  }

  /**
   * Sends all that has collected and waits for the fixed-size response to the last request.
   *
   * @returns its payload, valid until the next call, or undefined when the connection is broken
   */
  roundTrip(command: number, responseSize: number): Uint8Array | undefined {
    this.drainTo(this.expect(NO_TARGET, responseSize, command))
    if (this.failure !== undefined) return undefined
    this.isBehind = false
    return this.answer.subarray(0, responseSize)
  }

  /** Request and response through the codec, for commands that are not hot. */
  call<C extends MessageId>(command: C, value: RequestOf<C>): ResponseOf<C> | undefined {
    this.post(command, value)
    const payload = this.roundTrip(command, this.dialect.responseBytes[command]!)
    return payload && decodeResponse(command, payload, this.dialect.spec)
  }

  /** The same for an extension command with an answer of one size, which the server has to know. */
  callExtension<N extends FixedExtensionName>(
    name: N,
    value: Parameters<typeof encodeExtensionRequest<N>>[1],
  ): ReturnType<typeof decodeExtensionResponse<N>> | undefined {
    const request = encodeExtensionRequest(name, value)
    this.block.set(request, this.reserve(request.length))
    const { minSizeBytes } = extensionCommands[name].response
    const payload = this.roundTrip(ExtensionCommand[name], minSizeBytes)
    return payload && decodeExtensionResponse(name, payload)
  }

  /** Collects a silent extension command, which the server has to know. */
  postExtension(name: "LINK_FREE", value: Parameters<typeof encodeExtensionRequest>[1]): void {
    const request = encodeExtensionRequest(name, value)
    this.block.set(request, this.reserve(request.length))
  }

  /** Collects a request through the codec, for silent commands that are not hot. */
  post<C extends MessageId>(command: C, value: RequestOf<C>): void {
    const request = encodeRequest(command, value, this.dialect.spec)
    this.block.set(request, this.reserve(request.length))
  }

  protected fail(during: string, result: number): void {
    if (this.failure !== undefined) return
    if (this.isEnding) {
      this.hasEnded = true
      return
    }
    const { endpoint, silenceMs } = this
    if (result === errno.again) {
      const others = this.silentPeers.map((peer) => peer.endpoint)
      const also = others.length > 0 ? { others } : {}
      const unknown = { endpoint, during, silenceMs, ...also }
      this.breakLinked(stallOf(this.linked, silenceMs) ?? new ServerTimeoutError(unknown))
      return
    }
    // Where nothing can be sent any more, the reason may lie unread; what is no answer has none behind it.
    const reason = result === errno.protocol ? undefined : reasonOf(this)
    if (reason !== undefined) {
      this.breakLinked(reason)
      return
    }
    const isSilent = io().io_unwatch_server(this.fd) === 1
    this.broken(
      new ServerLostError({
        endpoint,
        during,
        detail: isSilent
          ? "its host gives no sign of life"
          : result === errno.brokenPipe
            ? "it closed the connection"
            : result === errno.protocol
              ? "its answer has another size than the protocol says"
              : ioErrorText(result),
      }),
    )
  }
}

/** Those whose answer is of one size. */
type FixedExtensionName = "MEMORY_DOMAIN" | "LINK_EXPECT" | "LINK_DIAL" | "LINK_AWAIT"

/** Longest text of an address, with a scope. */
const ADDRESS_BYTES = 256

const peerAddress = (fd: number): string => {
  const text = new Uint8Array(ADDRESS_BYTES)
  io().io_peer_address(fd, text, ADDRESS_BYTES)
  return plainAddress(new TextDecoder().decode(text.subarray(0, text.indexOf(0))))
}

const connectError = (endpoint: string, result: number): ConnectError =>
  new ConnectError({
    endpoint,
    reason:
      result <= -10000
        ? "unresolved"
        : result === errno.connectionRefused
          ? "refused"
          : result === errno.timedOut
            ? "timeout"
            : result === errno.hostUnreachable || result === errno.networkUnreachable
              ? "unreachable"
              : "other",
    detail: ioErrorText(result),
  })

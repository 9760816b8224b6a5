/**
 * One blocking connection to a server, for the engine's synchronous loop.
 *
 * Commands without a response collect in one block, which leaves in one write before the next command
 * that needs an answer, or when it is full. Responses come in request order, so an asynchronous read is
 * a request now and a place in a queue until somebody waits for it, by its ticket: answers before it are put where they
 * belong on the way, and those after it stay on the wire.
 *
 * After the first failure the connection is broken for good: calls return quietly (their callers sit
 * under C++ frames and must not throw) and `failure` tells what happened.
 */
import { type Address, asPointer, cString, errno, io, ioErrorText } from "@ggml-rpc/native/bindings"
import {
  Command,
  Dialect,
  decodeExtensionResponse,
  decodeResponse,
  describeCommand,
  ExtensionCommand,
  encodeExtensionRequest,
  encodeRequest,
  extensionCommands,
  formatEndpoint,
  type MessageId,
  newest,
  RESPONSE_HEADER_SIZE_BYTES,
  type RequestOf,
  type ResponseOf,
  readU64AsNumber,
} from "@ggml-rpc/protocol"
import type { EngineEndpoint, LinkTraffic } from "../engine/messages.ts"
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
import { AnswerQueue, NO_TARGET } from "./AnswerQueue.ts"
import { describeGraphStatus } from "./graphStatus.ts"
import { type HelloForm, helloForms, readHello, type ServerKind } from "./hello.ts"
import { CHALLENGE_ANSWER_BYTES, PROVE_ANSWER_BYTES, TokenProof } from "./token.ts"
import { beginWait, endWait } from "./waiting.ts"

/** Commands collect up to this size; one block is what a server reads in one or two calls. */
const BLOCK_SIZE_BYTES = 256 * 1024
/** Data of at most this size is copied into the block; larger data goes out from where it lies. */
export const COPY_LIMIT_BYTES = 32 * 1024
/**
 * While reads are outstanding no more than this is sent: the server may be stuck writing an answer that
 * nobody takes off the wire, and would not read. Well below what any system's socket buffers hold.
 */
const SEND_AHEAD_BYTES = 48 * 1024
/** Answers that no socket is too small for: a server is never stuck in them. */
const SMALL_ANSWERS_BYTES = 8 * 1024
/** A host that vanished while nothing was sent is noticed after about twice this time. */
const KEEPALIVE_S = 5

/** Of a connection that has not been opened. */
const defaultDialect = new Dialect(newest)

export class RpcConnection {
  readonly endpoint: string
  /** What broke the connection; set once. */
  failure: ClusterError | undefined
  /** How the server speaks; known after `open`. */
  dialect: Dialect = defaultDialect
  kind: ServerKind = "llama.cpp"
  /** What the server knows besides the protocol, see `HelloExtension`. */
  level = 0
  /** The server said that it has no cache; one of upstream's never tells. */
  lacksCache = false
  /** The server said that a tensor takes just its own bytes on every device of it: no need to ask. */
  hasPlainSizes = false
  /** The address behind the endpoint's name, such as 10.0.0.2; "" where this process did not connect itself. */
  address = ""
  /** The server's name, where it tells one: the same at all its endpoints. */
  serverName: string | undefined
  /** There are requests after the last one that was answered at once: the server may not have done them yet. */
  isBehind = false

  readonly block = new Uint8Array(BLOCK_SIZE_BYTES)
  readonly blockView = new DataView(this.block.buffer)
  private blockSize = 0
  private fd = -1
  /** Answers that are on their way; the oldest is number `answersDone + 1`. */
  private readonly answers = new AnswerQueue()
  private answersAsked = 0
  private answersDone = 0
  /** Bytes of all requests so far. */
  private requestedBytes = 0
  /** Bytes of all answers that were asked for so far. */
  private answeredBytes = 0
  private writeCount = 0
  private waitCount = 0
  /** Which of the servers it is, for who watches what is waited for; -1: not told. */
  place = -1
  /** All connections of this process: what they have collected leaves before this one waits. */
  peers: ReadonlyArray<RpcConnection> = [this]
  private readonly answer = new Uint8Array(64)
  private readonly answerView = new DataView(this.answer.buffer)
  /** Bytes that `fillSoon` received last. */
  private answerFilled = 0

  /** How long an answer may take, all of it; undefined while a computation may lie before it. */
  private patienceMs: number | undefined
  /** How long the server may be silent afterwards; 0: for ever. */
  private silenceMs = 0

  private readonly target: EngineEndpoint

  private readonly token: string | undefined

  /** `token`: what a server that asks for one is shown. */
  constructor(target: EngineEndpoint, token?: string) {
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
  }

  /**
   * Room for `sizeBytes` of whole requests in the block, at the returned offset; the caller fills it
   * completely. At most the size of the block.
   */
  reserve(sizeBytes: number): number {
    this.limitSendAhead(sizeBytes)
    if (this.blockSize + sizeBytes > BLOCK_SIZE_BYTES) this.flush()
    const offset = this.blockSize
    this.blockSize += sizeBytes
    this.isBehind = true
    return offset
  }

  /**
   * Native memory that continues what was reserved last: copied when small, else sent from where it
   * lies before this returns.
   */
  append(data: Address, sizeBytes: number): void {
    if (sizeBytes === 0) return
    this.limitSendAhead(sizeBytes)
    if (sizeBytes <= COPY_LIMIT_BYTES && this.blockSize + sizeBytes <= BLOCK_SIZE_BYTES) {
      io().io_copy(this.block, this.blockSize, asPointer(data), sizeBytes)
      this.blockSize += sizeBytes
    } else {
      this.send(data, sizeBytes)
    }
  }

  /** Counts what is about to be requested, and takes so many answers first that it may be sent. */
  private limitSendAhead(sizeBytes: number): void {
    this.requestedBytes += sizeBytes
    while (
      this.answers.sizeBytes > SMALL_ANSWERS_BYTES &&
      this.requestedBytes - this.answers.firstRequestedBytes > SEND_AHEAD_BYTES
    ) {
      this.drainTo(this.answersDone + 1)
    }
  }

  /** Sends what has collected. */
  flush(): void {
    if (this.blockSize > 0) this.send(0, 0)
  }

  private send(data: Address, dataSize: number): void {
    const blockSize = this.blockSize
    this.blockSize = 0
    if (this.failure !== undefined) return
    const second = dataSize > 0 ? asPointer(data) : null
    this.writeCount++
    beginWait(this.place)
    const result = io().io_send2(this.fd, this.block, blockSize, second, dataSize)
    endWait()
    if (result < 0) this.fail("sending", result)
  }

  /**
   * Notes that the request reserved last, a GET_TENSOR or another one of this `command`, will be answered with `sizeBytes`
   * for `target`.
   *
   * @returns the read's ticket: 1, 2, …; its bytes are there when `drainTo` of it returns, at the latest
   */
  expect(target: Address, sizeBytes: number, command: number = Command.GET_TENSOR): number {
    this.answers.push(command, target, sizeBytes, this.requestedBytes)
    this.answeredBytes += sizeBytes
    return ++this.answersAsked
  }

  /**
   * Notes the answer that the server's version gives to the request collected last, if it does: old versions answer what is
   * silent today. Nobody waits for it; it is checked when it is its turn.
   */
  expectAnswer(command: number): void {
    const sizeBytes = this.dialect.responseBytes[command]!
    if (sizeBytes < 0) return
    this.answers.push(command, NO_TARGET, sizeBytes, this.requestedBytes)
    this.answeredBytes += sizeBytes
    this.answersAsked++
  }

  /**
   * Waits until the read of this ticket is there, and with it all answers to what was asked before it. First everything
   * leaves that has collected on any connection, so that other servers work meanwhile.
   */
  drainTo(ticket: number): void {
    if (this.answersDone >= ticket) return
    this.flushPeers()
    while (this.answersDone < ticket && this.failure === undefined) this.takeAnswer()
    if (this.failure === undefined) return
    // Nothing comes any more, and nobody may keep the memory that it was for.
    this.answers.clear()
    this.answersDone = this.answersAsked
  }

  /** What has gone to the server and come from it. */
  get traffic(): Omit<LinkTraffic, "endpoint"> {
    const { requestedBytes, answeredBytes, writeCount, waitCount } = this
    return { sentBytes: requestedBytes, receivedBytes: answeredBytes, writeCount, waitCount }
  }

  private flushPeers(): void {
    for (const peer of this.peers) peer.flush()
  }

  private takeAnswer(): void {
    const { firstCommand, firstTarget, firstSizeBytes } = this.answers
    const target = firstTarget === NO_TARGET ? this.answer : firstTarget
    const isThere = this.receive(firstCommand, target, firstSizeBytes)
    this.answers.shift()
    this.answersDone++
    if (isThere && firstCommand === Command.GRAPH_COMPUTE) this.checkGraphStatus()
  }

  private checkGraphStatus(): void {
    const status = this.answer[0]!
    if (status === 0) return
    const detail = describeGraphStatus(status)
    this.broken(new ServerLostError({ endpoint: this.endpoint, during: "GRAPH_COMPUTE", detail }))
  }

  private receive(command: number, target: Address | Uint8Array, sizeBytes: number): boolean {
    const { patienceMs } = this
    if (patienceMs !== undefined && target === this.answer) {
      const result = this.receiveSoon(sizeBytes, patienceMs)
      if (result === 0) return true
      if (result === errno.again) this.failure = this.busyError(patienceMs)
      else this.fail(describeCommand(command), result)
      return false
    }
    const destination = typeof target === "number" ? asPointer(target) : target
    this.waitCount++
    beginWait(this.place)
    const result = io().io_recv_response(this.fd, destination, sizeBytes)
    endWait()
    if (result === 0) return true
    this.fail(describeCommand(command), result)
    return false
  }

  /**
   * Sends all that has collected and waits for the fixed-size response to the last request.
   *
   * @returns its payload, valid until the next call, or undefined when the connection is broken
   */
  roundTrip(command: number, responseSize: number): Uint8Array | undefined {
    // Earlier answers come first.
    this.drainTo(this.answersAsked)
    this.flushPeers()
    if (this.failure !== undefined) return undefined
    if (!this.receive(command, this.answer, responseSize)) return undefined
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

  /** Collects a request through the codec, for silent commands that are not hot. */
  post<C extends MessageId>(command: C, value: RequestOf<C>): void {
    const request = encodeRequest(command, value, this.dialect.spec)
    this.block.set(request, this.reserve(request.length))
  }

  private fail(during: string, result: number): void {
    if (this.failure !== undefined) return
    const { endpoint, silenceMs } = this
    if (result === errno.again) {
      this.broken(new ServerTimeoutError({ endpoint, during, silenceMs }))
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

  /** Ends all use of the connection. */
  broken(failure: ClusterError): void {
    if (this.failure !== undefined) return
    this.failure = failure
    // Stops a model load at its next tensor and a local graph at its next node.
    io().io_raise_abort()
  }
}

/** Those whose answer is of one size. */
type FixedExtensionName = "MEMORY_DOMAIN"

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

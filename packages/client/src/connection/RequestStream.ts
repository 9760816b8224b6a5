/**
 * Requests and answers of one connection, for the engine's synchronous loop.
 *
 * Requests collect in one block, which leaves in one write when it is full, or before anybody waits. Responses come in request
 * order, so an asynchronous read is a request now and a place in a queue until somebody waits for it, by its ticket: answers
 * before it are put where they belong on the way, and those after it stay on the wire.
 *
 * An answer may be another server's to get: a relay is a write whose data is a read of another connection that is still on its
 * way. Nobody waits for it; what is requested behind it waits in the outbox.
 *
 * Whoever waits, for an answer or to send, moves the bytes of all connections meanwhile. So it does no harm that a server
 * which is stuck in writing a large answer does not read: its answer is taken first.
 *
 * After the first failure the connection is broken for good: calls return quietly (their callers sit under C++ frames and must
 * not throw) and `failure` tells what happened.
 */
import { ptr } from "bun:ffi"
import { type Address, asPointer, errno, io } from "@ggml-rpc/native/bindings"
import {
  Command,
  Dialect,
  describeCommand,
  type LostPeer,
  newest,
  RESPONSE_HEADER_SIZE_BYTES,
  readLostPeer,
  readU64AsNumber,
} from "@ggml-rpc/protocol"
import type { LinkTraffic } from "../engine/messages.ts"
import type { ClusterError } from "../errors.ts"
import { AnswerQueue, NO_TARGET } from "./AnswerQueue.ts"
import { moveBytes, Readiness } from "./moveBytes.ts"
import { OUTBOX_BYTES, Outbox } from "./Outbox.ts"
import { beginWait, endWait } from "./waiting.ts"

/** Requests collect up to this size; one block is what a server reads in one or two calls. */
const BLOCK_SIZE_BYTES = 256 * 1024
/** Data of at most this size is copied into the block; larger data goes out from where it lies. */
export const COPY_LIMIT_BYTES = 32 * 1024
/** Of data that a socket does not take now, at most this is copied, so that its owner can go on; larger data waits. */
const HOLD_LIMIT_BYTES = 8 * 1024 * 1024
/** A relay of more is none: who wants the copy waits for the data. */
export const RELAY_LIMIT_BYTES = OUTBOX_BYTES / 2

/** Of a connection that has not been opened. */
const defaultDialect = new Dialect(newest)

export abstract class RequestStream {
  /** Of the server, as `HOST:PORT`. */
  abstract readonly endpoint: string
  /** What broke the connection; set once. */
  failure: ClusterError | undefined
  /** How the server speaks; known after `open`. */
  dialect: Dialect = defaultDialect
  /** There are requests after the last one that was answered at once: the server may not have done them yet. */
  isBehind = false
  /** Which of the servers it is, for who watches what is waited for; -1: not told. */
  place = -1
  /** All connections of this process: what they have collected leaves before this one waits. */
  peers: ReadonlyArray<RequestStream> = [this]
  /** How long the server may be silent while it is waited for; 0: for ever. */
  silenceMs = 0
  /** When bytes moved last, or when a wait began, by `performance.now()`; kept where there is a limit. */
  movedAt = 0

  readonly block = new Uint8Array(BLOCK_SIZE_BYTES)
  readonly blockView = new DataView(this.block.buffer)
  private readonly blockAddress = ptr(this.block) as Address
  private blockSize = 0
  /** There is a request in the block in which the server waits for others; see `markSum`. */
  private hasSum = false
  /** The socket. */
  fd = -1
  private readonly outbox = new Outbox<RequestStream>()
  /** Answers that are on their way; the oldest is number `answersDone + 1`. */
  private readonly answers = new AnswerQueue<RequestStream>()
  private answersAsked = 0
  private answersDone = 0
  /** Of the oldest answer, bytes that are here, its header among them. */
  private answerGot = 0
  /** Bytes of all requests so far. */
  private requestedBytes = 0
  /** Bytes of all answers that were asked for so far. */
  private answeredBytes = 0
  private writeCount = 0
  private waitCount = 0
  private readonly header = new Uint8Array(RESPONSE_HEADER_SIZE_BYTES)
  private readonly headerView = new DataView(this.header.buffer)
  private readonly headerAddress = ptr(this.header) as Address
  /** Of answers that are no tensor's data. */
  protected readonly answer = new Uint8Array(64)
  protected readonly answerView = new DataView(this.answer.buffer)
  private readonly answerAddress = ptr(this.answer) as Address

  /** A call failed with this negative errno: ends all use of the connection, by `broken`. */
  protected abstract fail(during: string, result: number): void

  /** The server ends the connection since another one failed it in a sum; false where it names no other one. */
  protected abstract peerLost(lost: LostPeer): boolean

  /** Takes an answer to `answer` within the time that first answers may take; false where answers may take any time. */
  protected abstract takeSoon(command: number, sizeBytes: number): boolean

  /**
   * Room for `sizeBytes` of whole requests in the block, at the returned offset; the caller fills it
   * completely. At most the size of the block.
   */
  reserve(sizeBytes: number): number {
    this.requestedBytes += sizeBytes
    if (this.blockSize + sizeBytes > BLOCK_SIZE_BYTES) this.flush()
    const offset = this.blockSize
    this.blockSize += sizeBytes
    this.isBehind = true
    return offset
  }

  /** Native memory that continues what was reserved last; it may change when this returns. */
  append(data: Address, sizeBytes: number): void {
    if (sizeBytes === 0) return
    this.requestedBytes += sizeBytes
    if (sizeBytes <= COPY_LIMIT_BYTES && this.blockSize + sizeBytes <= BLOCK_SIZE_BYTES) {
      io().io_copy(this.block, this.blockSize, asPointer(data), sizeBytes)
      this.blockSize += sizeBytes
    } else {
      this.send(data, sizeBytes)
    }
  }

  /** Sends what has collected, as far as it may leave and the socket takes it; the rest leaves while somebody waits. */
  flush(): void {
    if (this.blockSize > 0) this.send(0, 0)
    else if (this.outbox.readyBytes > 0) this.sendHeld()
  }

  /**
   * In what was reserved last the server waits for others, whose requests are in the blocks of their connections, and reads nothing more:
   * these leave before a send that waits.
   */
  markSum(): void {
    this.hasSum = true
  }

  private send(data: Address, dataSize: number): void {
    this.hasSum = false
    if (dataSize > 0) for (const peer of this.peers) if (peer.hasSum) peer.flush()
    const { blockSize } = this
    this.blockSize = 0
    if (this.failure !== undefined) return
    if (this.outbox.sizeBytes > 0) {
      this.hold(this.blockAddress, blockSize)
      this.hold(data, dataSize)
      this.sendHeld()
    } else if (dataSize > 0 && this.peers.every(isQuiet)) {
      this.writeCount++
      beginWait(this.place)
      const block = blockSize > 0 ? this.block : null
      const result = io().io_send2(this.fd, block, blockSize, asPointer(data), dataSize)
      endWait()
      if (result < 0) this.fail("sending", result)
    } else this.sendNow(this.blockAddress, blockSize, data, dataSize)
  }

  /** Sends two pieces of which the first is the block's, or one; what the socket does not take is held, or waits if it is much. */
  private sendNow(first: Address, firstSize: number, second: Address, secondSize: number): void {
    const total = firstSize + secondSize
    for (let sent = 0; sent < total && this.failure === undefined; ) {
      const result = this.sendPieces(
        first + Math.min(sent, firstSize),
        Math.max(0, firstSize - sent),
        second + Math.max(0, sent - firstSize),
        secondSize - Math.max(0, sent - firstSize),
      )
      if (result < 0) return
      sent += result
      const left = total - sent
      if (left > HOLD_LIMIT_BYTES) this.waitForRoom()
      else if (left > 0) {
        if (sent < firstSize) this.outbox.push(first + sent, firstSize - sent)
        const secondSent = Math.max(0, sent - firstSize)
        this.outbox.push(second + secondSent, secondSize - secondSent)
        return
      }
    }
  }

  /** What the socket takes of two pieces; negative when the connection is broken now. */
  private sendPieces(
    first: Address,
    firstSize: number,
    second: Address,
    secondSize: number,
  ): number {
    const result = io().io_send2_now(
      this.fd,
      firstSize > 0 ? asPointer(first) : null,
      firstSize,
      secondSize > 0 ? asPointer(second) : null,
      secondSize,
    )
    if (result < 0) this.fail("sending", result)
    else if (result > 0) {
      this.writeCount++
      this.noteMove()
    }
    return result
  }

  /** Behind what is held already. */
  private hold(data: Address, sizeBytes: number): void {
    const { outbox } = this
    while (outbox.roomBytes < sizeBytes && outbox.sizeBytes > 0 && this.failure === undefined) {
      this.waitForAny()
    }
    if (this.failure !== undefined || sizeBytes === 0) return
    if (outbox.sizeBytes > 0) outbox.push(data, sizeBytes)
    else this.sendNow(data, sizeBytes, 0, 0)
  }

  /** Sends of what is held what may leave. */
  sendHeld(): void {
    const { outbox } = this
    while (this.failure === undefined) {
      const { readyBytes, headPosition } = outbox
      if (readyBytes === 0) return
      const size = outbox.pieceBytes(headPosition, readyBytes)
      const rest = readyBytes - size
      const second = rest > 0 ? outbox.addressOf(headPosition + size) : 0
      const result = this.sendPieces(outbox.addressOf(headPosition), size, second, rest)
      if (result <= 0) return
      outbox.shift(result)
      if (result < readyBytes) return
    }
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
    if (sizeBytes >= 0) this.expect(NO_TARGET, sizeBytes, command)
  }

  /** Whether there can be a relay of so much to this connection: waits until there is room where others are before it. */
  awaitRelayRoom(sizeBytes: number): boolean {
    if (sizeBytes > RELAY_LIMIT_BYTES) return false
    const neededBytes = sizeBytes + 2 * BLOCK_SIZE_BYTES
    while (this.outbox.roomBytes < neededBytes && this.failure === undefined) this.waitForAny()
    return this.failure === undefined
  }

  /**
   * What was reserved last goes on with an answer of another connection, whose `expectRelay` follows. Behind `awaitRelayRoom`.
   *
   * @returns the position to tell it; -1 when this connection is broken
   */
  beginRelay(source: RequestStream, sizeBytes: number): number {
    if (this.failure !== undefined) return -1
    this.requestedBytes += sizeBytes
    this.outbox.push(this.blockAddress, this.blockSize)
    this.blockSize = 0
    return this.outbox.pushHole(sizeBytes, source)
  }

  /** Notes that the answer to the read reserved last, of this `command`, goes to another connection, at that position. */
  expectRelay(
    receiver: RequestStream,
    position: number,
    sizeBytes: number,
    command: number = Command.GET_TENSOR,
  ): void {
    if (this.failure !== undefined) {
      receiver.broken(this.failure)
      return
    }
    this.answers.push(command, position, sizeBytes, this.requestedBytes, receiver)
    this.answeredBytes += sizeBytes
    this.answersAsked++
  }

  /**
   * Waits until the read of this ticket is there, and with it all answers to what was asked before it. First everything
   * leaves that has collected on any connection, so that other servers work meanwhile.
   */
  drainTo(ticket: number): void {
    if (this.answersDone >= ticket) return
    this.beginMoves()
    while (this.answersDone < ticket && this.failure === undefined) this.move()
    if (this.failure !== undefined) this.forgetAnswers()
  }

  /** Waits until something has moved: a place in an outbox, or in a socket, is free some time. */
  private waitForAny(): void {
    this.beginMoves()
    this.move()
  }

  /** As `waitForAny`, for the socket of this connection. */
  private waitForRoom(): void {
    this.beginMoves()
    this.wantsRoom = true
    this.move()
    this.wantsRoom = false
  }

  private wantsRoom = false

  /** In the wait under way: whose server it was last that it was for. */
  private waitedFor: RequestStream | undefined

  private beginMoves(): void {
    this.waitedFor = undefined
    for (const peer of this.peers) peer.flush()
    if (this.silenceMs === 0) return
    const now = performance.now()
    for (const peer of this.peers) peer.movedAt = now
  }

  private move(): void {
    if (this.takeFirst()) return
    const { blocker } = this
    if (blocker !== this.waitedFor) blocker.waitCount++
    this.waitedFor = blocker
    beginWait(blocker.place)
    const hasMoved = moveBytes(this.peers, true)
    endWait()
    // Every wait is for something that was asked for.
    if (!hasMoved) this.fail("waiting", errno.protocol)
  }

  private takeFirst(): boolean {
    const { answers } = this
    if (!this.isOwed || answers.firstTarget !== NO_TARGET) return false
    if (!this.takeSoon(answers.firstCommand, answers.firstSizeBytes)) return false
    if (this.failure === undefined) this.answerDone()
    return true
  }

  /** Whose server it is that this connection waits for: another's where a relay is not here. */
  private get blocker(): RequestStream {
    let blocker: RequestStream = this
    while (!blocker.isAnswering) {
      const { awaited } = blocker.outbox
      if (awaited === undefined) return blocker
      blocker = awaited
    }
    return blocker
  }

  /** What has gone to the server and come from it. */
  get traffic(): Omit<LinkTraffic, "endpoint"> {
    const { requestedBytes, answeredBytes, writeCount, waitCount } = this
    return { sentBytes: requestedBytes, receivedBytes: answeredBytes, writeCount, waitCount }
  }

  /** What waits in the outbox, holes among it. */
  get heldBytes(): number {
    return this.outbox.sizeBytes
  }

  /** An answer is on its way. */
  get isOwed(): boolean {
    return this.answersDone < this.answersAsked
  }

  /** No answer is on its way, and nothing is held. */
  get isIdle(): boolean {
    return !this.isOwed && this.outbox.sizeBytes === 0
  }

  /** Not all that was to go to the server has arrived there, nor has the end of it where there is one. */
  get isUnreached(): boolean {
    return this.outbox.sizeBytes > 0 || io().io_unacknowledged(this.fd) > 0
  }

  /** The server has all of what the oldest answer is to. */
  private get isAnswering(): boolean {
    return (
      this.isOwed &&
      this.answers.firstRequestedBytes <=
        this.requestedBytes - this.blockSize - this.outbox.sizeBytes
    )
  }

  /** For what the socket is to be watched. */
  get readiness(): number {
    if (this.failure !== undefined) return 0
    return (
      (this.isAnswering ? Readiness.READ : 0) |
      (this.wantsRoom || this.outbox.readyBytes > 0 ? Readiness.WRITE : 0)
    )
  }

  /** Takes of the oldest answer, which there has to be, what is here; with `waits` after a wait for something. */
  takeBytes(waits: boolean): void {
    const { answers, headerAddress } = this
    const sizeBytes = answers.firstSizeBytes
    const { firstReceiver, firstTarget } = answers
    const headerLeft = Math.max(0, RESPONSE_HEADER_SIZE_BYTES - this.answerGot)
    const done = Math.max(0, this.answerGot - RESPONSE_HEADER_SIZE_BYTES)
    let target = (firstTarget === NO_TARGET ? this.answerAddress : firstTarget) + done
    let left = sizeBytes - done
    if (firstReceiver !== undefined) {
      left = firstReceiver.outbox.pieceBytes(firstTarget + done, left)
      target = firstReceiver.outbox.addressOf(firstTarget + done)
    }
    const result = io().io_recv2(
      this.fd,
      headerLeft > 0 ? asPointer(headerAddress + RESPONSE_HEADER_SIZE_BYTES - headerLeft) : null,
      headerLeft,
      left > 0 ? asPointer(target) : null,
      left,
      waits ? 1 : 0,
    )
    if (result < 0) {
      if (waits || result !== errno.again) this.fail(describeCommand(answers.firstCommand), result)
      return
    }
    this.noteMove()
    this.answerGot += result
    if (this.answerGot < RESPONSE_HEADER_SIZE_BYTES) return
    if (headerLeft > 0 && readU64AsNumber(this.headerView, 0) !== sizeBytes) {
      const lost = readLostPeer(this.headerView, 0)
      if (lost !== undefined && this.peerLost(lost)) return
      this.fail(describeCommand(answers.firstCommand), errno.protocol)
      return
    }
    const got = this.answerGot - RESPONSE_HEADER_SIZE_BYTES
    if (got === sizeBytes) this.answerDone()
    if (firstReceiver === undefined || got === 0) return
    firstReceiver.outbox.fill(firstTarget, got)
    firstReceiver.sendHeld()
  }

  private answerDone(): void {
    const { firstCommand } = this.answers
    this.answers.shift()
    this.answersDone++
    this.answerGot = 0
    if (firstCommand === Command.GRAPH_COMPUTE) this.checkGraphStatus(this.answer[0]!)
  }

  protected abstract checkGraphStatus(status: number): void

  private noteMove(): void {
    if (this.silenceMs > 0) this.movedAt = performance.now()
  }

  /** It was waited for, and no byte has moved for as long as that may take. */
  checkSilence(now: number): void {
    if (this.silenceMs > 0 && now - this.movedAt >= this.silenceMs) {
      this.fail(this.isOwed ? describeCommand(this.answers.firstCommand) : "sending", errno.again)
    }
  }

  /** Those besides this that are waited for, too, and have moved nothing for as long as they may. */
  protected get silentPeers(): ReadonlyArray<RequestStream> {
    const now = performance.now()
    return this.peers.filter(
      (peer) =>
        peer !== this &&
        peer.readiness !== 0 &&
        peer.silenceMs > 0 &&
        now - peer.movedAt >= peer.silenceMs,
    )
  }

  /** Ends all use of the connection, and of those that wait for an answer of it. */
  broken(failure: ClusterError): void {
    if (this.failure !== undefined) return
    this.failure = failure
    // Stops a model load at its next tensor and a local graph at its next node.
    io().io_raise_abort()
    const receivers = this.answers.waitingReceivers()
    this.forgetAnswers()
    for (const receiver of receivers) receiver.broken(failure)
  }

  /** Nothing comes any more, and nobody may keep the memory that it was for. */
  private forgetAnswers(): void {
    this.answers.clear()
    this.answersDone = this.answersAsked
  }

  protected closeStream(): void {
    this.outbox.close()
  }
}

const isQuiet = (stream: RequestStream): boolean => stream.isIdle

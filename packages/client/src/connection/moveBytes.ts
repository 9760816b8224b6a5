import { io } from "@ggml-rpc/native/bindings"

/** What a socket is watched for: poll's POLLIN and POLLOUT. */
export const Readiness = { READ: 1, WRITE: 4 } as const

/** What poll tells of itself: POLLERR, POLLHUP, POLLNVAL. The call that follows says what it is. */
const TROUBLE = 8 | 16 | 32

/** What is moved: one connection. */
export interface Movable {
  readonly fd: number
  /** A sum of `Readiness`; 0: there is nothing to move. */
  readonly readiness: number
  readonly silenceMs: number
  readonly movedAt: number
  takeBytes(waits: boolean): void
  sendHeld(): void
  checkSilence(now: number): void
}

/** pollfd structures (two 16-bit fields in the second word), and whose they are. */
let polled = new Int32Array(2 * 16)
const watched: Array<Movable> = []

/**
 * Moves bytes on those of the connections that can, both ways; with `waits` when one can. False when there is nothing to move on
 * any: a wait would not end.
 */
export const moveBytes = (streams: ReadonlyArray<Movable>, waits: boolean): boolean => {
  let count = 0
  if (polled.length < 2 * streams.length) polled = new Int32Array(2 * streams.length)
  for (const stream of streams) {
    const { readiness } = stream
    if (readiness === 0) continue
    polled[2 * count] = stream.fd
    polled[2 * count + 1] = readiness
    watched[count++] = stream
  }
  if (count === 0) return false
  if (count === 1 && waits && polled[1] === Readiness.READ) {
    // One call instead of two; the socket has the silence limit itself.
    watched[0]!.takeBytes(true)
    return true
  }
  const timeoutMs = waits ? timeoutOf(count) : 0
  const ready = io().io_poll(polled, count, timeoutMs)
  if (ready === 0 && waits) checkSilence(count)
  for (let index = 0; index < count && ready > 0; index++) {
    const stream = watched[index]!
    const events = polled[2 * index + 1]! >>> 16
    if (events === 0) continue
    const wanted = stream.readiness
    if ((events & (Readiness.READ | TROUBLE)) !== 0 && (wanted & Readiness.READ) !== 0) {
      stream.takeBytes(false)
    }
    if ((events & (Readiness.WRITE | TROUBLE)) !== 0 && (wanted & Readiness.WRITE) !== 0) {
      stream.sendHeld()
    }
  }
  return true
}

/** Until the first of them has been silent for as long as it may; -1: for ever. */
const timeoutOf = (count: number): number => {
  let least = -1
  for (let index = 0; index < count; index++) {
    const { silenceMs, movedAt } = watched[index]!
    if (silenceMs === 0) continue
    const left = Math.max(1, movedAt + silenceMs - performance.now())
    if (least < 0 || left < least) least = left
  }
  return least
}

const checkSilence = (count: number): void => {
  const now = performance.now()
  for (let index = 0; index < count; index++) watched[index]!.checkSilence(now)
}

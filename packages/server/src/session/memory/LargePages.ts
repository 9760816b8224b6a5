/**
 * Weights in large pages. All of them are read for every token, and in small pages that is as much looking up of pages as reading:
 * a token of one text takes a fifth longer. To load them there in the first place would take longer on machines that have to ask for
 * large pages somewhere else (shim/ggml/guarded_buffer.cpp), and files cannot be mapped there, so they are moved once the model computes, page
 * by page, while the client has nothing to ask, and for a small part of the time of one that always has.
 */
import { readFileSync } from "node:fs"
import { asPointer, io } from "@ggml-rpc/native/bindings"
import { attempt } from "../../cache/files.ts"
import type { Buffers, SessionBuffer } from "./buffers.ts"

/** Where Linux says whether, and how large, they are. */
const SETTINGS = "/sys/kernel/mm/transparent_hugepage"

/** Larger ones (arm64 with pages of 64 KiB) would take too long at a time. */
const LARGEST_BYTES = 4 * 1024 * 1024

/** Smaller buffers hold little that is read for a token. */
const MIN_BUFFER_BYTES = 16 * 1024 * 1024

/**
 * How much of a client's time it may take that asks for one thing after the other: little of one that may leave soon, more of one that
 * has stayed, which has it back from its next tokens. All of it costs as much at once as bit by bit.
 */
const NEW_PART = 0.05
const NEW_MS = 2000
const LASTING_PART = 0.2

/** How long at a time. */
const LONGEST_MS = 20

/** More is not saved up while graphs run for long: each of the next requests would wait, until it is spent. */
const MOST_UNSPENT_MS = 5 * LONGEST_MS

/** A client that has asked for nothing for so long is not that. */
const IDLE_MS = 2

/** The system is asked again after so long when it has no large page to give: others free memory, too. Each time twice as long. */
const FIRST_PAUSE_MS = 5_000
const LONGEST_PAUSE_MS = 300_000

/** Bytes of a large page; 0 where there are none, or nobody is to have them. Not to be asked from inside the sandbox. */
export const largePageBytes = (): number => {
  const read = (name: string): string =>
    attempt(() => readFileSync(`${SETTINGS}/${name}`, "utf8")) ?? ""
  if (!/\[(always|madvise)\]/.test(read("enabled"))) return 0
  const sizeBytes = Number(read("hpage_pmd_size"))
  return sizeBytes <= LARGEST_BYTES ? sizeBytes : 0
}

/** Who is served. */
export interface Client {
  /** Sends what it waits for. */
  readonly flush: () => void
  /** Whether it asks for nothing for so long. */
  readonly isSilent: (timeoutMs: number) => boolean
}

/** What is to be moved of a buffer. */
interface Rest {
  readonly buffer: SessionBuffer
  /** Native addresses. */
  at: number
  readonly end: number
  /** It could not be moved before. */
  readonly isSecondTry: boolean
}

/** See `io_enlarge_page`. */
type Enlarge = (address: number, pageBytes: number) => number

const enlargePage: Enlarge = (address, pageBytes) =>
  io().io_enlarge_page(asPointer(address), pageBytes)

/** The buffers of one client, as far as they are not in large pages. */
export class LargePages {
  readonly #pageBytes: number
  readonly #nowMs: () => number
  readonly #enlarge: Enlarge
  #rests: Rest[] = []
  /** The buffer that was looked at last. */
  #lastId = 0
  #sinceMs = 0
  #spentMs = 0
  /** How long nothing is moved, and until when, because the system had no large page. */
  #pauseMs = 0
  #pausedUntilMs = 0

  /** `pageBytes`: see `largePageBytes`. */
  constructor(pageBytes: number, nowMs = () => performance.now(), enlarge = enlargePage) {
    this.#pageBytes = pageBytes
    this.#nowMs = nowMs
    this.#enlarge = enlarge
  }

  /** Whether something is to be moved now. */
  get hasWork(): boolean {
    return this.#rests.length > 0 && (this.#pauseMs === 0 || this.#nowMs() >= this.#pausedUntilMs)
  }

  /** To be called when a graph has run: what its buffers hold, they will hold for long. */
  look(buffers: Buffers): void {
    if (this.#pageBytes === 0 || buffers.lastId === this.#lastId) return
    for (const buffer of buffers.all()) {
      if (buffer.id > this.#lastId) this.#add(buffer)
    }
    this.#lastId = buffers.lastId
  }

  #add(buffer: SessionBuffer): void {
    if (!buffer.isOwn || buffer.sizeBytes < MIN_BUFFER_BYTES) return
    const size = this.#pageBytes
    const at = Math.ceil(buffer.nativeBase / size) * size
    const end = Math.floor((buffer.nativeBase + buffer.sizeBytes) / size) * size
    if (at >= end) return
    if (this.#rests.length === 0) {
      this.#sinceMs = this.#nowMs()
      this.#spentMs = 0
    }
    this.#rests.push({ buffer, at, end, isSecondTry: false })
  }

  /** The buffer is about to be freed. */
  drop(buffer: SessionBuffer): void {
    if (this.#rests.length > 0) this.#rests = this.#rests.filter((rest) => rest.buffer !== buffer)
  }

  /** All buffers are gone. */
  clear(): void {
    this.#rests = []
    this.#lastId = 0
    this.#pauseMs = 0
  }

  /** Moves pages for a while, until the client wants something; to be called between two requests. */
  work(client: Client): void {
    client.flush()
    const startedMs = this.#nowMs()
    let patienceMs = IDLE_MS
    while (this.hasWork) {
      if (!this.#isDue(startedMs)) {
        if (!client.isSilent(patienceMs)) return
        patienceMs = 0
      }
      this.#step()
    }
  }

  /** Whether a page may be moved even if the client waits for it. */
  #isDue(startedMs: number): boolean {
    const nowMs = this.#nowMs()
    const allowedMs = partOf(nowMs - this.#sinceMs)
    this.#spentMs = Math.max(this.#spentMs, allowedMs - MOST_UNSPENT_MS)
    return nowMs - startedMs < LONGEST_MS && this.#spentMs < allowedMs
  }

  #step(): void {
    const rest = this.#rests[0]!
    const { buffer, at, end, isSecondTry } = rest
    const startedMs = this.#nowMs()
    const result = this.#enlarge(at, this.#pageBytes)
    this.#spentMs += this.#nowMs() - startedMs
    if (result < 0) {
      this.#pauseMs = Math.min(Math.max(2 * this.#pauseMs, FIRST_PAUSE_MS), LONGEST_PAUSE_MS)
      this.#pausedUntilMs = this.#nowMs() + this.#pauseMs
      // Nothing is saved up in the meantime.
      this.#sinceMs += this.#pauseMs
      return
    }
    this.#pauseMs = 0
    rest.at += this.#pageBytes
    if (result === 0 && !isSecondTry) {
      this.#rests.push({ buffer, at, end: rest.at, isSecondTry: true })
    }
    if (rest.at >= end) this.#rests.shift()
  }
}

/** How much of so much time of a busy client may be spent, in milliseconds. */
const partOf = (elapsedMs: number): number =>
  Math.min(elapsedMs, NEW_MS) * NEW_PART + Math.max(0, elapsedMs - NEW_MS) * LASTING_PART

/**
 * How fast devices multiply, remembered from one start to the next by their servers' names, which these have for as long as they run. A
 * busy device looks slow, so the best of several starts counts, some time apart; then shares of tensors stay the same, and with them the parts that servers
 * keep in their caches. Whatever cannot be read or written is as good as not known; nothing here throws.
 */
import { mkdirSync, readFileSync, renameSync, statSync, unlinkSync, writeFileSync } from "node:fs"
import { dirname, join } from "node:path"
import { userCacheFolder } from "@ggml-rpc/native/bindings"
import type { MeasuredSpeed } from "./deviceSpeed.ts"

export type Speeds = Omit<MeasuredSpeed, "device">

interface Kept extends Speeds {
  /** How often it was measured, without what came too soon after the one before. */
  readonly count: number
  /** When it was for the first time and when it counted last, in milliseconds since 1970. */
  readonly sinceMs: number
  readonly countedMs: number
}

/** The best of so many is believed without measuring, */
const ENOUGH = 3
/** so far apart: a machine is busy for a while, */
const APART_MS = 10 * 60 * 1000
/** for so long: machines get other work. */
const MAX_AGE_MS = 7 * 24 * 3600 * 1000
/** What was measured first goes when there are more devices. */
const MAX_DEVICES = 256
/** A larger file is none of ours. */
const MAX_FILE_BYTES = 256 * 1024

/** `GGML_RPC_DEVICE_SPEEDS`, which is a file, or `none` for nowhere; else `speeds.json` in this user's cache. */
const defaultPath = (): string | undefined => {
  const wanted = process.env.GGML_RPC_DEVICE_SPEEDS
  if (wanted === "none") return undefined
  return wanted || join(userCacheFolder(), "speeds.json")
}

export class KeptSpeeds {
  private readonly path: string | undefined
  private readonly now: () => number

  constructor(path = defaultPath(), now = Date.now) {
    this.path = path
    this.now = now
  }

  /** What needs no measuring. */
  find(key: string): Speeds | undefined {
    const kept = this.read().get(key)
    return kept !== undefined && kept.count >= ENOUGH ? speedsOf(kept) : undefined
  }

  /** Remembers what was measured; the best that is known now. */
  add(key: string, measured: Speeds): Speeds {
    const all = this.read()
    const before = all.get(key)
    const nowMs = this.now()
    const counts = before === undefined || nowMs - before.countedMs >= APART_MS
    const best: Kept = {
      weightBytesPerSecond: Math.max(
        measured.weightBytesPerSecond,
        before?.weightBytesPerSecond ?? 0,
      ),
      multiplicationsPerSecond: Math.max(
        measured.multiplicationsPerSecond,
        before?.multiplicationsPerSecond ?? 0,
      ),
      count: (before?.count ?? 0) + (counts ? 1 : 0),
      sinceMs: before?.sinceMs ?? nowMs,
      countedMs: counts ? nowMs : before.countedMs,
    }
    all.set(key, best)
    this.write(all)
    return speedsOf(best)
  }

  /** Read each time: other programs write it, too. */
  private read(): Map<string, Kept> {
    const { path } = this
    if (path === undefined) return new Map()
    const entries = attempt(() =>
      statSync(path).size > MAX_FILE_BYTES
        ? []
        : Object.entries(JSON.parse(readFileSync(path, "utf8")) as object),
    )
    const isGood = (entry: [string, unknown]): entry is [string, Kept] => this.isGood(entry[1])
    return new Map(entries?.filter(isGood))
  }

  private isGood(value: unknown): boolean {
    const kept: Partial<Kept> = value ?? {}
    const { weightBytesPerSecond, multiplicationsPerSecond, count, sinceMs, countedMs } = kept
    const ageMs = this.now() - (sinceMs ?? Number.NaN)
    return (
      [weightBytesPerSecond, multiplicationsPerSecond, count, countedMs].every(
        (number) => typeof number === "number" && number > 0,
      ) &&
      ageMs >= 0 &&
      ageMs < MAX_AGE_MS
    )
  }

  private write(all: ReadonlyMap<string, Kept>): void {
    const { path } = this
    if (path === undefined) return
    const newest = [...all].sort(([, a], [, b]) => b.sinceMs - a.sinceMs).slice(0, MAX_DEVICES)
    // Whole or not at all: of two that write at the same time one is lost, and measured again.
    const draft = `${path}.${process.pid}`
    try {
      mkdirSync(dirname(path), { recursive: true, mode: 0o700 })
      writeFileSync(draft, JSON.stringify(Object.fromEntries(newest)), { mode: 0o600 })
      renameSync(draft, path)
    } catch {
      attempt(() => unlinkSync(draft))
    }
  }
}

const attempt = <A>(action: () => A): A | undefined => {
  try {
    return action()
  } catch {
    return undefined
  }
}

const speedsOf = ({ weightBytesPerSecond, multiplicationsPerSecond }: Kept): Speeds => ({
  weightBytesPerSecond,
  multiplicationsPerSecond,
})

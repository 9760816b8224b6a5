/**
 * Looks for graphs that the server's checks accept and that ggml's CPU kernels do not survive: valid nodes of every
 * operation, changed in a field, run through the session's own GRAPH_COMPUTE in a child process whose tensors lie between
 * inaccessible pages. A crash, an assertion, a case without an end and a byte that changes outside the result are failures.
 *
 *     bun tests/hostile/opFuzz.ts [--op MUL_MAT,CPY] [--seed N] [--seconds S] [--threads T] [--case N]
 *
 * `--case` runs one case by its number and tells all about it.
 */

import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { parseArgs } from "node:util"
import { mmap } from "bun"
import { type ChildProcess, startProcess } from "../peers/process.ts"
import { layOut } from "./Arena.ts"
import { type CaseSource, Cases } from "./cases.ts"
import { type ChildConfig, type ChildEvent, outcome, progress } from "./childProtocol.ts"
import { type CaseTensor, describeCase, type NodeCase, tensorName } from "./nodeCase.ts"
import { compileTrap } from "./trap.ts"

export interface FuzzOptions {
  readonly seed: number
  /** Operations to try; all when not given. */
  readonly ops?: readonly string[]
  /** Whether there are graphs of several nodes. Default true. */
  readonly graphs?: boolean
  readonly seconds: number
  readonly threadCount: number
  /** Runs nodes that no rule allows, to see that what they do is seen. Default false. */
  readonly isUnchecked?: boolean
  /** Ends after so many cases. */
  readonly caseCount?: number
  /** Only this case. */
  readonly onlyNumber?: number
  /** Called with each failure of a new kind. */
  readonly onFailure?: (failure: Failure) => void
}

/** What went wrong: all cases of an operation whose changed fields are the same and that ended in the same words. */
export interface Failure {
  readonly op: string
  /** What was changed, such as `result.nb[1]`. */
  readonly field: string
  /** ggml's assertion, the signal, or which byte changed. */
  readonly message: string
  /** The first of them: its number, and the case in words. */
  readonly number: number
  readonly description: string
  count: number
}

/** Cases of one operation. */
export interface OpTally {
  readonly tried: number
  readonly refused: number
  readonly ran: number
  /** ggml gave a status that is no success. */
  readonly failedStatus: number
  /** Crashed, hung, or wrote where it must not. */
  readonly broken: number
  /** Not run, as the same operation and field had failed before. */
  readonly skipped: number
}

export interface FuzzReport {
  readonly tallies: ReadonlyMap<string, OpTally>
  readonly failures: readonly Failure[]
  /** Cases that had so much to do that they were ended. */
  readonly slowCount: number
  /** Valid nodes that were not computed: `MUL_MAT: src[0] must be …`. */
  readonly brokenControls: readonly string[]
}

/** A case that takes longer hangs, unless it has much to do. */
const HANG_MS = 10_000

/** Elements of a tensor from which on a case may take any time: a client may ask for that, and is not waited for here. */
const VAST = 2 ** 22
const VAST_MS = 3000

const POLL_MS = 100

/** 128 and SIGKILL. */
const KILLED = 137

/** Failures of an operation and a field after which it is known and not tried again. */
const ENOUGH = 2

const MOST_OPS = 1024

const childScript = join(import.meta.dir, "opFuzz.child.ts")

/** Runs cases until the time is over. */
export const opFuzz = async (options: FuzzOptions): Promise<FuzzReport> => {
  const run = new FuzzRun(options)
  try {
    return await run.finish()
  } finally {
    run.close()
  }
}

class FuzzRun {
  readonly #options: FuzzOptions
  readonly #source: CaseSource
  readonly #cases: Cases
  readonly #folder = mkdtempSync(join(tmpdir(), "ggml-rpc-op-fuzz-"))
  readonly #progressPath = join(this.#folder, "progress")
  readonly #trapPath = join(this.#folder, "trap.so")
  readonly #shared: Float64Array
  readonly #failures = new Map<string, Failure>()
  readonly #skipped = new Map<string, number>()
  readonly #brokenControls: string[] = []
  /** By operation: cases that ended the child. */
  readonly #deaths: number[] = []
  #slowCount = 0
  /** The case at which somebody else ended the child, as the system does when memory is short: it is run again, once. */
  #killedAt = -1
  #addresses: readonly (readonly number[])[] = []

  constructor(options: FuzzOptions) {
    this.#options = options
    const { seed, ops = [], graphs = true } = options
    this.#source = { seed, ops, graphs }
    this.#cases = new Cases(this.#source)
    compileTrap(this.#trapPath)
    const size = progress.counts + MOST_OPS * outcome.count
    writeFileSync(this.#progressPath, new Uint8Array(size * 8))
    this.#shared = new Float64Array(mmap(this.#progressPath, { shared: true }).buffer)
  }

  close(): void {
    rmSync(this.#folder, { recursive: true })
  }

  async finish(): Promise<FuzzReport> {
    const endsAt = Date.now() + this.#options.seconds * 1000
    const { onlyNumber, caseCount = 2 ** 31 } = this.#options
    const endNumber = onlyNumber === undefined ? caseCount : onlyNumber + 1
    let next = onlyNumber ?? 0
    while (next < endNumber && (Date.now() < endsAt || next < this.#cases.controlCount)) {
      next = await this.#runChild(next, endNumber, endsAt)
    }
    return {
      tallies: this.#tallies(),
      failures: [...this.#failures.values()],
      slowCount: this.#slowCount,
      brokenControls: this.#brokenControls,
    }
  }

  /** Returns the number of the case after the last one that the child ran. */
  async #runChild(firstNumber: number, endNumber: number, endsAt: number): Promise<number> {
    const { threadCount, isUnchecked = false } = this.#options
    const config: ChildConfig = {
      ...{ source: this.#source, firstNumber, endNumber, threadCount, isUnchecked },
      ...{ progressPath: this.#progressPath, trapPath: this.#trapPath },
      skipped: [...this.#skipped].flatMap(([key, count]) => (count >= ENOUGH ? [key] : [])),
    }
    this.#shared[progress.number] = -1
    this.#shared[progress.startedMs] = 0
    this.#shared[progress.stop] = 0
    const child = startProcess([process.execPath, childScript, JSON.stringify(config)])
    const killed = await this.#watch(child, endsAt)
    const code = await child.exited
    const number = this.#shared[progress.number]!
    if (number < 0 && code !== 0) throw new Error(`the child did not start:\n${child.stderr()}`)
    this.#read(child.stdout())
    if (killed === "slow") this.#slowCount++
    else if (killed === "hung") this.#died(number, `no end within ${HANG_MS / 1000} s`)
    else if (code === KILLED && number !== this.#killedAt) {
      this.#killedAt = number
      return number
    } else if (code !== 0) this.#died(number, lastWords(child.stderr(), code))
    return number + 1
  }

  /** Waits for the child's end, and tells it when; as what it had to be killed. */
  async #watch(child: ChildProcess, endsAt: number): Promise<"slow" | "hung" | undefined> {
    const { controlCount } = this.#cases
    while (child.isRunning()) {
      await Promise.race([child.exited, Bun.sleep(POLL_MS)])
      const [number, startedMs] = [
        this.#shared[progress.number]!,
        this.#shared[progress.startedMs]!,
      ]
      if (Date.now() > endsAt && number >= controlCount) this.#shared[progress.stop] = 1
      const ranMs = startedMs > 0 ? Date.now() - startedMs : 0
      if (ranMs <= VAST_MS || !child.isRunning()) continue
      const isVast = this.#cases.at(number).tensors.some(hasManyElements)
      if (!isVast && ranMs <= HANG_MS) continue
      child.signal("SIGKILL")
      return isVast ? "slow" : "hung"
    }
    return undefined
  }

  #read(stdout: string): void {
    for (const line of stdout.split("\n")) {
      if (!line.startsWith("{")) continue
      const event = JSON.parse(line) as ChildEvent
      if (event.event === "ready") this.#addresses = event.addresses
      else if (event.event === "refused") {
        this.#brokenControls.push(`${this.#cases.at(event.number).op}: ${event.message}`)
      } else if (event.event === "broken") this.#crashed(event.number, event.words)
      else {
        const nodeCase = this.#cases.at(event.number)
        const where = placeInWords(nodeCase, event.memory, event.offsetBytes)
        this.#fail(event.number, nodeCase, "wrote outside the result", `changed ${where}`)
      }
    }
  }

  /** A case took the child along. */
  #died(number: number, words: string): void {
    const op = this.#cases.opIndex(number)
    this.#deaths[op] = (this.#deaths[op] ?? 0) + 1
    this.#crashed(number, words)
  }

  #crashed(number: number, text: string): void {
    const nodeCase = this.#cases.at(number)
    const words = text.replace(/ggml abort: (?:\S*\/llama\.cpp\/)?/, "")
    const [, signal, address] = words.match(/ggml crash: (\w+) at (?:0x)?([0-9a-f]+|\(nil\))/) ?? []
    if (signal === undefined) this.#fail(number, nodeCase, words, "")
    else
      this.#fail(
        number,
        nodeCase,
        signal,
        this.#locate(nodeCase, Number.parseInt(address!, 16) || 0),
      )
  }

  #fail(number: number, nodeCase: NodeCase, message: string, detail: string): void {
    const field = nodeCase.fields.join(" & ")
    for (const each of nodeCase.fields) {
      if (nodeCase.fields.length > 1) break
      const key = `${nodeCase.op} ${each}`
      this.#skipped.set(key, (this.#skipped.get(key) ?? 0) + 1)
    }
    if (number < this.#cases.controlCount) {
      this.#brokenControls.push(`${nodeCase.op}: ${message} ${detail}`)
    }
    const key = `${nodeCase.op} ${field} ${message}`
    const known = this.#failures.get(key)
    if (known !== undefined) {
      known.count++
      return
    }
    const words = describeCase(nodeCase)
    const description = detail === "" ? words : `${detail}; ${words}`
    const failure = { op: nodeCase.op, field, message, number, description, count: 1 }
    this.#failures.set(key, failure)
    this.#options.onFailure?.(failure)
  }

  /** An address that was touched, from the nearest tensor on. */
  #locate(nodeCase: NodeCase, address: number): string {
    let nearest = "far from all tensors"
    let distance = 2 ** 33
    layOut(nodeCase).forEach((place, memory) => {
      if (place === undefined) return
      const start = this.#addresses[memory]![place.size]! + place.startBytes
      const away = Math.abs(address - start)
      if (away >= distance) return
      distance = away
      nearest = placeInWords(nodeCase, memory, address - start)
    })
    return `touched ${nearest}`
  }

  #tallies(): Map<string, OpTally> {
    const tallies = this.#cases.ops.map((op, index): [string, OpTally] => {
      const at = progress.counts + index * outcome.count
      const of = (which: number): number => this.#shared[at + which]!
      const [refused, ran] = [of(outcome.refused), of(outcome.ran)]
      const failedStatus = of(outcome.failed)
      const broken = of(outcome.broken) + (this.#deaths[index] ?? 0)
      const tried = refused + ran + failedStatus + broken
      return [op, { tried, refused, ran, failedStatus, broken, skipped: of(outcome.skipped) }]
    })
    return new Map(tallies)
  }
}

const hasManyElements = ({ record }: CaseTensor): boolean =>
  record.ne.reduce((count, elements) => count * elements, 1) >= VAST

/** `src[0] 64 bytes behind its end`. */
const placeInWords = (nodeCase: NodeCase, memory: number, offsetBytes: number): string => {
  const { usedBytes } = layOut(nodeCase)[memory]!
  const name = tensorName(nodeCase, memory)
  if (offsetBytes < 0) return `${-offsetBytes} bytes before ${name}`
  if (offsetBytes < usedBytes) return `byte ${offsetBytes} in ${name}`
  return `${offsetBytes - usedBytes} bytes behind the ${usedBytes} of ${name}`
}

const lastWords = (stderr: string, code: number): string => {
  const lines = stderr.trim().split("\n")
  const said = lines.findLast(
    (line) => line.startsWith("ggml abort") || line.startsWith("ggml crash"),
  )
  return said ?? `exit ${code}: ${lines.at(-1)}`
}

// ---- command line ----------------------------------------------------------------------------------

/** A line an operation: cases tried, refused, run, and what failed. */
export const formatTallies = ({ tallies }: FuzzReport): string => {
  const rows = [...tallies].map(([op, { tried, refused, ran, failedStatus, broken, skipped }]) =>
    [op, tried, refused, ran, failedStatus, broken, skipped].map(String),
  )
  const titles = ["operation", "tried", "refused", "run", "status", "FAILED", "skipped"]
  return [titles, ...rows]
    .map(([op, ...numbers]) => op!.padEnd(24) + numbers.map((text) => text.padStart(9)).join(""))
    .join("\n")
}

export const formatFailure = ({
  op,
  field,
  message,
  number,
  description,
  count,
}: Failure): string => `${op} [${field}] ${message} (${count}x, case ${number})\n    ${description}`

const changeCount = ({ field }: Failure): number => field.split(" & ").length

/** By operation, and by what happened: in how many ways, and the cases with the fewest changes. */
export const formatFailures = ({ failures }: FuzzReport): string => {
  const groups = Map.groupBy(failures, ({ op, message }) => `${op}: ${message}`)
  return [...groups]
    .toSorted(([first], [second]) => (first < second ? -1 : 1))
    .map(([title, group]) => {
      const count = group.reduce((sum, failure) => sum + failure.count, 0)
      const fields = [...new Set(group.map(({ field }) => field))].slice(0, 8).join("; ")
      // An assertion is one mistake; a crash may be several.
      const simplest = group
        .toSorted((first, second) => changeCount(first) - changeCount(second))
        .slice(0, /SIG|outside/.test(title) ? 4 : 1)
      const lines = simplest.map(({ number, description }) => `    case ${number}: ${description}`)
      return [`${title} (${count}x: ${fields})`, ...lines].join("\n")
    })
    .join("\n")
}

const main = async (): Promise<number> => {
  const { values } = parseArgs({
    options: {
      op: { type: "string", default: "" },
      seed: { type: "string", default: "1" },
      seconds: { type: "string", default: "60" },
      threads: { type: "string", default: "1" },
      case: { type: "string" },
      "no-graphs": { type: "boolean", default: false },
    },
  })
  const ops = values.op.split(",").filter((op) => op !== "")
  const report = await opFuzz({
    seed: Number(values.seed),
    ops,
    graphs: !values["no-graphs"],
    seconds: Number(values.seconds),
    threadCount: Number(values.threads),
    ...(values.case === undefined ? {} : { onlyNumber: Number(values.case) }),
    onFailure: (failure) => console.error(formatFailure(failure)),
  })
  if (values.case !== undefined) {
    const source = { seed: Number(values.seed), ops, graphs: !values["no-graphs"] }
    console.log(describeCase(new Cases(source).at(Number(values.case))))
  }
  console.log(formatTallies(report))
  console.log(formatFailures(report))
  for (const control of report.brokenControls) console.log(`a valid node fails: ${control}`)
  const broken = report.failures.length + report.brokenControls.length
  console.log(
    `seed ${values.seed}, ${values.threads} threads: ${broken} kinds of failure, ${report.slowCount} cases that would take long`,
  )
  return broken > 0 ? 1 : 0
}

if (import.meta.main) process.exit(await main())

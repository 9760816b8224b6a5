/**
 * A child process that blocks: it runs one synchronous loop, so what it hears and says goes through pipes that it
 * reads and writes by itself (child.ts). Everything here is plain calls: an engine's tokens come this way.
 */
import { existsSync } from "node:fs"
import { join } from "node:path"
import { OutputReader } from "./OutputReader.ts"

/** How a worker ended. */
export interface WorkerExit {
  /** null when a signal ended it. */
  readonly exitCode: number | null
  /** The signal's name, `SIGKILL` for one. */
  readonly signal: string | null
  /** What libraries or the runtime said last, the oldest line first: lines of stderr, and those of stdout that are no messages. */
  readonly lastWords: readonly string[]
}

export interface WorkerListener<Message extends object> {
  /** A message, and the bytes that followed it: see `OutputReader`. */
  readonly onMessage: (message: Message, bytes: Uint8Array) => void
  /** A line on stderr, as it comes. */
  readonly onLine?: (line: string) => void
  /** Once, after the last message. */
  readonly onExit: (exit: WorkerExit) => void
}

export interface WorkerOptions {
  /**
   * What it runs, by the name of its package (`@ggml-rpc/server/session`), not by a path: the caller may be part of
   * somebody's bundle.
   */
  readonly module: string
  /**
   * The caller's `import.meta.dir`: a bundle of the module beside it is used (`workerBundleName`), else the package that is
   * found from there.
   */
  readonly from: string
  readonly args?: readonly string[]
  /** Descriptors that it gets as 3 and up; the caller still owns its own. */
  readonly descriptors?: readonly number[]
  /** `pipe` for a worker that reads what `write` sends. Default: `ignore`. */
  readonly stdin?: "pipe" | "ignore"
  /** A longer message, or one with more bytes behind it, is none. Default: any length. */
  readonly maxMessageBytes?: number
  /** Lines that are kept as last words. */
  readonly lastWordsCount: number
}

/** File name of a worker's bundle beside the bundle that starts it. */
export const workerBundleName = (module: string): string =>
  `${module.replace("@", "").replaceAll("/", "-")}.js`

let ownCommand: ((module: string) => readonly string[]) | undefined

/**
 * How an executable that carries the workers' modules starts itself as one of them: the arguments before those of the
 * worker.
 */
export const startWorkersBy = (command: (module: string) => readonly string[]): void => {
  ownCommand = command
}

/** What follows the runtime on the worker's command line. */
const entryOf = ({ module, from }: WorkerOptions): readonly string[] => {
  if (ownCommand !== undefined) return ownCommand(module)
  const bundled = join(from, workerBundleName(module))
  return [existsSync(bundled) ? bundled : Bun.resolveSync(module, from)]
}

/** A process of the worker's own may hold its pipes open; what the worker said is read in less time. */
const DRAIN_PATIENCE_MS = 1000

/** The parent's end of a worker. */
export class Worker<Message extends object> {
  readonly #child: Bun.Subprocess<"pipe" | "ignore", "pipe", "pipe">
  readonly #listener: WorkerListener<Message>
  readonly #lastWordsCount: number
  readonly #lastWords: string[] = []
  #hasEnded = false
  /** Settles when the process is gone and its exit was told. */
  readonly ended: Promise<void>

  /** @throws {Error} when the system refuses a new process, or there is no such module */
  constructor(options: WorkerOptions, listener: WorkerListener<Message>) {
    const entry = entryOf(options)
    this.#listener = listener
    this.#lastWordsCount = options.lastWordsCount
    this.#child = Bun.spawn([process.execPath, ...entry, ...(options.args ?? [])], {
      stdio: [options.stdin ?? "ignore", "pipe", "pipe", ...(options.descriptors ?? [])],
      // As it is now, CUDA_VISIBLE_DEVICES for one: without this it is as it was at the start.
      env: process.env,
    })
    this.ended = this.#follow(options.maxMessageBytes ?? Number.POSITIVE_INFINITY)
  }

  get pid(): number {
    return this.#child.pid
  }

  /** Sends a line of JSON. To a worker that has just died this does nothing: its exit is told on its own. */
  write(message: object): void {
    const { stdin } = this.#child
    if (stdin === undefined) throw new Error("this worker's stdin is no pipe")
    try {
      stdin.write(`${JSON.stringify(message)}\n`)
      Promise.resolve(stdin.flush()).catch(() => {})
    } catch {
      // See above.
    }
  }

  kill(signal: "SIGTERM" | "SIGINT" | "SIGKILL"): void {
    this.#child.kill(signal)
  }

  async #follow(maxMessageBytes: number): Promise<void> {
    const { stdout, stderr, exited } = this.#child
    const messages = new OutputReader<Message>(
      {
        onMessage: (message, bytes) => {
          if (!this.#hasEnded) this.#listener.onMessage(message, bytes)
        },
        onLine: (line) => this.#keep(line),
      },
      maxMessageBytes,
    )
    const lines = new OutputReader<never>(
      {
        onMessage: () => {},
        onLine: (line) => {
          this.#keep(line)
          if (!this.#hasEnded) this.#listener.onLine?.(line)
        },
      },
      // Nothing on stderr is a message.
      0,
    )
    const drained = Promise.all([readAll(stdout, messages), readAll(stderr, lines)])
    await exited
    await withPatience(drained, DRAIN_PATIENCE_MS)
    this.#hasEnded = true
    const { exitCode, signalCode } = this.#child
    const signal = signalCode === null ? null : String(signalCode)
    this.#listener.onExit({ exitCode, signal, lastWords: this.#lastWords })
  }

  #keep(line: string): void {
    if (line.trim() === "") return
    this.#lastWords.push(line)
    if (this.#lastWords.length > this.#lastWordsCount) this.#lastWords.shift()
  }
}

const readAll = async (
  stream: ReadableStream<Uint8Array>,
  reader: Pick<OutputReader<object>, "push" | "end">,
): Promise<void> => {
  for await (const chunk of stream) reader.push(chunk)
  reader.end()
}

const withPatience = async (work: Promise<unknown>, patienceMs: number): Promise<void> => {
  let timer: ReturnType<typeof setTimeout> | undefined
  const patience = new Promise((resolve) => {
    timer = setTimeout(resolve, patienceMs)
  })
  try {
    await Promise.race([work, patience])
  } finally {
    clearTimeout(timer)
  }
}
